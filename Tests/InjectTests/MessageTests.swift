import Bytes
import Testing

@testable import inject

/// 21 Nov 2026 05:23:28 UTC and 42 nanoseconds.
let moment: Int64 = 1_795_238_608_000_000_042

/// A message made with an environment, its control files saying DH, DD, PD and idhost ID.
func message(
  _ fields: [String], _ environment: [String: String] = [:], lists: [String]? = nil
) throws(MessageFault) -> Message {
  let values = environment.mapValues { bytes($0) }
  var message = Message(
    Surroundings(
      rules: rules, habits: Habits(values["QMAILINJECT"] ?? []), identity: Identity { values[$0.description] },
      idHost: bytes("ID"), mailingLists: lists.map { .init($0.map { bytes($0) }) }, pid: 4711, nanoseconds: moment,
      random: 99))
  for field in fields { try message.add(Field(bytes(field + "\n"))) }
  return message
}

let date = "Date: 21 Nov 2026 05:23:28 -0000\n"
let id = "Message-ID: <20261121052328.4711.42.99.qmail@ID>\n"
let from = "From: u@DH.DD\n"
let hidden = "Cc: recipient list not shown: ;\n"

@Suite("The header made whole (spec inject.md 4 and 5)")
struct MessageTests {
  func header(_ fields: [String], _ environment: [String: String] = ["USER": "u"], lists: [String]? = nil) throws
    -> String
  {
    text(try message(fields, environment, lists: lists).header())
  }

  @Test func addsWhatIsMissing() throws {
    #expect(try header([]) == date + id + from + hidden)
    #expect(try header(["X: y", "To: a@b.c"]) == date + id + from + "X: y\nTo: a@b.c\n")
    #expect(try header(["Cc: a@b.c"]) == date + id + from + "Cc: a@b.c\n")
    #expect(try header(["Bcc: a@b.c"]) == date + id + from + hidden)
    #expect(try header(["Apparently-To: a@b.c"]) == date + id + from + hidden + "Apparently-To: a@b.c\n")
    #expect(try header(["dAtE : x"]) == id + from + hidden + "dAtE : x\n")
    #expect(try header(["message-id: x"]) == date + from + hidden + "message-id: x\n")
    #expect(try header(["From: a@b.c"]) == date + id + hidden + "From: a@b.c\n")
  }

