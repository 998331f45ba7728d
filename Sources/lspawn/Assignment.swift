// Which account a local address belongs to, and with which extension (spec pipes.md 4.1 to 4.3).

import Bytes
import System

/// An account as local is told about it.
struct Assignment: Equatable {
  var user: Bytes
  var uid: UInt32
  var gid: UInt32
  var home: Bytes
  var dash: Bytes
  var ext: Bytes

  /// - Parameter record: user, uid, gid, home, dash, ext, each ended by NUL; more is ignored.
  /// - Returns: nil if fields are missing or an id is none.
  init?(_ record: Bytes) {
    let fields = record.split(separator: 0, maxSplits: 6, omittingEmptySubsequences: false)
    guard fields.count == 7,  // six, and what follows the last NUL
      let uid = fields[1].decimal.flatMap({ UInt32(exactly: $0) }),
      let gid = fields[2].decimal.flatMap({ UInt32(exactly: $0) })
    else { return nil }
    user = Bytes(fields[0])
    self.uid = uid
    self.gid = gid
    home = Bytes(fields[3])
    dash = Bytes(fields[4])
    ext = Bytes(fields[5])
  }
}

/// Why the table of assignments gave no answer.
enum LookupFault: Error {
  case unreadable
  /// A record that makes no sense, or none of those that every table has.
  case damaged
}

/// Looks an address up in the table of assignments, users/cdb.
///
/// An exact assignment comes first; then the longest prefix that is assigned, whose extension goes on with the rest of
/// the address.
/// - Parameters:
///   - local: a local-part, not empty.
///   - value: reads the table.
/// - Returns: nil if the table does not assign it.
func assignment(
  of local: Bytes, in value: (Bytes) throws(SystemError) -> Bytes?
) throws(LookupFault) -> Assignment? {
  // The reader adds the final NUL of a record.
  func look(_ key: Bytes, rest: ArraySlice<UInt8>) throws(LookupFault) -> Assignment? {
    let record: Bytes?
    do throws(SystemError) { record = try value(key) } catch { throw .unreadable }
    guard let record else { return nil }
    guard let found = Assignment(record + rest + [0]) else { throw .damaged }
    return found
  }

  let wildcardEnds: Bytes?
  do throws(SystemError) { wildcardEnds = try value([]) } catch { throw .unreadable }
  guard let wildcardEnds else { throw .damaged }

  let key = Bytes("!") + local.lowercased
  if let found = try look(key + [0], rest: []) { return found }
  for length in stride(from: key.count, through: 1, by: -1)
  where length == 1 || wildcardEnds.contains(key[length - 1]) {
    if let found = try look(Bytes(key[..<length]), rest: local[(length - 1)...]) { return found }
  }
  return nil
}
