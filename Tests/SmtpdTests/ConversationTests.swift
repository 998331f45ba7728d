import Bytes
import SMTP
import Testing

@testable import smtpd

/// The last reply, without its line end.
private func last(_ outcome: Outcome) -> String {
  String(decoding: outcome.replies.last?.dropLast(2) ?? [], as: UTF8.self)
}

@Suite struct ConversationTests {
  @Test("after HELO every reply is qmail's to the byte")
  func helo() {
    let outcome = converse(
      "HELO me", "MAIL FROM:<a@b>", "RCPT TO:<c@mx.test>", "RCPT TO:<c@other>", "DATA", "RSET", "NOOP", "VRFY a",
      "AUTH PLAIN", "QUIT")
    #expect(
      outcome.replies.map { String(decoding: $0, as: UTF8.self) } == [
        "250 mx.test\r\n", "250 ok\r\n", "250 ok\r\n",
        "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)\r\n", "250 ok\r\n", "250 flushed\r\n",
        "250 ok\r\n", "252 send some mail, i'll try my best\r\n", "502 unimplemented (#5.5.1)\r\n", "221 mx.test\r\n",
      ])
    #expect(outcome.transactions.map(\.recipients) == [[Bytes("c@mx.test")]])
  }

  @Test("after EHLO replies carry enhanced status codes")
  func ehlo() {
    let outcome = converse(
      with: .sample(databytes: 1000), "EHLO me", "MAIL FROM:<a@b> SIZE=1000 BODY=8BITMIME", "RCPT TO:<c@mx.test>",
      "RCPT TO:<c@other>", "RSET", "STARTTLS", "QUIT")
    #expect(
      outcome.replies.map { String(decoding: $0, as: UTF8.self) } == [
        "250-mx.test\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n",
        "250 2.1.0 ok\r\n", "250 2.1.5 ok\r\n",
        "553 5.7.1 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)\r\n", "250 2.0.0 flushed\r\n",
        "502 5.5.1 unimplemented (#5.5.1)\r\n", "221 2.0.0 mx.test\r\n",
      ])
  }

  @Test(
    "a command is judged by what came before it",
    arguments: [
      (["DATA"], "503 MAIL first (#5.5.1)"),
      (["RCPT TO:<a@mx.test>"], "503 MAIL first (#5.5.1)"),
      (["RCPT"], "503 MAIL first (#5.5.1)"),
      (["MAIL FROM:<a>", "DATA"], "503 RCPT first (#5.5.1)"),
      (["MAIL FROM:<a>", "DATA", "RCPT TO:<a@mx.test>"], "250 ok"),
      (["MAIL FROM:<a>", "RCPT TO:<a@other>", "DATA"], "503 RCPT first (#5.5.1)"),
      (["MAIL FROM:<a>", "RCPT TO:<a@mx.test>", "RSET", "DATA"], "503 MAIL first (#5.5.1)"),
      (["MAIL FROM:<a>", "RCPT TO:<a@mx.test>", "HELO x", "DATA"], "503 MAIL first (#5.5.1)"),
      (["MAIL FROM:<a>", "RCPT TO:<a@mx.test>", "EHLO x", "DATA"], "503 5.5.1 MAIL first (#5.5.1)"),
      (["MAIL FROM:<a>", "RCPT TO:<a@mx.test>", "MAIL FROM:<b>", "DATA"], "503 RCPT first (#5.5.1)"),
      (["MAIL FROM:<a>", "RCPT TO:<a@mx.test>", "MAIL", "DATA"], "503 MAIL first (#5.5.1)"),
      (["MAIL FROM:<a>", "RCPT TO:<a@mx.test>", "DATA", "DATA"], "503 MAIL first (#5.5.1)"),
      (["MAIL FROM:<a>", "RCPT TO:<a@mx.test>", "JUNK", "DATA"], "250 ok"),
      (["MAIL FROM:<a>", "RCPT"], "501 address missing (#5.5.4)"),
      (["MAIL"], "501 address missing (#5.5.4)"),
      (["MAIL FROM"], "555 syntax error (#5.5.4)"),
      (["MAIL FROM:<a>", "RCPT TO:<>"], "555 syntax error (#5.5.4)"),
      (["MAIL FROM:<a> X=1"], "250 ok"),
      (["EHLO x", "MAIL FROM:<a> X=1"], "555 5.5.4 parameter not recognized (#5.5.4)"),
      (["EHLO x", "MAIL FROM:<a> SIZE=x"], "501 5.5.4 malformed parameter (#5.5.4)"),
      (["EHLO x", "MAIL FROM:<a>", "RCPT TO:<a@mx.test> NOTIFY=NEVER"], "555 5.5.4 parameter not recognized (#5.5.4)"),
      (["MAIL FROM:<a>", "RCPT TO:<a@x.sub.test>"], "250 ok"),
      (
        ["MAIL FROM:<a>", "RCPT TO:<a@sub.test>"],
        "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)"
      ),
      (["MAIL FROM:<a>", "RCPT TO:<Postmaster>"], "250 ok"),
      (["MAIL FROM:<a>", "RCPT TO:<root>"], "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)"),
      (["MAIL FROM:<a>", "RCPT TO:<root@>"], "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)"),
      (["MAIL FROM:<a>", "RCPT TO:<a@[192.0.2.1]>"], "250 ok"),
      (
        ["MAIL FROM:<a>", "RCPT TO:<a@[192.0.2.2]>"],
        "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)"
      ),
    ] as [([String], String)])
  func sequences(lines: [String], reply: String) {
    let outcome = converse(lines.map { Bytes($0.utf8) })
    #expect(last(outcome) == reply)
  }

  @Test("nothing of a transaction survives the end of another")
  func noLeftovers() {
    let outcome = converse(
      "MAIL FROM:<a>", "RCPT TO:<1@mx.test>", "RSET", "MAIL FROM:<b>", "RCPT TO:<2@mx.test>", "RCPT TO:<x@other>",
      "DATA",
      "MAIL FROM:<>", "RCPT TO:<3@mx.test>", "DATA")
    #expect(outcome.transactions.map(\.sender) == [Bytes("b"), []])
    #expect(outcome.transactions.map(\.recipients) == [[Bytes("2@mx.test")], [Bytes("3@mx.test")]])
  }

  @Test("a sender in badmailfrom is refused at RCPT, even with RELAYCLIENT")
  func badmailfrom() {
    let bad: [StaticString] = ["Spam@Host", "@bad.test"]
    for sender: StaticString in ["MAIL FROM:<sPAM@hOST>", "MAIL FROM:<x@BAD.test>"] {
      for relay: StaticString? in [nil, ""] {
        let outcome = converse(
          with: .sample(relayClient: relay, badSenders: bad), sender, "RCPT TO:<a@mx.test>", "RCPT TO:<postmaster>")
        #expect(last(outcome) == "553 sorry, your envelope sender is in my badmailfrom list (#5.7.1)")
        #expect(outcome.replies[0] == Bytes("250 ok\r\n"))
      }
    }
    for sender: StaticString in [
      "MAIL FROM:<x@host>", "MAIL FROM:<x@a.bad.test>", "MAIL FROM:<>", "MAIL FROM:<bad.test>",
    ] {
      #expect(last(converse(with: .sample(badSenders: bad), sender, "RCPT TO:<a@mx.test>")) == "250 ok")
    }
  }

  @Test("RELAYCLIENT accepts every recipient and is appended")
  func relay() {
    let outcome = converse(
      with: .sample(relayClient: "+r"), judge: FakeJudge(names: []), "MAIL FROM:<a>", "RCPT TO:<a@far>", "RCPT TO:<b>",
      "DATA"
    )
    #expect(outcome.transactions[0].recipients == [Bytes("a@far+r"), Bytes("b+r")])
  }

  @Test("SIZE above databytes is refused at MAIL, after EHLO")
  func size() {
    let settings = Settings.sample(databytes: 100)
    #expect(last(converse(with: settings, "EHLO x", "MAIL FROM:<a> SIZE=100")) == "250 2.1.0 ok")
    #expect(
      last(converse(with: settings, "EHLO x", "MAIL FROM:<a> SIZE=101"))
        == "552 5.3.4 sorry, that message size exceeds my databytes limit (#5.3.4)")
    #expect(last(converse(with: settings, "EHLO x", "MAIL FROM:<a> SIZE=101", "RCPT TO:<a@mx.test>")).hasPrefix("503 "))
    #expect(last(converse(with: settings, "HELO x", "MAIL FROM:<a> SIZE=101")) == "250 ok")
    #expect(last(converse("EHLO x", "MAIL FROM:<a> SIZE=18446744073709551615")) == "250 2.1.0 ok")
  }

  @Test("recipients above maxrcpt are put off; those before them get the mail")
  func maxrcpt() {
    let outcome = converse(
      with: .sample(maxRecipients: 2), "MAIL FROM:<a>", "RCPT TO:<1@mx.test>", "RCPT TO:<x@other>",
      "RCPT TO:<2@mx.test>",
      "RCPT TO:<3@mx.test>", "DATA")
    #expect(outcome.replies[4] == Bytes("452 too many recipients (#4.5.3)\r\n"))
    #expect(outcome.transactions[0].recipients == [Bytes("1@mx.test"), Bytes("2@mx.test")])
  }

  @Test("refusals slow down, then end the conversation; a queued message makes up for them")
  func errors() {
    let settings = Settings.sample(softErrors: 2, hardErrors: 4)
    let bad = Array(repeating: Bytes("JUNK"), count: 6)
    let outcome = converse(with: settings, bad)
    #expect(outcome.delays == [0, 1, 1, 1, 1])
    #expect(outcome.ended?.description == "abandon")
    #expect(last(outcome) == "421 too many errors (#4.7.0)")
    let message = ["MAIL FROM:<a>", "RCPT TO:<a@mx.test>", "DATA"].map { Bytes($0.utf8) }
    #expect(converse(with: settings, bad[..<3] + message + bad[..<3]).ended == nil)
    #expect(
      converse(with: settings, final: Reply(451, "no"), bad[..<3] + message + bad[..<3]).ended?.description == "abandon"
    )
    #expect(
      converse(with: .sample(softErrors: 0, hardErrors: 0), Array(repeating: Bytes("JUNK"), count: 99)).ended == nil)
  }

  @Test("when rcpthosts or the interfaces cannot be asked, nothing is accepted")
  func broken() {
    let outcome = converse(judge: FakeJudge(broken: true), "MAIL FROM:<a>", "RCPT TO:<a@mx.test>")
    #expect(last(outcome) == "421 unable to read controls (#4.3.0)")
    #expect(outcome.ended?.description == "abandon")
    let other = converse(judge: FakeJudge(broken: true), "MAIL FROM:<a@[192.0.2.1]>")
    #expect(last(other) == "421 unable to figure out my IP addresses (#4.3.0)")
  }

  @Test("an address literal of this machine becomes its name, in sender and recipient")
  func literals() {
    let outcome = converse("MAIL FROM:<a@[192.0.2.1]>", "RCPT TO:<a@[192.0.2.1]>", "DATA")
    #expect(outcome.transactions[0].sender == Bytes("a@mx.test"))
    #expect(outcome.transactions[0].recipients == [Bytes("a@mx.test")])
  }

  @Test("a name in HELO longer than a domain can be is refused and not kept")
  func longName() {
    var conversation = Conversation(settings: .sample())
    let line = Bytes("EHLO ") + Bytes(repeating: 120, count: 256)
    guard case .answer(let reply) = conversation.step(.line(line), asking: FakeJudge()) else {
      Issue.record("no answer")
      return
    }
    let name = conversation.heloName
    let isExtended = conversation.isExtended
    #expect(reply.code == 501)
    #expect(name == nil)
    #expect(!isExtended)
  }

  @Test("lines that cannot be read are refused without harm to the transaction")
  func badLines() {
    for event in [CommandReader.Event.tooLong, .badByte] {
      var conversation = Conversation(settings: .sample())
      _ = conversation.step(.line(Bytes("MAIL FROM:<a>")), asking: FakeJudge())
      guard case .answer(let reply) = conversation.step(event, asking: FakeJudge()) else {
        Issue.record("no answer")
        return
      }
      #expect(reply.code == 500)
      guard case .answer(let after) = conversation.step(.line(Bytes("RCPT TO:<a@mx.test>")), asking: FakeJudge()) else {
        Issue.record("no answer")
        return
      }
      #expect(after.code == 250)
    }
  }
}

@Suite struct PolicyTests {
  @Test(
    "a domain may be listed as itself or as any suffix that begins at a dot",
    arguments: [
      ("a@b.C.d", ["b.c.d", ".c.d", ".d"]), ("a@x@d", ["d"]), ("a@", []), ("a@.d", [".d"]), ("a@d.", ["d.", "."]),
      ("a", ["nohost.test", ".test"]), ("POSTMASTER", nil),
    ] as [(StaticString, [StaticString]?)])
  func keys(recipient: StaticString, keys: [StaticString]?) {
    #expect(Settings.sample().hostKeys(for: Bytes(recipient)) == keys.map { $0.map { Bytes($0) } })
  }
}
