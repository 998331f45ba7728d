import Bytes
import CShim
import System
import Testing

@testable import CDB

/// Writes databases, as a test needs them.
private struct Writer {
  static func little(_ number: Int) -> Bytes { (0..<4).map { UInt8(truncatingIfNeeded: number >> (8 * $0)) } }

  /// The file for these records; `full` makes tables without an empty slot.
  static func file(_ records: [(key: Bytes, value: Bytes)], full: Bool = false) -> Bytes {
    var body = Bytes()
    var tables = [[(hash: UInt32, position: Int)]](repeating: [], count: 256)
    for record in records {
      let hash = CDB.hash(record.key)
      tables[Int(hash % 256)].append((hash, 2048 + body.count))
      body += little(record.key.count) + little(record.value.count) + record.key + record.value
    }
    var header = Bytes()
    for table in tables {
      let count = full ? table.count : table.count * 2
      header += little(2048 + body.count) + little(count)
      var slots = [(hash: UInt32, position: Int)](repeating: (0, 0), count: count)
      for entry in table {
        var slot = Int(entry.hash / 256) % count
        while slots[slot].position != 0 { slot = (slot + 1) % count }
        slots[slot] = entry
      }
      for slot in slots { body += little(Int(slot.hash)) + little(slot.position) }
    }
    return header + body
  }
}

/// A file that is gone at the end of the test.
private final class Scratch {
  let path: Path

  init(_ content: Bytes) throws {
    let name = randomBytes(8).map { 97 + $0 % 26 }
    path = Path(Bytes("/tmp/apus-cdb-") + name)
    let file = try Descriptor.open(path, O_WRONLY | O_CREAT | O_EXCL, mode: 0o600)
    try file.write(content)
  }
  deinit { try? Files.unlink(path) }

  /// What a look-up says: value, nil, or the errno.
  func look(_ key: Bytes) -> Result<Bytes?, SystemError> {
    do throws(SystemError) {
      let database = try CDB(path)
      return .success(try database.value(for: key))
    } catch {
      return .failure(error)
    }
  }
}

private let people: [(key: Bytes, value: Bytes)] = (0..<300).map {
  (Bytes("!user") + Bytes(decimal: $0) + [0], Bytes("value ") + Bytes(decimal: $0 * $0))
}

@Suite struct CDBTests {
  @Test("the hash is the one all cdb programs use")
  func hash() {
    #expect(CDB.hash([]) == 5381)
    #expect(CDB.hash(Bytes("a")) == 177604)
    #expect(CDB.hash(Bytes("example.org")) == 0xe8b7_c339)
  }

  @Test("every key is found and no other", arguments: [false, true])
  func find(full: Bool) throws {
    let file = try Scratch(Writer.file(people + [([], Bytes("-+")), (Bytes("empty"), [])], full: full))
    let database = try CDB(file.path)
    for (key, value) in people { #expect(try database.value(for: key) == value) }
    #expect(try database.value(for: []) == Bytes("-+"))
    #expect(try database.value(for: Bytes("empty")) == [])
    for n in 0..<2000 { #expect(try database.value(for: Bytes("nobody") + Bytes(decimal: n)) == nil) }
  }

  @Test("of several records with one key the first counts")
  func duplicates() throws {
    let same = Bytes("same")
    let file = try Scratch(Writer.file([(same, Bytes("first")), (same, Bytes("second"))]))
    #expect(try file.look(same).get() == Bytes("first"))
  }

  @Test("an empty database has nothing")
  func empty() throws {
    let file = try Scratch(Writer.file([]))
    #expect(try file.look(Bytes("x")).get() == nil)
  }

  @Test("a reader keeps the file it opened")
  func replaced() throws {
    let old = try Scratch(Writer.file([(Bytes("k"), Bytes("old"))]))
    let database = try CDB(old.path)
    let new = try Scratch(Writer.file([(Bytes("k"), Bytes("new"))]))
    try Files.rename(new.path, old.path)
    #expect(try database.value(for: Bytes("k")) == Bytes("old"))
    #expect(try old.look(Bytes("k")).get() == Bytes("new"))
  }

  @Test("a file cut anywhere gives its records, nothing, or EPROTO")
  func truncated() throws {
    let whole = Writer.file(Array(people.prefix(20)))
    for length in stride(from: 0, to: whole.count, by: 7) {
      let file = try Scratch(Bytes(whole.prefix(length)))
      for (key, value) in people.prefix(20) {
        switch file.look(key) {
        case .success(let found): #expect(found == value || found == nil)
        case .failure(let error): #expect(error.code == EPROTO)
        }
      }
      if length < 2048 { expectError(file.path, EPROTO) }
    }
  }

  @Test("bytes changed anywhere never crash or hang a look-up")
  func damaged() throws {
    let whole = Writer.file(Array(people.prefix(12)))
    var random = SystemRandomNumberGenerator()
    for _ in 0..<600 {
      var broken = whole
      for _ in 0..<Int.random(in: 1...40, using: &random) {
        broken[Int.random(in: 0..<broken.count, using: &random)] = [0, 1, 7, 0x7f, 0x80, 0xff].randomElement()!
      }
      let file = try Scratch(broken)
      for (key, _) in people.prefix(12) {
        if case .failure(let error) = file.look(key) { #expect(error.code == EPROTO) }
      }
    }
  }

  @Test("a table or record outside the file is damage", arguments: [0xffff_ffff, 0x7fff_ffff, 1 << 20, 1, 2047])
  func outside(position: Int) throws {
    let key = Bytes("k")
    var file = Writer.file([(key, Bytes("v"))])
    let header = Int(CDB.hash(key) % 256) * 8

    var wrongTable = file
    wrongTable.replaceSubrange(header..<header + 4, with: Writer.little(position))
    expectDamage(wrongTable, key)

    var wrongCount = file
    wrongCount.replaceSubrange(header + 4..<header + 8, with: Writer.little(max(position, 1 << 20)))
    expectDamage(wrongCount, key)

    for field in [2048, 2052] {  // lengths of key and data
      var wrongLength = file
      wrongLength.replaceSubrange(field..<field + 4, with: Writer.little(max(position, 1 << 20)))
      expectDamage(wrongLength, key)
    }

    let slot = file.count - 16 + (Int(CDB.hash(key) / 256) % 2) * 8
    file.replaceSubrange(slot + 4..<slot + 8, with: Writer.little(position))
    expectDamage(file, key)
  }

  private func expectError(_ path: Path, _ code: Int32) {
    do throws(SystemError) {
      _ = try CDB(path)
      Issue.record("opened")
    } catch {
      #expect(error.code == code)
    }
  }

  private func expectDamage(_ content: Bytes, _ key: Bytes) {
    guard let file = try? Scratch(content) else { return #expect(Bool(false)) }
    switch file.look(key) {
    case .success: Issue.record("found something in a damaged file")
    case .failure(let error): #expect(error.code == EPROTO)
    }
  }

  @Test("a huge table without an empty slot ends the search")
  func endless() throws {
    let slots = 1 << 20
    var file = Bytes()
    for _ in 0..<256 { file += Writer.little(2048) + Writer.little(slots) }
    file += Bytes(repeating: 0xff, count: slots * 8)
    expectDamage(file, Bytes("k"))
  }

  @Test("directories and missing files are errors of their own")
  func notAFile() {
    expectError("/tmp", EPROTO)
    expectError("/nonexistent/cdb", ENOENT)
  }
}
