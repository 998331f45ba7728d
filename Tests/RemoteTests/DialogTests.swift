import Bytes
import SMTP
import System
import Testing

@testable import remote

/// A server that says these lines, one reply after the other, whatever it hears; then it has gone.
private final class Script: Transport {
  var replies: [String]
  var heard = ""
  /// Bytes of each write.
  var writes: [String] = []

  init(_ replies: [String]) { self.replies = replies }

  func write(_ bytes: Bytes) throws(ConnectionLost) {
    writes.append(String(decoding: bytes, as: UTF8.self))
    heard += writes.last!
  }

  func reply() throws(ConnectionLost) -> ReplyParser.Reply {
    guard !replies.isEmpty else { throw ConnectionLost() }
    var parser = ReplyParser()
    for byte in Bytes((replies.removeFirst() + "\r\n").utf8) {
      if case .reply(let reply) = parser.feed(byte) { return reply }
    }
    throw ConnectionLost()
  }
}

private struct FakeText: MessageText {
  final class Position { var at = 0 }

  var pieces: [String] = ["Subject: x\n", "\nbody\n"]
  var known: (size: Int, isEightBit: Bool)? = (20, false)
  var isBroken = false
  let position = Position()

  func survey() -> (size: Int, isEightBit: Bool)? { known }

  func next() throws(SystemError) -> Bytes? {
    if isBroken && position.at == pieces.count { throw SystemError("read", code: 5) }
    guard position.at < pieces.count else { return nil }
    defer { position.at += 1 }
    return Bytes(pieces[position.at].utf8)
  }
}

private struct Result {
  let heard: String
  let writes: [String]
  /// The recipients' records, `|` for NUL.
  let records: String
  /// The message's record; `elsewhere: ` before it if another address may be tried.
  let end: String
}

private func talk(
  _ replies: [String], sender: String = "s@a.test", to recipients: [String] = ["r@b.test"], text: FakeText = FakeText()
) -> Result {
  let script = Script(replies)
  final class Records { var bytes = Bytes() }
  let records = Records()
  var dialog = Dialog(
    with: Bytes("192.0.2.1"), over: script, as: Bytes("me.test"), sending: text,
    envelope: Envelope(sender: Bytes(sender.utf8), recipients: recipients.map { Bytes($0.utf8) }),
    report: { records.bytes += $0 })
  let end: String
  switch dialog.run() {
  case .final(let record): end = String(decoding: record, as: UTF8.self)
  case .elsewhere(let record): end = "elsewhere: " + String(decoding: record, as: UTF8.self)
  }
  let shown = String(decoding: records.bytes.map { $0 == 0 ? UInt8(ascii: "|") : $0 }, as: UTF8.self)
  return Result(heard: script.heard, writes: script.writes, records: shown, end: end)
}

private let hello = ["220 mx", "250 mx"]
private let esmtp = ["220 mx", "250-mx\r\n250-PIPELINING\r\n250-SIZE 1000000\r\n250 8BITMIME"]
private let taken = ["250 ok", "250 ok", "354 go", "250 done 7"]
private let data = "Subject: x\r\n\r\nbody\r\n.\r\n"
private let died = "ZConnected to 192.0.2.1 but connection died. (#4.4.2)\n"

