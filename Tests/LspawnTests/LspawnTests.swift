import Bytes
import CShim
import System
import Testing

@testable import lspawn

/// A record of users/cdb: the fields without the last NUL.
private func record(_ user: String, dash: String = "", ext: String = "") -> Bytes {
  Bytes([user, "1000", "100", "/home/\(user)", dash, ext].joined(separator: "\0").utf8)
}

private func bytes(_ text: String) -> Bytes { Bytes(text.utf8) }

/// What qmail-newu makes of: =joe, =list-admin, +joe-, +list-:..:-:L-:, +:alias.
private let table: [Bytes: Bytes] = [
  []: bytes("-"),
  bytes("!joe\0"): record("joe"),
  bytes("!list-admin\0"): record("boss"),
  bytes("!joe-"): record("joe", dash: "-"),
  bytes("!joe-friends-"): record("friends", dash: "-", ext: "F-"),
  bytes("!jim"): record("jim", dash: "+"),
  bytes("!"): record("alias", dash: "-"),
]

private func look(_ local: String, in table: [Bytes: Bytes]) -> Result<Assignment?, LookupFault> {
  do throws(LookupFault) {
    return .success(try assignment(of: bytes(local)) { key throws(SystemError) in table[key] })
  } catch {
    return .failure(error)
  }
}

@Suite struct LspawnTests {
  @Test(
    "an exact assignment, else the longest assigned prefix, else the one for all",
    arguments: [
      ("joe", "joe", ""), ("JOE", "joe", ""), ("list-admin", "boss", ""),
      ("joe-x", "joe", "x"), ("Joe-X-y", "joe", "X-y"), ("joe-", "joe", ""),
      ("joe-friends-Ann", "friends", "F-Ann"), ("joe-friends", "joe", "friends"),
      ("list-admin-x", "alias", "list-admin-x"), ("joex", "alias", "joex"), ("j", "alias", "j"), ("-", "alias", "-"),
      ("jim-x", "alias", "jim-x"),  // "m" is no wildcard end in this table
    ])
  func lookup(local: String, user: String, ext: String) throws {
    let found = try #require(try look(local, in: table).get())
    #expect(found.user == bytes(user))
    #expect(found.ext == bytes(ext))
    #expect(found.uid == 1000 && found.gid == 100 && found.home == bytes("/home/\(user)"))
  }

  @Test("an address that nothing assigns is for getpw")
  func unassigned() throws {
    var table = table
    table[bytes("!")] = nil
    #expect(try look("jack", in: table).get() == nil)
    #expect(try look("joe-x", in: table).get() != nil)
  }

  @Test("a table without its record of wildcards is damaged")
  func noWildcards() {
    #expect(throws: LookupFault.damaged) { try look("joe", in: [bytes("!joe\0"): record("joe")]).get() }
  }

  @Test(
    "records without six fields or with strange ids are damaged",
    arguments: [
      "", "joe", "joe\u{0}1\u{0}1\u{0}/home/joe\u{0}", "joe\0x\0001\0/home\0-\0", "joe\0001\0-1\0/home\0-\0",
      "joe\099999999999\0001\0/home\0-\0",
    ])
  func damaged(text: String) {
    #expect(throws: LookupFault.damaged) { try look("joe", in: [[]: [], bytes("!joe\0"): bytes(text)]).get() }
  }

  @Test("a table that cannot be read is no answer")
  func unreadable() {
    #expect(throws: LookupFault.unreadable) {
      try assignment(of: bytes("joe")) { _ throws(SystemError) in throw SystemError("pread", code: EIO) }
    }
  }

  @Test(
    "the report follows from the exit status",
    arguments: [
      (0, "Kout"), (100, "Dout"), (111, "Zout"), (71, "Zout"), (74, "Zout"), (75, "Zout"), (1, "Dout"), (99, "Dout"),
      (112, "ZInternal qmail-lspawn bug.\n"), (113, "ZNot allowed to perform deliveries as root.\n"),
      (115, "ZNFS failure in qmail-local.\n"), (116, "ZUnable to find alias user!\n"),
      (117, "ZTrouble reading users/cdb in qmail-lspawn.\n"), (118, "ZTemporary failure in qmail-lspawn.\n"),
      (119, "ZOut of memory in qmail-lspawn.\n"), (120, "ZUnable to run qmail-local.\n"),
      (121, "ZUnable to run qmail-getpw.\n"), (126, "DUnable to run qmail-local.\n"), (114, "Dout"), (255, "Dout"),
    ])
  func reports(code: Int32, text: String) {
    let policy = LocalDelivery(defaultDelivery: [])
    #expect(policy.report(status: .exited(code), output: bytes("out\0more")) == bytes(text))
  }

  @Test("a crash defers")
  func crash() {
    let policy = LocalDelivery(defaultDelivery: [])
    #expect(policy.report(status: .signalled(11), output: bytes("x")) == bytes("Zqmail-local crashed.\n"))
  }
}
