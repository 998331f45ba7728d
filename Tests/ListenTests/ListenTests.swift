import Bytes
import Testing

@testable import listen

@Suite struct PlaceTests {
  @Test(
    "a place is a service, an address and a port",
    arguments: [
      ("smtp 127.0.0.1:2525", "127.0.0.1", 2525), ("smtp\t 0.0.0.0:25", "0.0.0.0", 25),
      ("smtp [::1]:65535", "::1", 65535),
      ("smtp [::]:1", "::", 1),
    ] as [(StaticString, StaticString, UInt32)])
  func good(line: StaticString, address: StaticString, port: UInt32) throws {
    let place = try Place(Bytes(line))
    #expect(place.address == Bytes(address))
    #expect(place.port == port)
    #expect(place.service == .smtp)
  }

  @Test(
    "anything else is refused with its reason",
    arguments: [
      ("submission 127.0.0.1:587", "this service needs tlsd, which is not there"),
      ("submissions 127.0.0.1:465", "this service needs tlsd, which is not there"),
      ("imap 127.0.0.1:143", "no such service"), ("smtp", "not NAME ADDRESS:PORT"),
      ("smtp 127.0.0.1", "not NAME ADDRESS:PORT"), ("smtp 127.0.0.1:", "not NAME ADDRESS:PORT"),
      ("smtp 127.0.0.1:0", "not NAME ADDRESS:PORT"), ("smtp 127.0.0.1:65536", "not NAME ADDRESS:PORT"),
      ("smtp ::1:25", "not NAME ADDRESS:PORT"), ("smtp [127.0.0.1]:25", "not NAME ADDRESS:PORT"),
      ("smtp localhost:25", "not NAME ADDRESS:PORT"), ("smtp 127.0.0.1:25 x", "not NAME ADDRESS:PORT"),
      ("smtp []:25", "not NAME ADDRESS:PORT"), ("smtp :25", "not NAME ADDRESS:PORT"),
      ("smtp 127.0.0.1:25x", "not NAME ADDRESS:PORT"), ("smtp 127.0.0.1:99999999999999999999", "not NAME ADDRESS:PORT"),
    ] as [(StaticString, StaticString)])
  func bad(line: StaticString, reason: StaticString) {
    do throws(Place.Fault) {
      _ = try Place(Bytes(line))
      Issue.record("accepted")
    } catch {
      #expect(Bytes(error.text) == Bytes(reason))
    }
  }
}

@Suite struct HandedDownTests {
  private func sockets(_ fds: StaticString?, _ pid: StaticString?, _ names: StaticString?) -> [(
    number: Int32, name: Bytes?
  )] {
    HandedDown.sockets(
      fds: fds.map { Bytes($0) }, pid: pid.map { Bytes($0) }, names: names.map { Bytes($0) }, process: 77)
  }

  @Test("descriptors from 3 on, with their names as far as there are any")
  func given() {
    let both = sockets("2", "77", "smtp")
    #expect(both.map(\.number) == [3, 4])
    #expect(both.map(\.name) == [Bytes("smtp"), nil])
    #expect(sockets("2", "77", ":b").map(\.name) == [[], Bytes("b")])
    #expect(sockets("1", "77", nil).map(\.name) == [nil])
  }

  @Test("nothing, if it is for another process or no number")
  func notOurs() {
    for (fds, pid) in [("1", "78"), ("1", nil), (nil, "77"), ("x", "77"), ("0", "77"), ("65", "77"), ("1", "7x")]
      as [(StaticString?, StaticString?)]
    {
      #expect(sockets(fds, pid, nil).isEmpty)
    }
  }
}

@Suite struct RulesTests {
  private func rules(_ lines: StaticString...) throws(Rules.Fault) -> Rules { try Rules(lines.map { Bytes($0) }) }

  private func text(_ rule: Rules.Rule) -> String {
    let variables = rule.variables.map {
      "," + String(decoding: $0.name, as: UTF8.self) + "=" + String(decoding: $0.value, as: UTF8.self)
    }
    return (rule.allows ? "allow" : "deny") + variables.joined()
  }

