import Bytes
import Testing

@testable import local

private func bytes(_ text: String) -> Bytes { Bytes(text.utf8) }

private func job(
  local: String = "joe", dash: String = "", ext: String = "", domain: String = "a.example.org",
  sender: String = "s@x.org"
) -> Job {
  Job(arguments: ["joe", "/home/joe", local, dash, ext, domain, sender, "./Maildir/"].map(bytes))!
}

@Suite("the command line") struct ArgumentTests {
  static let eight = ["joe", "/home/joe", "joe", "", "", "d.org", "s@x.org", "./Maildir/"]

  @Test("eight arguments, after options and --")
  func good() {
    #expect(Job(arguments: Self.eight.map(bytes))?.isRehearsal == false)
    #expect(Job(arguments: (["--"] + Self.eight).map(bytes))?.user == bytes("joe"))
    #expect(Job(arguments: (["-n"] + Self.eight).map(bytes))?.isRehearsal == true)
    #expect(Job(arguments: (["-nN"] + Self.eight).map(bytes))?.isRehearsal == false)
    #expect(Job(arguments: (["-N", "-n", "--"] + Self.eight).map(bytes))?.isRehearsal == true)
    // A user's name may look like an option after --.
    #expect(Job(arguments: (["--", "-n"] + Self.eight.dropFirst()).map(bytes))?.user == bytes("-n"))
  }

  @Test("anything else is misuse")
  func bad() {
    for count in 0..<8 { #expect(Job(arguments: Self.eight.prefix(count).map(bytes)) == nil) }
    #expect(Job(arguments: (Self.eight + ["more"]).map(bytes)) == nil)
    #expect(Job(arguments: (["-x"] + Self.eight).map(bytes)) == nil)
    #expect(Job(arguments: Self.eight.map { bytes($0 == "/home/joe" ? "home/joe" : $0) }) == nil)
  }
}

@Suite("what programs are told") struct EnvironmentTests {
  @Test(
    "HOST2, HOST3 and HOST4",
    arguments: [
      ("a.b.c.d.e", ["a.b.c.d", "a.b.c", "a.b"]), ("a.b.c", ["a.b", "a", "a"]), ("a", ["a", "a", "a"]),
      ("", ["", "", ""]), (".a", ["", "", ""]), ("a..b", ["a.", "a", "a"]),
    ])
  func hosts(domain: String, expected: [String]) {
    #expect(job(domain: domain).shorterHosts == expected.map(bytes))
  }

  @Test(
    "EXT2, EXT3 and EXT4",
    arguments: [
      ("a-b-c-d", ["b-c-d", "c-d", "d"]), ("a-b", ["b", "", ""]), ("a", ["", "", ""]), ("", ["", "", ""]),
      ("--", ["-", "", ""]), ("A.B-C", ["C", "", ""]),
    ])
  func extensions(ext: String, expected: [String]) {
    #expect(job(ext: ext).shorterExtensions == expected.map(bytes))
  }

  @Test(
    "UFLINE",
    arguments: [
      ("s@x.org", "From s@x.org Sat Nov 21 05:23:28 2026\n"), ("", "From MAILER-DAEMON Sat Nov 21 05:23:28 2026\n"),
      ("a b\tc\nd@x", "From a-b-c-d@x Sat Nov 21 05:23:28 2026\n"), ("#@[]", "From #@[] Sat Nov 21 05:23:28 2026\n"),
    ])
  func fromLine(sender: String, expected: String) {
    #expect(job(sender: sender).fromLine(at: 1_795_238_608) == bytes(expected))
  }

  @Test(
    "RPLINE",
    arguments: [
      ("s@x.org", "Return-Path: <s@x.org>\n"), ("", "Return-Path: <>\n"), ("#@[]", "Return-Path: <#@[]>\n"),
      ("a b@x.org", "Return-Path: <\"a b\"@x.org>\n"), ("a\nb@x.org", "Return-Path: <\"a\\_b\"@x.org>\n"),
      ("a@b@c", "Return-Path: <\"a@b\"@c>\n"), ("a..b@c", "Return-Path: <\"a..b\"@c>\n"),
    ])
  func returnPath(sender: String, expected: String) {
    #expect(job(sender: sender).returnPath == bytes(expected))
  }

  @Test("DTLINE is one line")
  func deliveredTo() {
    #expect(job(local: "a\nb", domain: "c\nd").deliveredTo == bytes("Delivered-To: a_b@c_d\n"))
    #expect(job(local: "a\nb", domain: "c").recipient == bytes("a\nb@c"))
  }

