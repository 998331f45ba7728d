// lock/tcpto: which IPv4 addresses did not answer lately (spec queue.md 4.6, smtp.md 12). No I/O.

import Bytes

/// The records of lock/tcpto. The file never grows: there are as many records as it has 16-byte pieces.
public struct TimeoutTable {
  /// Bytes of the file that count; `rspawn` writes as many NULs.
  public static let size = 1024
  private static let recordSize = 16

  /// A change of one record, to be written with one call.
  public struct Change: Equatable {
    public let offset: Int64
    public let record: Bytes
  }

  private struct Record {
    let address: ArraySlice<UInt8>
    let count: UInt8
    /// Seconds since 1970, of the last time-out that counted. Wraps in 2106.
    let time: Int64
  }

  private let file: Bytes

  /// - Parameter file: the contents, as far as there are any.
  public init(_ file: Bytes) { self.file = Bytes(file.prefix(TimeoutTable.size)) }

  private var recordCount: Int { file.count / TimeoutTable.recordSize }

  private func record(_ index: Int) -> Record {
    let start = index * TimeoutTable.recordSize
    var time: Int64 = 0
    for i in (8..<12).reversed() { time = time << 8 | Int64(file[start + i]) }
    return Record(address: file[start..<start + 4], count: file[start + 4], time: time)
  }

  private func index(of address: Bytes) -> Int? {
    (0..<recordCount).first { record($0).address.elementsEqual(address) }
  }

  /// Whether there is a record of the address (four bytes, network order), used or not.
  public func knows(_ address: Bytes) -> Bool { index(of: address) != nil }

  /// Whether the address shall not be tried now. When it is tried again, a little over an hour later, differs from
  /// process to process, so that not all of them try at once.
  public func isBlocked(_ address: Bytes, now: Int64, pid: Int32) -> Bool {
    guard let index = index(of: address) else { return false }
    let record = record(index)
    return record.count >= 2 && now - record.time < Int64(60 + (pid & 31)) * 64
  }

  /// The address answered, or refused at once.
  public func answered(_ address: Bytes) -> Change? {
    guard let index = index(of: address) else { return nil }
    let record = record(index)
    return record.count == 0 ? nil : change(index, address, count: 0, time: record.time)
  }

  /// The address did not answer in time.
  public func timedOut(_ address: Bytes, now: Int64) -> Change? {
    if let index = index(of: address) {
      let record = record(index)
      if record.count > 0 && now < record.time + 120 { return nil }
      return change(index, address, count: min(record.count, 9) + 1, time: now)
    }
    // The first free record, else the one that matters least: few time-outs, long ago.
    var best: (index: Int, weight: Int64)?
    for index in 0..<recordCount {
      let record = record(index)
      let weight = record.count == 0 ? -1 : record.time + Int64(record.count) * 1024
      if weight < best?.weight ?? .max { best = (index, weight) }
    }
    return best.flatMap { change($0.index, address, count: 1, time: now) }
  }

  private func change(_ index: Int, _ address: Bytes, count: UInt8, time: Int64) -> Change {
    var record = address + [count, 0, 0, 0]
    for shift in [0, 8, 16, 24] { record.append(UInt8(truncatingIfNeeded: time >> Int64(shift))) }
    record += [0, 0, 0, 0]
    return Change(offset: Int64(index * TimeoutTable.recordSize), record: record)
  }
}
