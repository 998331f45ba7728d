// CDB: looking a key up in a constant database (spec programs.md 8).
//
// For whoever reads a compiled table: lspawn (users/cdb), smtpd (control/morercpthosts.cdb). The file may be damaged or
// written by somebody who means harm: every position is checked against the size of the file, every search has an end.

import Bytes
import CShim
import System

/// An open constant database. Replacing the file does not disturb a reader that has the old one open.
public struct CDB: ~Copyable {
  /// Longest value that is read, in bytes; longer ones count as damage.
  public static let longestValue: UInt64 = 16 << 20
  /// Slots looked at for one key. Writers fill half of a table, so that runs of full slots are short.
  static let longestSearch = 65536

  private static let headerSize: UInt64 = 2048

  private let file: Descriptor
  private let size: UInt64

  /// Opens the database at `path`.
  /// - Throws: ``SystemError`` for open(2) or fstat(2); EPROTO if this is no regular file or one without a header.
  public init(_ path: Path) throws(SystemError) {
    let file = try Descriptor.open(path, O_RDONLY | O_NONBLOCK)
    let status = try file.status()
    guard status.isRegularFile, status.size >= Int64(CDB.headerSize) else { throw CDB.damage }
    self.file = file
    size = UInt64(status.size)
  }

  /// The data of the first record with this key.
  /// - Returns: nil if there is none.
  /// - Throws: ``SystemError`` for pread(2); EPROTO if the file contradicts itself.
  public func value(for key: Bytes) throws(SystemError) -> Bytes? {
    let hash = CDB.hash(key)
    let (table, slots) = try pair(at: UInt64(hash % 256) * 8)
    guard slots > 0 else { return nil }
    guard table >= CDB.headerSize, fits(table, slots * 8) else { throw CDB.damage }

    var slot = UInt64(hash / 256) % slots
    for _ in 0..<min(slots, UInt64(CDB.longestSearch)) {
      let (recordHash, position) = try pair(at: table + slot * 8)
      if position == 0 { return nil }
      if recordHash == UInt64(hash), let value = try value(for: key, inRecordAt: position) { return value }
      slot = slot + 1 == slots ? 0 : slot + 1
    }
    // A table without an empty slot holds all its keys; a run this long is damage.
    guard slots <= UInt64(CDB.longestSearch) else { throw CDB.damage }
    return nil
  }

  /// The data of a record, if it has this key.
  private func value(for key: Bytes, inRecordAt position: UInt64) throws(SystemError) -> Bytes? {
    guard position >= CDB.headerSize, fits(position, 8) else { throw CDB.damage }
    let (keyLength, dataLength) = try pair(at: position)
    guard fits(position + 8, keyLength + dataLength) else { throw CDB.damage }
    guard keyLength == UInt64(key.count), try bytes(at: position + 8, count: key.count) == key else { return nil }
    guard dataLength <= CDB.longestValue else { throw CDB.damage }
    return try bytes(at: position + 8 + keyLength, count: Int(dataLength))
  }

  /// Whether `count` bytes at `position` lie inside the file. Neither exceeds 36 bits.
  private func fits(_ position: UInt64, _ count: UInt64) -> Bool { position + count <= size }

  private func pair(at position: UInt64) throws(SystemError) -> (UInt64, UInt64) {
    let raw = try bytes(at: position, count: 8)
    return (CDB.number(raw[0..<4]), CDB.number(raw[4..<8]))
  }

  private func bytes(at position: UInt64, count: Int) throws(SystemError) -> Bytes {
    guard count > 0 else { return [] }
    let found = try file.read(at: Int64(position), limit: count)
    // Somebody cut the file while we read it.
    guard found.count == count else { throw CDB.damage }
    return found
  }

  private static func number(_ littleEndian: ArraySlice<UInt8>) -> UInt64 {
    var value: UInt64 = 0
    for byte in littleEndian.reversed() { value = value << 8 | UInt64(byte) }
    return value
  }

  static func hash(_ key: Bytes) -> UInt32 {
    var hash: UInt32 = 5381
    for byte in key { hash = (hash &* 33) ^ UInt32(byte) }
    return hash
  }

  private static var damage: SystemError { SystemError("cdb", code: EPROTO) }
}