  @Test("the owner of a list gets the bounces of what it forwards")
  func owner() {
    let list = job(local: "list", domain: "d.org")
    #expect(list.newSender(hasOwner: false, hasOwnerDefault: false) == bytes("s@x.org"))
    #expect(list.newSender(hasOwner: true, hasOwnerDefault: false) == bytes("list-owner@d.org"))
    #expect(list.newSender(hasOwner: true, hasOwnerDefault: true) == bytes("list-owner-@d.org-@[]"))
    #expect(job(sender: "").newSender(hasOwner: true, hasOwnerDefault: true) == [])
    #expect(job(sender: "#@[]").newSender(hasOwner: true, hasOwnerDefault: false) == bytes("#@[]"))
  }
}

@Suite("which .qmail file decides") struct CandidateTests {
  @Test(
    "most specific first",
    arguments: [
      ("-", "a", [".qmail-a", ".qmail-default"]), ("-", "a-b", [".qmail-a-b", ".qmail-a-default", ".qmail-default"]),
      ("-", "a-b-", [".qmail-a-b-", ".qmail-a-b-default", ".qmail-a-default", ".qmail-default"]),
      ("-", "A.b-c", [".qmail-a:b-c", ".qmail-a:b-default", ".qmail-default"]), ("", "", [".qmail", ".qmaildefault"]),
      ("-", "", [".qmail-", ".qmail-default"]),
      ("-", "--", [".qmail---", ".qmail---default", ".qmail--default", ".qmail-default"]),
      ("+", "a+b", [".qmail+a+b", ".qmail+default"]),
      ("-", "../../etc/x", [".qmail-::/::/etc/x", ".qmail-default"]),
    ])
  func names(dash: String, ext: String, expected: [String]) {
    #expect(Candidates(dash: bytes(dash), ext: bytes(ext)).map(\.name) == expected.map(bytes))
  }

  @Test(
    "$DEFAULT is what the default file stands for, in its own case",
    arguments: [
      ("A-B-c", [nil, "c", "B-c", "A-B-c"]), ("a", [nil, "a"]), ("a-", [nil, "", "a-"]), ("", [nil, ""]),
      ("x-DEFAULT", ["DEFAULT", "DEFAULT", "x-DEFAULT"]),
    ])
  func defaults(ext: String, expected: [String?]) {
    #expect(Candidates(dash: bytes("-"), ext: bytes(ext)).map(\.matchedByDefault) == expected.map { $0.map(bytes) })
  }

  @Test("a very long extension takes no more memory than its names")
  func long() {
    var count = 0
    for candidate in Candidates(dash: bytes("-"), ext: Bytes(repeating: .ascii("-"), count: 2000)) {
      count += candidate.name.isEmpty ? 0 : 1
    }
    #expect(count == 2002)
  }
}

@Suite("instructions") struct InstructionTests {
  private static func parse(_ text: String) -> [Instruction] { Array(Instructions(text: bytes(text))) }

  private static func program(_ text: String) -> Instruction { .program(bytes(text)[...]) }
  private static func mbox(_ text: String) -> Instruction { .mbox(bytes(text)[...]) }
  private static func maildir(_ text: String) -> Instruction { .maildir(bytes(text)[...]) }
  private static func forward(_ text: String) -> Instruction { .forward(bytes(text)[...]) }

  private static let table: [(String, Instruction)] = [
    ("|cat \t", program("cat")),
    ("|", program("")),
    ("./Mailbox", mbox("./Mailbox")),
    (".", mbox(".")),
    ("./M\0/", mbox("./M")),
    ("/var/x/ ", maildir("/var/x/")),
    ("&joe@x", forward("joe@x")),
    ("joe@x", forward("joe@x")),
    ("&|x", forward("|x")),
    ("&", forward("")),
    (" a@b", forward(" a@b")),
    ("a@b\0Tc@d", forward("a@b")),
    ("#c", .nothing),
    ("+list", .forwardOnly),
    ("+list ", .forwardOnly),
    ("+lists", .nothing),
    ("+", .nothing),
    ("", .blankStart),
    (" \t", .blankStart),
    ("\0a@b", .blankStart),
  ]

  @Test("one per line", arguments: table)
  func lines(line: String, expected: Instruction) {
    #expect(Self.parse(line) == [expected])
    #expect(Self.parse(line + "\n") == [expected])
    let later: Instruction = expected == .blankStart ? .nothing : expected
    #expect(Self.parse("#\n" + line + "\n") == [.nothing, later])
  }

