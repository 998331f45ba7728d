import Bytes
import Testing

@testable import remote

/// Answers from a table `name/type`; what is not there does not exist.
private struct FakeNames: NameService {
  var zone: [String: [Record]] = [:]
  /// Questions that nobody can answer now.
  var soft: Set<String> = []

  func records(_ name: DomainName, _ type: RecordType) throws(LookupFailure) -> [Record] {
    var labels: [String] = []
    var rest = name.wire[...]
    while let length = rest.popFirst(), length > 0 {
      labels.append(String(decoding: rest.prefix(Int(length)), as: UTF8.self))
      rest = rest.dropFirst(Int(length))
    }
    let key = labels.joined(separator: ".") + "/\(type)"
    if soft.contains(key) { throw .soft }
    guard let records = zone[key] else { throw .hard }
    return records
  }
}

private func mx(_ preference: Int, _ name: String) -> Record {
  .exchanger(name.isEmpty ? .root : DomainName(Bytes(name.utf8))!, preference: preference)
}

private func ip(_ bytes: UInt8...) -> Record { .address(bytes) }

private let v6 = Record.address([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])

/// `address/preference`, for short.
private func targets(
  _ host: String, _ names: FakeNames, shuffle: @escaping ([DomainName]) -> [DomainName] = { $0 }
) throws(RoutingFailure) -> [String] {
  let exchangers = MailExchangers(names: names, shuffle: shuffle)
  return try exchangers.targets(ofDomain: Bytes(host.utf8)).map {
    "\(String(decoding: $0.address, as: UTF8.self))/\($0.preference)"
  }
}

@Suite struct MailExchangersTests {
  @Test("by preference, whatever the answer's order; both families, IPv4 first")
  func preference() throws {
    let names = FakeNames(zone: [
      "d/mx": [mx(20, "b"), mx(10, "a"), mx(20, "c")],
      "a/a": [ip(192, 0, 2, 1), ip(192, 0, 2, 2)], "a/aaaa": [v6], "b/aaaa": [v6], "c/a": [ip(192, 0, 2, 3)],
    ])
    #expect(
      try targets("d", names) == [
        "192.0.2.1/10", "192.0.2.2/10", "2001:db8::1/10", "2001:db8::1/20", "192.0.2.3/20",
      ])
    #expect(try targets("d", names, shuffle: { $0.reversed() })[3] == "192.0.2.3/20")
  }

  @Test("without MX records the host's own addresses")
  func noExchangers() throws {
    let names = FakeNames(zone: ["d/a": [ip(192, 0, 2, 1)], "d/aaaa": [v6]])
    #expect(try targets("d", names) == ["192.0.2.1/0", "2001:db8::1/0"])
    #expect(throws: RoutingFailure.noHost) { try targets("e", names) }
    #expect(throws: RoutingFailure.noHost) { try targets("a..b", names) }
    #expect(throws: RoutingFailure.temporary) {
      try targets("e", FakeNames(zone: names.zone, soft: ["e/aaaa"]))
    }
  }

  @Test("addresses need no name service")
  func literal() throws {
    #expect(try targets("192.0.2.9", FakeNames()) == ["192.0.2.9/0"])
    #expect(try targets("[2001:db8::9]", FakeNames()) == ["2001:db8::9/0"])
  }

  @Test("what nobody can tell is temporary only if nothing else is known")
  func soft() throws {
    var names = FakeNames(zone: ["d/mx": [mx(10, "a"), mx(20, "b")], "b/a": [ip(192, 0, 2, 1)]], soft: ["a/a"])
    #expect(try targets("d", names) == ["192.0.2.1/20"])
    names.zone["b/a"] = nil
    #expect(throws: RoutingFailure.temporary) { try targets("d", names) }
    names.soft = []
    #expect(throws: RoutingFailure.noExchanger) { try targets("d", names) }
    names.soft = ["d/mx"]
    #expect(throws: RoutingFailure.temporary) { try targets("d", names) }
  }

  @Test("a null MX takes no mail; beside others it is ignored")
  func null() throws {
    var names = FakeNames(zone: ["d/mx": [mx(0, "")], "d/a": [ip(192, 0, 2, 1)]])
    #expect(throws: RoutingFailure.nullExchanger) { try targets("d", names) }
    names.zone["d/mx"] = [mx(0, ""), mx(10, "d")]
    #expect(try targets("d", names) == ["192.0.2.1/10"])
  }

  @Test("a domain with thousands of exchangers costs a bounded number of questions and addresses")
  func budget() throws {
    var names = FakeNames()
    names.zone["d/mx"] = (0..<5000).map { mx($0, "x") }
    names.zone["x/a"] = [ip(192, 0, 2, 1)]
    #expect(try targets("d", names).count == 50)
    names.zone["x/a"] = (0..<3000).map { ip(10, 0, UInt8($0 >> 8), UInt8($0 & 255)) }
    #expect(try targets("d", names).count <= RoutingLimits.targets)
  }

  @Test("every order of equals comes up, and each name once")
  func shuffling() {
    let names = (0..<3).map { DomainName(Bytes("n\($0)".utf8))! }
    var orders: Set<[DomainName]> = []
    for _ in 0..<500 {
      let order = shuffled(names)
      #expect(Set(order) == Set(names))
      orders.insert(order)
    }
    #expect(orders.count == 6)
    #expect(shuffled([]) == [])
  }

  @Test(
    "only what is better than our own best",
    arguments: [
      (["a/10", "b/20"], [], ["a/10", "b/20"]),
      (["a/10", "b/20", "c/30"], ["b"], ["a/10"]),
      (["a/10", "b/20", "c/20"], ["b"], ["a/10"]),
      (["a/10", "b/10"], ["b"], nil),
      (["a/10"], ["a"], nil),
      (["a/10", "b/20", "a/30"], ["a"], nil),
      (["a/10", "b/20", "b/30"], ["b"], ["a/10"]),
    ] as [([String], [String], [String]?)])
  func ownAddresses(all: [String], own: [String], expected: [String]?) throws {
    func parse(_ text: String) -> Target {
      let parts = text.split(separator: "/")
      return Target(address: Bytes(parts[0].utf8), preference: Int(parts[1])!)
    }
    let isOwn: (Bytes) -> Bool = { own.map { Bytes($0.utf8) }.contains($0) }
    if let expected {
      #expect(try withoutOwn(all.map(parse), isOwn: isOwn) == expected.map(parse))
    } else {
      #expect(throws: RoutingFailure.listedButNotLocal) { try withoutOwn(all.map(parse), isOwn: isOwn) }
    }
  }

  @Test(
    "IPv6 addresses as RFC 5952 writes them",
    arguments: [
      ([0x2001, 0xdb8, 0, 0, 1, 0, 0, 1], "2001:db8::1:0:0:1"),
      ([0, 0, 0, 0, 0, 0, 0, 0], "::"),
      ([0, 0, 0, 0, 0, 0, 0, 1], "::1"),
      ([1, 0, 0, 0, 0, 0, 0, 0], "1::"),
      ([1, 0, 2, 0, 3, 0, 4, 0], "1:0:2:0:3:0:4:0"),
      ([0xfe80, 0, 0, 0, 1, 0, 0, 0], "fe80::1:0:0:0"),
      ([0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0201], "192.0.2.1"),
    ] as [([UInt16], String)])
  func addresses(groups: [UInt16], text: String) {
    #expect(addressText(groups.flatMap { [UInt8($0 >> 8), UInt8($0 & 255)] }) == Bytes(text.utf8))
  }
}
