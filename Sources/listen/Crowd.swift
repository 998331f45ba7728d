// Who is connected.

import Bytes

/// A connection that is being served.
struct Connection {
  let peer: Bytes
  /// Monotonic milliseconds.
  let start: Int64
}

/// The connections being served, by process, and how many each address has.
struct Crowd {
  /// Most connections at a time; more wait in the kernel until one ends.
  var limit: Int
  /// Most connections of one address at a time; more are refused. 0: no limit.
  var limitPerAddress: Int

  private var connections: [Int32: Connection] = [:]
  private var counts: [Bytes: Int] = [:]

  init(limit: Int, limitPerAddress: Int) {
    self.limit = limit
    self.limitPerAddress = limitPerAddress
  }

  var count: Int { connections.count }
  var isFull: Bool { connections.count >= limit }

  func hasRoom(for peer: Bytes) -> Bool { limitPerAddress == 0 || counts[peer, default: 0] < limitPerAddress }

  mutating func enter(_ pid: Int32, _ connection: Connection) {
    connections[pid] = connection
    counts[connection.peer, default: 0] += 1
  }

  /// - Returns: nil if the process served no connection.
  mutating func leave(_ pid: Int32) -> Connection? {
    guard let connection = connections.removeValue(forKey: pid) else { return nil }
    let left = counts[connection.peer, default: 1] - 1
    counts[connection.peer] = left == 0 ? nil : left
    return connection
  }
}