  @Test("an empty text is one blank line")
  func empty() {
    #expect(Self.parse("") == [.blankStart])
    #expect(Self.parse("\n") == [.blankStart])
    #expect(Self.parse("#\n\n") == [.nothing, .nothing])
  }
}

/// Every way to cut `text` in two, and byte by byte.
private func cuts(of text: Bytes) -> [[ArraySlice<UInt8>]] {
  (0...text.count).map { [text[..<$0], text[$0...]] } + [text.indices.map { text[$0...$0] }]
}

@Suite("mbox") struct MboxTests {
  private static func quote(_ pieces: [ArraySlice<UInt8>]) -> Bytes {
    var quoter = MboxQuoter()
    var out = Bytes()
    for piece in pieces { quoter.feed(piece, into: &out) }
    quoter.finish(into: &out)
    return out
  }

  @Test(
    "From lines are quoted, the end is an empty line",
    arguments: [
      ("", "\n"), ("a\n", "a\n\n"), ("a", "a\n\n"), ("\n", "\n\n"), ("From x\n", ">From x\n\n"),
      (">From x\nFrom\nFrom \n", ">>From x\nFrom\n>From \n\n"), (">>>From y", ">>>>From y\n\n"),
      ("From", "From\n\n"), ("Fro\nFrom a\n", "Fro\n>From a\n\n"),
      ("> From \n from \nFROM \n", "> From \n from \nFROM \n\n"),
      ("aFrom \n\nFrom \n", "aFrom \n\n>From \n\n"), (">", ">\n\n"), (">F>From \n", ">F>From \n\n"),
      ("FFrom \n", "FFrom \n\n"),
    ])
  func quoting(text: String, expected: String) {
    for pieces in cuts(of: bytes(text)) { #expect(Self.quote(pieces) == bytes(expected)) }
  }

  @Test("taking one > away gives the message back")
  func inverse() {
    var random = SystemRandomNumberGenerator()
    let words = [">", "From ", "From", "F", " ", "\n", "x", "\0", "rom "]
    for _ in 0..<500 {
      let text = (0..<20).map { _ in words.randomElement(using: &random)! }.joined()
      let quoted = Self.quote([bytes(text)[...]])
      var plain = Bytes()
      for line in quoted.dropLast(1).split(separator: .lf, omittingEmptySubsequences: false) {
        #expect(!line.hasPrefix("From "))
        let isQuoted = line.first == .ascii(">") && line.drop { $0 == .ascii(">") }.hasPrefix("From ")
        plain += (isQuoted ? line.dropFirst() : line) + [.lf]
      }
      plain.removeLast()
      #expect(plain == bytes(text.hasSuffix("\n") || text.isEmpty ? text : text + "\n"))
    }
  }
}

@Suite("loops") struct LoopTests {
  private static func isLooping(_ pieces: [ArraySlice<UInt8>]) -> Bool {
    var check = LoopCheck(bytes("Delivered-To: joe@x\n"))
    for piece in pieces {
      switch check.feed(piece) {
      case .undecided: continue
      case .looping: return true
      case .endOfHeader: return false
      }
    }
    return false
  }

  @Test(
    "our own line, exactly, in the header",
    arguments: [
      ("Delivered-To: joe@x\n\n", true), ("A: b\nDelivered-To: joe@x\nC: d\n\n", true),
      ("Delivered-To: joe@xy\n\n", false), ("Delivered-To: joe@\n\n", false), ("Delivered-To: JOE@x\n\n", false),
      (" Delivered-To: joe@x\n\n", false), ("A: b\n\nDelivered-To: joe@x\n", false),
      ("\nDelivered-To: joe@x\n", false), ("Delivered-To: joe@x", false), ("", false),
      ("Delivered-To: joe@x\r\n\n", false), ("DDelivered-To: joe@x\n", false),
      ("Delivered-To: jim@x\nDelivered-To: joe@x\n", true),
    ])
  func lines(text: String, expected: Bool) {
    for pieces in cuts(of: bytes(text)) { #expect(Self.isLooping(pieces) == expected) }
  }
}

@Suite("maildir") struct MaildirTests {
  @Test("names are safe and short enough")
  func names() {
    #expect(
      Maildir.uniqueName(microseconds: 1_795_238_608_000_042, pid: 17, counter: 2, host: bytes("mx.d.org"))
        == bytes("1795238608.M42P17Q2.mx.d.org"))
    let odd = Maildir.uniqueName(microseconds: 1, pid: 1, counter: 1, host: bytes("a/b:c"))
    #expect(odd == bytes("0.M1P1Q1.a\\057b\\072c"))
    let long = Maildir.uniqueName(
      microseconds: .max, pid: .max, counter: .max, host: Bytes(repeating: .ascii("/"), count: 64))
    #expect(long.count <= 255 && !long.contains(.ascii("/")))
  }
}