  @Test func addsToResent() throws {
    let plain = ["To: a@b.c", "From: a@b.c", "Date: x", "Message-ID: y"]
    let added =
      "Resent-Date: 21 Nov 2026 05:23:28 -0000\nResent-Message-ID: <20261121052328.4711.42.99.qmail@ID>\n"
      + "Resent-From: u@DH.DD\n"
    let kept = plain.map { $0 + "\n" }.joined()
    #expect(
      try header(plain + ["Resent-Reply-To: r@b.c"])
        == added + "Resent-Cc: recipient list not shown: ;\n" + kept + "Resent-Reply-To: r@b.c\n")
    #expect(try header(plain + ["Resent-To: r@b.c"]) == added + kept + "Resent-To: r@b.c\n")
    #expect(try header(plain + ["Resent-Bcc: r@b.c"]) == added + "Resent-Cc: recipient list not shown: ;\n" + kept)
    #expect(
      try header(["Resent-Date: x", "Resent-Message-ID: y", "Resent-From: a@b.c", "Resent-Cc: a@b.c"])
        == "Resent-Date: x\nResent-Message-ID: y\nResent-From: a@b.c\nResent-Cc: a@b.c\n")
  }

  @Test(arguments: [
    ["Content-Length: 5"], ["Return-Path: <a@b.c>"], ["Bcc: a@b.c"], ["Bcc: (broken"], ["CONTENT-LENGTH : 7"],
  ])
  func removes(fields: [String]) throws { #expect(try header(fields) == date + id + from + hidden) }

  @Test(arguments: [
    "Subject: a@b", "Received: x", "Delivered-To: a@b", "Content-Type: text/plain (",
    "Notice-Requested-Upon-Delivery-To: a",
    "Mail-Followup-To: a", "X: )", "MBOX-Line: From x",
  ])
  func leaves(field: String) throws { #expect(try header([field]) == date + id + from + hidden + field + "\n") }

  @Test(arguments: [
    "Sender", "Reply-To", "Return-Receipt-To", "Errors-To",
  ])
  func rewritesSenders(name: String) throws {
    #expect(try header([name + ": a"]) == date + id + from + hidden + name + ": a@DH.DD\n")
    #expect(throws: MessageFault.self) { try message([name + ": a )"]) }
  }

  @Test("a recipient field that is no address list stays and names nobody")
  func unparsableRecipients() throws {
    let broken = try message(["To: a@b.c, x@y.z, (broken", "Cc: d@e.f"], ["USER": "u"])
    #expect(text(try broken.header()) == date + id + from + "To: a@b.c, x@y.z, (broken\nCc: d@e.f\n")
    #expect(broken.recipients == [bytes("d@e.f")])
    #expect(broken.unparsable.map { text($0.bytes) } == ["To: a@b.c, x@y.z, (broken\n"])
    // The list is read from the right: x@y.z was found before the error.
    #expect(try message(["To: a@b.c; >, x@y.z"]).recipients.isEmpty)
  }

  @Test func recipients() throws {
    let fields = ["To: a", "Cc: b@c", "Bcc: d@e.f", "Apparently-To: g@h.i", "From: x@y.z", "To: <>", "To: a"]
    #expect(try message(fields).recipients.map { text($0) } == ["a@DH.DD", "b@c.DD", "d@e.f", "g@h.i", "a@DH.DD"])
    #expect(
      try message(fields + ["Resent-To: r@s.t", "Resent-Cc: u@v.w", "Resent-Bcc: x@y.z"]).recipients.map { text($0) }
        == ["r@s.t", "u@v.w", "x@y.z"])
    #expect(try message(fields + ["Resent-Date: x"]).recipients.isEmpty)
  }

  @Test(arguments: ["f", "i", "fi", "if", "xyzfi"])
  func dropsFields(letters: String) throws {
    let f = letters.contains("f")
    let i = letters.contains("i")
    #expect(
      try header(["From: a@b.c", "Message-ID: y", "Cc: a@b.c"], ["USER": "u", "QMAILINJECT": letters])
        == date + (i ? id : "") + (f ? from : "") + (f ? "" : "From: a@b.c\n") + (i ? "" : "Message-ID: y\n")
        + "Cc: a@b.c\n")
  }

  @Test(arguments: [
    (["USER": "u"], "u@DH.DD"),
    ([:], "anonymous@DH.DD"),
    (["LOGNAME": "l", "USER": "u"], "u@DH.DD"),
    (["LOGNAME": "l"], "l@DH.DD"),
    (["MAILUSER": "m", "USER": "u"], "m@DH.DD"),
    (["QMAILUSER": "q", "MAILUSER": "m"], "q@DH.DD"),
    (["USER": "u", "MAILHOST": "m"], "u@m.DD"),
    (["USER": "u", "MAILHOST": "m", "QMAILHOST": "q.r"], "u@q.r"),
    (["USER": "u", "MAILHOST": ""], "u@DH.DD"),
    (["USER": "u", "NAME": "N"], "\"N\" <u@DH.DD>"),
    (["USER": "u", "NAME": "N", "MAILNAME": "M"], "\"M\" <u@DH.DD>"),
    (["USER": "u", "QMAILNAME": "Q", "MAILNAME": "M"], "\"Q\" <u@DH.DD>"),
    (["USER": "u", "NAME": "N", "MAILNAME": ""], "u@DH.DD"),
    (["USER": "u", "NAME": "A \"B\" (C)"], "\"A \\\"B\\\" \\(C\\)\" <u@DH.DD>"),
    (["USER": "u", "NAME": "N", "QMAILINJECT": "c"], "u@DH.DD (N)"),
    (["USER": "u", "NAME": "N ) x", "QMAILINJECT": "c"], "u@DH.DD (N \\) x)"),
    (["USER": "u", "QMAILINJECT": "c"], "u@DH.DD"),
    (["USER": "a b"], "\"a b\"@DH.DD"),
    (["USER": "a@b"], "\"a@b\"@DH.DD"),
    (["USER": "a.b"], "a.b@DH.DD"),
    (["USER": "a\nX: y"], "\"a X: y\"@DH.DD"),
    (["USER": "u", "NAME": "N\r\nX: y", "MAILHOST": "h"], "\"N  X: y\" <u@h.DD>"),
  ])
  func author(environment: [String: String], expected: String) throws {
    #expect(try header(["To: a@b.c"], environment) == date + id + "From: \(expected)\nTo: a@b.c\n")
  }

  @Test func authorThatIsNone() {
    #expect(throws: MessageFault.self) { try message([], ["USER": "u", "MAILHOST": ")"]).header() }
    #expect(throws: MessageFault.self) { try message([], ["USER": "u", "QMAILSHOST": "\""]).sender() }
  }
}

