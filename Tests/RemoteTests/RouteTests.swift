import Bytes
import Control
import Testing

@testable import remote

@Suite struct RouteTests {
  private func route(_ host: String, _ lines: [String]) throws(Route.Fault) -> Route {
    try Route(to: Bytes(host.utf8), routes: ControlMap(lines.map { Bytes($0.utf8) }))
  }

  private let table = [
    "example.org:relay.test", ".example.org:sub.test:2525", ".deep.example.org:", "v6.test:[2001:db8::1]:26",
    "v4.test:[192.0.2.1]", "Upper.Test:relay.test:26 user password", ":",
  ]

  @Test(
    "the domain, then its parents with a dot, then the empty key",
    arguments: [
      ("example.org", Route.relay(Bytes("relay.test"), port: 25)),
      ("EXAMPLE.org", .relay(Bytes("relay.test"), port: 25)),
      ("a.example.org", .relay(Bytes("sub.test"), port: 2525)),
      ("a.b.example.org", .relay(Bytes("sub.test"), port: 2525)),
      ("a.deep.example.org", .mailExchangers),
      ("deep.example.org", .relay(Bytes("sub.test"), port: 2525)),
      ("v6.test", .relay(Bytes("[2001:db8::1]"), port: 26)),
      ("v4.test", .relay(Bytes("[192.0.2.1]"), port: 25)),
      ("upper.test", .relay(Bytes("relay.test"), port: 26)),
      ("other.test", .mailExchangers),
    ])
  func lookup(host: String, expected: Route) throws {
    #expect(try route(host, table) == expected)
  }

  @Test("a smart host for all, and none without an entry")
  func smartHost() throws {
    #expect(try route("any.test", [":smart.test"]) == .relay(Bytes("smart.test"), port: 25))
    #expect(try route("any.test", [":smart.test:"]) == .relay(Bytes("smart.test"), port: 25))
    #expect(try route("any.test", []) == .mailExchangers)
  }

  @Test(
    "entries that name no relay", arguments: ["::25", ":r:0", ":r:65536", ":r:x", ":[::1", ":r:99999999999999999999"])
  func faults(line: String) {
    #expect(throws: Route.Fault.self) { try route("any.test", [line]) }
  }

  @Test(
    "hosts that are addresses",
    arguments: [
      ("192.0.2.1", "192.0.2.1"), ("[192.0.2.1]", "192.0.2.1"), ("[2001:db8::1]", "2001:db8::1"),
      ("[IPv6:2001:db8::1]", "2001:db8::1"), ("2001:db8::1", nil), ("192.0.2", nil), ("[]", nil), ("[", nil),
      ("[192.0.2.1", nil), ("1.2.3.4.5", nil), ("name.test", nil), ("", nil),
    ] as [(String, String?)])
  func literals(host: String, address: String?) {
    #expect(literalAddress(Bytes(host.utf8)) == address.map { Bytes($0.utf8) })
  }

  @Test(
    "name servers",
    arguments: [
      ("127.0.0.1", "127.0.0.1", 53), ("127.0.0.1:5353", "127.0.0.1", 5353), ("::1", "::1", 53), ("[::1]", "::1", 53),
      ("[::1]:5353", "::1", 5353), ("localhost", nil, 0), ("127.0.0.1:0", nil, 0), ("127.0.0.1:65536", nil, 0),
      ("127.0.0.1:x", nil, 0), ("[::1]:", nil, 0), ("", nil, 0), (":53", nil, 0),
    ] as [(String, String?, UInt32)])
  func nameServers(entry: String, address: String?, port: UInt32) {
    let server = nameServer(Bytes(entry.utf8))
    #expect(server?.address == address.map { Bytes($0.utf8) })
    #expect(server == nil || server?.port == port)
  }
}
