import Bytes
import SMTP
import Testing

@Suite struct PathArgumentTests {
  private func parse(_ text: Bytes) throws(PathArgument.Fault) -> PathArgument { try PathArgument(text[...]) }

  @Test(
    "the address is found and unquoted",
    arguments: [
      ("FROM:<a@b>", "a@b", []), ("FROM:<>", "", []),
      ("FROM: <a@b> SIZE=10 BODY=7BIT", "a@b", ["SIZE=10", "BODY=7BIT"]),
      ("TO:a@b", "a@b", []), ("TO:  a@b  X", "a@b", ["X"]), ("TO:<@x,@y:a@b>", "a@b", []),
      ("TO:<\"a b>\"@c> X", "a b>@c", ["X"]), ("TO:<a\\>b@c>", "a>b@c", []), ("TO:<a@b", "a@b", []),
      ("TO:<a\\", "a", []), ("TO:<\"a\"\"b\"@c>", "ab@c", []), ("<a@b>", "a@b", []), ("TO:<a b@c>", "a b@c", []),
      ("TO:\"a b\"@c", "a b@c", []),
    ] as [(StaticString, StaticString, [StaticString])])
  func addresses(text: StaticString, address: StaticString, parameters: [StaticString]) throws {
    let argument = try parse(Bytes(text))
    #expect(argument.address == Bytes(address))
    #expect(argument.parameters.map { Bytes($0) } == parameters.map { Bytes($0) })
  }

  @Test("no argument, no address, a route without end, an address of 900 bytes")
  func faults() {
    #expect(throws: PathArgument.Fault.missing) { try parse([]) }
    #expect(throws: PathArgument.Fault.syntax) { try parse(Bytes("FROM")) }
    #expect(throws: PathArgument.Fault.syntax) { try parse(Bytes("TO:<@a>")) }
    #expect(throws: PathArgument.Fault.syntax) { try parse(Bytes("TO:<@a> x:y")) }
    let most = Bytes(repeating: 120, count: PathArgument.addressLimit)
    #expect(throws: PathArgument.Fault.syntax) { try parse(Bytes("TO:<") + most + Bytes("x>")) }
    #expect((try? parse(Bytes("TO:<") + most + Bytes(">")))?.address == most)
  }

  @Test("an address literal is seen and replaced")
  func literals() throws {
    var argument = try parse(Bytes("TO:<a@b@[192.0.2.1]>"))
    #expect(argument.addressLiteral == Bytes("192.0.2.1"))
    argument.replaceDomain(Bytes("mx"))
    #expect(argument.address == Bytes("a@b@mx"))
    #expect(try parse(Bytes("TO:<a@[IPv6:::1]>")).addressLiteral == Bytes("::1"))
    for text: StaticString in ["TO:<a@[]>", "TO:<a@[1.2.3.4>", "TO:<[1.2.3.4]>", "TO:<>"] {
      #expect(try parse(Bytes(text)).addressLiteral == nil)
    }
  }

  private func mail(_ text: StaticString) throws(MailParameters.Fault) -> MailParameters {
    try MailParameters(Bytes(text).split(separator: .space))
  }

  @Test("SIZE and BODY are understood in any case")
  func parameters() throws {
    let both = try mail("size=18446744073709551615 Body=8bitmime")
    #expect(both.size == .max)
    #expect(both.body == .eightBitMIME)
    #expect(try mail("BODY=7BIT").body == .sevenBit)
    #expect(try mail("").size == nil)
  }

  @Test("what was not offered is unknown, what cannot be is malformed")
  func badParameters() {
    for text: StaticString in ["RET=FULL", "SMTPUTF8", "AUTH=<>", "X"] {
      #expect(throws: MailParameters.Fault.unknown) { try mail(text) }
    }
    for text: StaticString in [
      "SIZE", "SIZE=", "SIZE=x", "SIZE=-1", "SIZE=1 SIZE=1", "SIZE=000000000000000000001", "SIZE=18446744073709551616",
      "BODY=BINARYMIME", "BODY", "BODY=7BIT BODY=7BIT",
    ] {
      #expect(throws: MailParameters.Fault.malformed) { try mail(text) }
    }
  }
}
