import Bytes
import SMTP
import Testing

@Suite struct ReplyParserTests {
  private func replies(_ pieces: [ArraySlice<UInt8>]) -> [ReplyParser.Reply] {
    var parser = ReplyParser()
    var found: [ReplyParser.Reply] = []
    for piece in pieces {
      var rest = piece
      while !rest.isEmpty {
        if case .reply(let reply) = parser.feed(&rest) { found.append(reply) }
      }
    }
    return found
  }

  @Test(
    "the code is that of the first line",
    arguments: [
      ("220 mx ESMTP\r\n", 220), ("250\r\n", 250), ("250-a\r\n250 b\r\n", 250), ("354-\r\n354 \r\n", 354),
      ("550-a\n250 b\n", 550), ("25\r\n", 999), ("\r\n", 999), ("2x0 a\r\n", 999), ("9999 a\n", 999), ("x50 a\n", 999),
    ] as [(StaticString, Int)])
  func codes(text: StaticString, code: Int) {
    for pieces in cuts(Bytes(text)) {
      let found = replies(pieces)
      #expect(found.map(\.code) == [code])
      #expect(found.first?.text == Bytes(text).filter { $0 != .cr })
    }
  }

  @Test("replies follow each other without loss")
  func pipelined() {
    let text = Bytes("250-a\r\n250 b\r\n250 c\r\n550 d\r\n")
    for pieces in cuts(text) {
      #expect(replies(pieces).map(\.code) == [250, 250, 550])
      #expect(replies(pieces).map(\.text) == [Bytes("250-a\n250 b\n"), Bytes("250 c\n"), Bytes("550 d\n")])
    }
  }

  @Test("the text is cut at its limit, the reply still ends")
  func cut() {
    let found = replies([(Bytes("554 ") + Bytes(repeating: 120, count: 9000) + Bytes("\r\n"))[...]])
    #expect(found.map(\.code) == [554])
    #expect(found.first?.text.count == ReplyParser.textLimit)
  }

  @Test("too many lines and too long a line are given up")
  func overrun() {
    var parser = ReplyParser()
    var endless = ArraySlice(Array(repeating: Bytes("250-x\r\n"), count: 2000).joined())
    #expect(parser.feed(&endless) == .overrun)
    var long = ArraySlice(Bytes(repeating: 50, count: 1 << 20))
    var second = ReplyParser()
    #expect(second.feed(&long) == .overrun)
  }

  @Test("EHLO keywords are found in any case, not in the greeting line")
  func keywords() {
    let text = Bytes("250-size.example SIZE\r\n250-pipelining\r\n250-SIZE 1000 \r\n250-AUTH=LOGIN\r\n250 8BITMIME\r\n")
    let reply = replies([text[...]])[0]
    #expect(reply.parameters(of: "SIZE").map(Bytes.init) == Bytes("1000"))
    #expect(reply.parameters(of: "PIPELINING").map(Bytes.init) == [])
    #expect(reply.parameters(of: "8bitmime") != nil)
    #expect(reply.parameters(of: "STARTTLS") == nil)
  }
}