@Suite("The reverse-path (spec inject.md 2)")
struct SenderTests {
  @Test(arguments: [
    ([], ["USER": "u"], "u@DH.DD"),
    ([], ["USER": "u", "MAILHOST": "h.i"], "u@h.i"),
    ([], ["USER": "u", "QMAILSUSER": "s"], "s@DH.DD"),
    ([], ["USER": "u", "QMAILSUSER": "s", "QMAILSHOST": "h", "QMAILHOST": "x"], "s@h.DD"),
    ([], ["USER": "a b"], "a b@DH.DD"),
    ([], ["USER": "u", "QMAILINJECT": "r"], "u-@DH.DD-@[]"),
    ([], ["USER": "u", "QMAILINJECT": "m"], "u-1795238608.4711@DH.DD"),
    ([], ["USER": "u", "QMAILINJECT": "mr", "QMAILSHOST": "h.i"], "u-1795238608.4711-@h.i-@[]"),
    (["Return-Path: <a@b.c>"], ["USER": "u"], "a@b.c"),
    (["Return-Path: a"], ["USER": "u"], "a@DH.DD"),
    (["Return-Path: a@b.c, d@e.f"], ["USER": "u"], "d@e.f"),
    (["Return-Path: <a@b.c>", "Return-Path: <d@e.f>"], ["USER": "u"], "a@b.c"),
    (["Return-Path:", "Return-Path: <d@e.f>"], ["USER": "u"], "d@e.f"),
    (["Return-Path: <>"], ["USER": "u"], ""),
    (["Return-Path: <>"], ["USER": "u", "QMAILINJECT": "r"], ""),
    (["Return-Path: <a@b.c>"], ["USER": "u", "QMAILINJECT": "r"], "a@b.c-@[]"),
    (["Return-Path: <a@b.c>"], ["USER": "u", "QMAILINJECT": "m"], "a@b.c"),
    (["Return-Path: <a@b.c>"], ["USER": "u", "QMAILINJECT": "s"], "u@DH.DD"),
    (["Return-Path: )"], ["USER": "u", "QMAILINJECT": "s"], "u@DH.DD"),
    (["To: a@b.c", "Return-Path: \"x y\"@z.z"], ["USER": "u"], "x y@z.z"),
  ])
  func sender(fields: [String], environment: [String: String], expected: String) throws {
    #expect(text(try message(fields, environment).sender()) == expected)
  }

  @Test func unparsable() { #expect(throws: MessageFault.self) { try message(["Return-Path: a)b("]) } }
}

@Suite("Mail-Followup-To (spec inject.md 5)")
struct FollowupTests {
  func followup(_ fields: [String], lists: [String]? = ["list@x.y"]) throws -> String? {
    let header = text(try message(fields, ["USER": "u"], lists: lists).header())
    guard let start = header.firstRange(of: "Mail-Followup-To:") else { return nil }
    return String(header[start.lowerBound...])
  }

  @Test func allAddressesOfToAndCc() throws {
    #expect(
      try followup(["To: a@b.c, List@X.Y", "X: y", "Cc: \"d e\"@f.g, h"])
        == "Mail-Followup-To: \"d e\"@f.g,\n  h@DH.DD,\n  a@b.c,\n  List@X.Y\nTo: a@b.c, List@X.Y\nX: y\n"
        + "Cc: \"d e\"@f.g, h@DH.DD\n")
  }

  @Test func onlyForTheLists() throws {
    #expect(try followup(["To: a@b.c"]) == nil)
    #expect(try followup(["Bcc: list@x.y"]) == nil)
    #expect(try followup(["To: list@x.y"], lists: nil) == nil)
    #expect(try followup(["To: list@x.y"], lists: []) == nil)
    #expect(try followup(["To: list@x.y", "Resent-To: a@b.c"]) == nil)
    #expect(try followup(["To: list@x.y", "Mail-Followup-To: me"]) == "Mail-Followup-To: me\n")
  }
}

@Suite struct RecipientListTests {
  @Test("each address once, whatever the case of its domain")
  func duplicates() {
    var list = RecipientList()
    for address in ["a@b.c", "a@B.C", "A@b.c", "a@b.c", "x", "X", "x", "@b", "b"] { list.add(bytes(address)) }
    #expect(list.addresses.map { text($0) } == ["a@b.c", "A@b.c", "x", "X", "@b", "b"])
  }
}

@Suite struct CommandLineTests {
  func read(_ words: String...) -> CommandLine? { CommandLine(words.map { bytes($0) }) }

  @Test func whereRecipientsComeFrom() {
    for (words, header, arguments) in [
      (["x"], false, true), ([], true, true), (["-a"], false, true), (["-h", "x"], true, false),
      (["-H", "x"], true, true), (["-h", "-A"], true, true), (["-aH"], true, true), (["-A", "--", "-h"], false, true),
    ] {
      let line = CommandLine(words.map { bytes($0) })
      #expect(line?.usesHeader == header)
      #expect(line?.usesArguments == arguments)
    }
  }

  @Test func otherOptions() {
    #expect(read("-n")?.printsOnly == true)
    #expect(read("-n", "-N")?.printsOnly == false)
    #expect(read("-fx", "y")?.sender == bytes("x"))
    #expect(read("-f", "", "y")?.sender == [])
    #expect(read("-f") == nil)
    #expect(read("-z") == nil)
    #expect(read("-nz") == nil)
  }
}
