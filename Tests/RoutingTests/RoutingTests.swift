import Bytes
import Control
import Testing

@testable import Routing

@Suite struct RoutingTests {
  static let routing = Routing(
    locals: ["here.example", "MX.example"].map { Bytes($0.utf8) },
    virtualDomains: [
      "virt.example:joe", ".sub.example:sub", "one@virt.example:special", "out.virt.example:", "no-colon",
      "wild.example:first", "wild.example:second",
    ].map { Bytes($0.utf8) },
    percentHack: ["here.example", "hop.example"].map { Bytes($0.utf8) }, envNoAtHost: Bytes("mx.example"))

  @Test(
    "routes",
    arguments: [
      ("you@here.example", "L", "you@here.example"),
      ("You@HERE.example", "L", "You@HERE.example"),
      ("bare", "L", "bare@mx.example"),
      ("a@b@here.example", "L", "a@b@here.example"),
      ("x@virt.example", "L", "joe-x@virt.example"),
      ("ONE@VIRT.example", "L", "special-ONE@VIRT.example"),
      ("x@a.sub.example", "L", "sub-x@a.sub.example"),
      ("x@sub.example", "R", "x@sub.example"),
      ("x@out.virt.example", "R", "x@out.virt.example"),
      ("x@wild.example", "L", "second-x@wild.example"),
      ("u%far.example@here.example", "R", "u@far.example"),
      ("u%virt.example%hop.example@here.example", "L", "joe-u@virt.example"),
      ("%@here.example", "R", "@"),
      ("@here.example", "L", "@here.example"),
      ("x@else.example", "R", "x@else.example"),
      ("x@", "R", "x@"),
    ])
  func route(address: String, channel: String, stored: String) {
    let expected: Route = channel == "L" ? .local(Bytes(stored.utf8)) : .remote(Bytes(stored.utf8))
    #expect(Self.routing.route(Bytes(address.utf8)) == expected)
  }

  @Test("an empty key stands for every domain, and a whole-domain exception beats it")
  func wildcard() {
    let routing = Routing(locals: [], virtualDomains: [":all", "far.example:"].map { Bytes($0.utf8) })
    #expect(routing.route(Bytes("x@any.example")) == .local(Bytes("all-x@any.example")))
    #expect(routing.route(Bytes("x@far.example")) == .remote(Bytes("x@far.example")))
  }

  @Test("the prefix is taken back in notices, except for keys of a single user")
  func prefix() {
    #expect(Self.routing.withoutVirtualPrefix(Bytes("joe-x@virt.example")) == Bytes("x@virt.example"))
    #expect(Self.routing.withoutVirtualPrefix(Bytes("special-one@virt.example")) == Bytes("special-one@virt.example"))
    #expect(Self.routing.withoutVirtualPrefix(Bytes("joe-x@here.example")) == Bytes("joe-x@here.example"))
    #expect(Self.routing.withoutVirtualPrefix(Bytes("bare")) == Bytes("bare"))
  }
}
