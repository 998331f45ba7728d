import Bytes
import SMTP
import Testing

@Suite struct CommandTests {
  @Test(
    "the verb ends at the first space and has no case",
    arguments: [
      ("HELO mx", .helo, "mx"), ("eHlO  [::1]", .ehlo, "[::1]"), ("mail FROM:<>", .mail, "FROM:<>"),
      ("DATA", .data, ""),
      ("DATA ", .data, ""), ("DATA:", .unknown, ""), ("RSETX", .unknown, ""), (" QUIT", .unknown, "QUIT"),
      ("", .unknown, ""), ("QUIT\t", .unknown, ""), ("STARTTLS", .unknown, ""), ("NOOP a b", .noop, "a b"),
    ] as [(StaticString, Command.Verb, StaticString)])
  func verbs(line: StaticString, verb: Command.Verb, argument: StaticString) {
    let command = Command(Bytes(line))
    #expect(command.verb == verb)
    #expect(Bytes(command.argument) == Bytes(argument))
  }

  private func read(_ text: Bytes) -> [CommandReader.Event] {
    var reader = CommandReader()
    return text.compactMap { reader.feed($0) }
  }

  @Test("lines end with LF, one CR before it goes")
  func lines() {
    #expect(read(Bytes("NOOP\r\nA\nB\r\n\n")) == ["NOOP", "A", "B", ""].map { .line(Bytes($0.utf8)) })
    #expect(read(Bytes("NOOP")) == [])
  }

  @Test("NUL and stray CR make a line bad, and only that line")
  func badBytes() {
    #expect(read(Bytes("MAIL\u{0}X\r\nA\r\n")) == [.badByte, .line(Bytes("A"))])
    #expect(read(Bytes("MA\rIL\r\nA\r\n")) == [.badByte, .line(Bytes("A"))])
    #expect(read(Bytes("A\r\r\n")) == [.badByte])
  }

  @Test("a line at the limit passes, a longer one is thrown away whole")
  func limit() {
    let most = Bytes(repeating: 120, count: CommandReader.lineLimit)
    #expect(read(most + Bytes("\r\n")) == [.line(most)])
    #expect(read(most + Bytes("\n")) == [.line(most)])
    #expect(read(most + Bytes("x\r\nNOOP\r\n")) == [.tooLong, .line(Bytes("NOOP"))])
    #expect(read(most + Bytes("xx\nNOOP\r\n")) == [.tooLong, .line(Bytes("NOOP"))])
    #expect(read(Bytes(repeating: 0, count: 1 << 20) + Bytes("\n")) == [.tooLong])
  }
}

@Suite struct ReplyTests {
  @Test("after EHLO the status of the text stands in front, before it nothing does")
  func statuses() {
    let refusal = Reply(553, "sorry, no (#5.7.1)")
    #expect(refusal.wire(extended: true) == Bytes("553 5.7.1 sorry, no (#5.7.1)\r\n"))
    #expect(refusal.wire(extended: false) == Bytes("553 sorry, no (#5.7.1)\r\n"))
    #expect(Reply(250, "ok", status: "2.1.0").wire(extended: true) == Bytes("250 2.1.0 ok\r\n"))
    #expect(Reply(451, "odd (#4.x.0)").wire(extended: true) == Bytes("451 4.0.0 odd (#4.x.0)\r\n"))
    #expect(Reply(451, "#)").wire(extended: true) == Bytes("451 4.0.0 #)\r\n"))
  }

  @Test("lines are joined with dashes; bytes that could forge a line are not sent")
  func lines() {
    let many = Reply(plain: 250, [Bytes("a"), Bytes("b\r\n250 c")])
    #expect(many.wire(extended: true) == Bytes("250-a\r\n250 b??250 c\r\n"))
  }
}