@Suite struct DialogTests {
  @Test("the plain way")
  func plain() {
    let result = talk(hello + taken)
    #expect(
      result.heard
        == "EHLO me.test\r\nMAIL FROM:<s@a.test>\r\nRCPT TO:<r@b.test>\r\nDATA\r\n" + data + "QUIT\r\n")
    #expect(result.records == "r|")
    #expect(result.end == "K192.0.2.1 accepted message.\nRemote host said: 250 done 7\n")
  }

  @Test("a server that does not know EHLO hears HELO, and no parameters")
  func helo() {
    let result = talk(["220 mx", "502 what?", "250 mx"] + taken)
    #expect(result.heard.hasPrefix("EHLO me.test\r\nHELO me.test\r\nMAIL FROM:<s@a.test>\r\n"))
    #expect(result.end.hasPrefix("K"))
  }

  @Test("a server with extensions gets the transaction in one piece, with the size")
  func pipelining() {
    let result = talk(esmtp + taken)
    #expect(
      result.writes == [
        "EHLO me.test\r\n", "MAIL FROM:<s@a.test> SIZE=20\r\nRCPT TO:<r@b.test>\r\nDATA\r\n", data, "QUIT\r\n",
      ])
  }

  @Test("BODY=8BITMIME only if it is offered and needed; no parameters for a text that cannot be looked at")
  func parameters() {
    func mail(_ replies: [String], _ known: (Int, Bool)?) -> Bool {
      talk(replies + taken, text: FakeText(known: known)).heard.contains(" BODY=8BITMIME\r\n")
    }
    #expect(mail(esmtp, (20, true)))
    #expect(!mail(esmtp, (20, false)))
    #expect(!mail(hello, (20, true)))
    #expect(talk(esmtp + taken, text: FakeText(known: nil)).heard.contains("MAIL FROM:<s@a.test>\r\n"))
  }

  @Test(
    "what goes wrong at each step, with the reports of spec smtp.md 11",
    arguments: [
      (["554 no"], "", "elsewhere: ZConnected to 192.0.2.1 but greeting failed.\nRemote host said: 554 no\n"),
      (["421 busy"], "", "elsewhere: ZConnected to 192.0.2.1 but greeting failed.\nRemote host said: 421 busy\n"),
      (["250 odd"], "", "elsewhere: ZConnected to 192.0.2.1 but greeting failed.\nRemote host said: 250 odd\n"),
      ([], "", "elsewhere: " + died),
      (["220 mx"], "", "elsewhere: " + died),
      (["220 mx", "421 no"], "", "ZConnected to 192.0.2.1 but my name was rejected.\nRemote host said: 421 no\n"),
      (
        ["220 mx", "500 no", "550 no"], "",
        "ZConnected to 192.0.2.1 but my name was rejected.\nRemote host said: 550 no\n"
      ),
      (hello, "", "elsewhere: " + died),
      (hello + ["550 no"], "", "DConnected to 192.0.2.1 but sender was rejected.\nRemote host said: 550 no\n"),
      (hello + ["450 no"], "", "ZConnected to 192.0.2.1 but sender was rejected.\nRemote host said: 450 no\n"),
      (hello + ["250 ok"], "", died),
      (
        hello + ["250 ok", "550-no\r\n550 such"],
        "h192.0.2.1 does not like recipient.\nRemote host said: 550-no\n550 such\n|",
        "DGiving up on 192.0.2.1.\nRemote host said: 550-no\n550 such\n"
      ),
      (
        hello + ["250 ok", "450 later"], "s192.0.2.1 does not like recipient.\nRemote host said: 450 later\n|",
        "DGiving up on 192.0.2.1.\nRemote host said: 450 later\n"
      ),
      (hello + ["250 ok", "250 ok"], "r|", died),
      (hello + ["250 ok", "250 ok", "554 no"], "r|", "D192.0.2.1 failed on DATA command.\nRemote host said: 554 no\n"),
      (hello + ["250 ok", "250 ok", "451 no"], "r|", "Z192.0.2.1 failed on DATA command.\nRemote host said: 451 no\n"),
      (
        hello + ["250 ok", "250 ok", "354 go", "554 spam"], "r|",
        "D192.0.2.1 failed after I sent the message.\nRemote host said: 554 spam\n"
      ),
      (
        hello + ["250 ok", "250 ok", "354 go", "452 full"], "r|",
        "Z192.0.2.1 failed after I sent the message.\nRemote host said: 452 full\n"
      ),
      (
        hello + ["250 ok", "250 ok", "354 go", "rubbish"], "r|",
        "D192.0.2.1 failed after I sent the message.\nRemote host said: rubbish\n"
      ),
      (
        hello + ["250 ok", "250 ok", "354 go"], "r|",
        "ZConnected to 192.0.2.1 but connection died. Possible duplicate! (#4.4.2)\n"
      ),
    ] as [([String], String, String)])
  func failures(replies: [String], records: String, end: String) {
    let result = talk(replies)
    #expect(result.records == records)
    #expect(result.end == end)
  }

  @Test("the same transaction is reported alike with and without PIPELINING")
  func samePipelined() {
    let recipients = ["a@b.test", "c@b.test", "d@b.test"]
    for mail in ["250 ok", "450 no", "550 no"] {
      for (index, codes) in [["250", "550", "450"], ["550", "450", "550"], ["250", "250", "250"]].enumerated() {
        let transaction = [mail] + codes.map { "\($0) said \(index)" }
        let isAccepted = mail == "250 ok" && codes.contains("250")
        let ending = isAccepted ? ["354 go", "250 done"] : ["503 no recipients"]
        let alone = talk(hello + (mail == "250 ok" ? transaction + ending : [mail]), to: recipients)
        let grouped = talk(esmtp + transaction + ending, to: recipients)
        #expect(alone.records == grouped.records)
        #expect(alone.end == grouped.end)
        #expect(grouped.heard.hasSuffix("QUIT\r\n"))
      }
    }
  }

  @Test("a pipelined DATA that is accepted with nobody to send to: nothing more is said")
  func emptyData() {
    let result = talk(esmtp + ["250 ok", "550 no", "354 go"])
    #expect(result.end == "DGiving up on 192.0.2.1.\nRemote host said: 550 no\n")
    #expect(result.heard.hasSuffix("DATA\r\n"))
    let refused = talk(esmtp + ["550 no", "503 mail first", "354 go"])
    #expect(refused.end == "DConnected to 192.0.2.1 but sender was rejected.\nRemote host said: 550 no\n")
    #expect(refused.heard.hasSuffix("DATA\r\n"))
  }

  @Test("many recipients go out in groups whose replies are read before the next")
  func groups() {
    let recipients = (0..<120).map { "r\($0)@b.test" }
    let result = talk(esmtp + ["250 ok"] + recipients.map { "250 \($0)" } + ["354 go", "250 done"], to: recipients)
    #expect(result.records == String(repeating: "r|", count: 120))
    #expect(result.writes.count == 6)
    #expect(result.end.hasPrefix("K"))
  }

  @Test("a message that cannot be read further is not ended: the server must not take half of it")
  func unreadable() {
    let result = talk(hello + taken, text: FakeText(isBroken: true))
    #expect(result.end == "ZUnable to read message. (#4.3.0)\n")
    #expect(result.heard.hasSuffix("DATA\r\n"))
  }

  @Test("the text on the wire: dots, missing last LF, lone CR")
  func wireText() {
    let result = talk(hello + taken, text: FakeText(pieces: [".a\n", "b\r", ".\nc"]))
    #expect(result.heard.hasSuffix("DATA\r\n..a\r\nb\r\n..\r\nc\r\n.\r\nQUIT\r\n"))
  }

  @Test("addresses in their wire form; no address can end its command")
  func addresses() {
    let odd = talk(hello + taken, sender: "a b@c.test", to: ["bare"])
    #expect(odd.heard.contains("MAIL FROM:<\"a b\"@c.test>\r\nRCPT TO:<bare>\r\n"))
    #expect(talk(hello + taken, sender: "").heard.contains("MAIL FROM:<>\r\n"))
    for bad in ["r\r\nRSET@b.test", "r@b.test\nRSET", "r@b.test> X=<y", "r>", "a b", "r@b c"] {
      let result = talk(hello + taken, to: [bad, "r@b.test"])
      #expect(result.heard.components("RCPT") == 1)
      #expect(result.records == "hSorry, that recipient address can't be used in SMTP. (#5.1.3)\n|r|")
      #expect(result.end.hasPrefix("K"))
      let alone = talk(hello + ["250 ok"], to: [bad])
      #expect(alone.end == "DGiving up on 192.0.2.1.\n")
      #expect(talk(esmtp + ["250 ok"], to: [bad]).end == "DGiving up on 192.0.2.1.\n")
    }
  }

  @Test("a server's NUL is shown as a question mark")
  func nul() {
    #expect(talk(["554 a\0b"]).end.hasSuffix("Remote host said: 554 a?b\n"))
  }
}

extension String {
  fileprivate func components(_ word: String) -> Int { ranges(of: word).count }
}