  @Test(
    "the whole address wins, then its longest front, then the rule for everybody",
    arguments: [
      ("127.0.0.1", "allow,RELAYCLIENT="), ("127.0.0.9", "deny"), ("127.1.2.3", "allow,A=1,B=x\"y"),
      ("12.0.0.1", "allow,D=0"), ("10.0.0.1", "allow,R=1"), ("10.0.0.5", "allow,R=1"), ("10.0.0.6", "allow,D=0"),
      ("10.0.0.0", "allow,D=0"), ("10.2.3.4", "allow,S=1"), ("10.4.3.4", "allow,D=0"), ("2001:db8::1", "allow,V6=1"),
      ("2001:db8:1::7", "allow,V6=net"), ("::1", "deny"), ("fe80::1", "allow,D=0"),
    ] as [(StaticString, String)])
  func lookup(peer: StaticString, expected: String) throws {
    let table = try rules(
      "127.0.0.1:allow,RELAYCLIENT=\"\"", "127.0.0.:deny", "127.:allow,A=\"1\",B=/x\"y/", "10.0.0.1-5:allow,R=\"1\"",
      "10.1-3.:allow,S=\"1\"", "2001:db8::1:allow,V6=\"1\"", "2001:db8:1::allow,V6=\"net\"", "::1:deny",
      ":allow,D=\"0\"",
      "127.0.0.1:deny")
    #expect(text(table.rule(for: Bytes(peer))) == expected)
  }

  @Test("without a rule that fits everybody may connect")
  func silent() throws {
    #expect(text(try rules("10.:deny").rule(for: Bytes("1.2.3.4"))) == "allow")
    #expect(text(Rules().rule(for: Bytes("1.2.3.4"))) == "allow")
    #expect(text(try rules(":deny").rule(for: Bytes("1.2.3.4"))) == "deny")
  }

  @Test("rules for names and users are kept aside, as are addresses that are none")
  func idle() throws {
    let table = try rules("=.example.org:allow", "=:allow", "joe@10.0.0.1:deny", "127:allow", "10.0.0.1:allow", ":deny")
    #expect(
      table.idle.map { String(decoding: $0, as: UTF8.self) } == [
        "=.example.org:allow", "=:allow", "joe@10.0.0.1:deny", "127:allow",
      ])
    #expect(text(table.rule(for: Bytes("10.0.0.2"))) == "deny")
  }

  @Test(
    "a line that cannot be understood makes the file bad",
    arguments: [
      "10.0.0.1", "10.0.0.1:", "10.0.0.1:allowed", "10.0.0.1:allow,", "10.0.0.1:allow,X", "10.0.0.1:allow,X=",
      "10.0.0.1:allow,X=\"1", "10.0.0.1:allow,X=\"1\"Y", "10.0.0.1:allow,=\"1\"", "10.0.0.5-1:allow",
      "10.0.0.1-256:allow",
      "10.0.0.a-5:allow", "10.0.0.1-:allow", "10.1-2-3:allow", "10.0.0.1:denyX",
    ] as [StaticString])
  func bad(line: StaticString) {
    #expect(throws: Rules.Fault.self) { try rules(line) }
  }

  @Test("a hostile number of ranges has an end")
  func budget() {
    let lines = (0..<4000).map { Bytes("\($0 % 256).\($0 / 256).0-255.:deny".utf8) }
    #expect(throws: Rules.Fault.self) { try Rules(lines) }
  }
}

@Suite struct CrowdTests {
  @Test("the house is full at its limit, an address at its own")
  func limits() {
    var crowd = Crowd(limit: 3, limitPerAddress: 2)
    let a = Bytes("192.0.2.1")
    let b = Bytes("192.0.2.2")
    crowd.enter(1, Connection(peer: a, start: 0))
    crowd.enter(2, Connection(peer: a, start: 0))
    #expect(!crowd.hasRoom(for: a))
    #expect(crowd.hasRoom(for: b))
    crowd.enter(3, Connection(peer: b, start: 0))
    #expect(crowd.isFull)
    #expect(crowd.leave(1)?.peer == a)
    #expect(crowd.leave(1) == nil)
    #expect(!crowd.isFull)
    #expect(crowd.hasRoom(for: a))
    #expect(crowd.count == 2)
  }

  @Test("no limit for an address is no limit; no room at all is none for anybody")
  func extremes() {
    var crowd = Crowd(limit: 0, limitPerAddress: 0)
    #expect(crowd.isFull)
    for pid in 1...99 { crowd.enter(Int32(pid), Connection(peer: [], start: 0)) }
    #expect(crowd.hasRoom(for: []))
  }
}
