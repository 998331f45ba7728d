import Bytes
import QueueFormat
import Testing

@testable import send

@Suite struct ScheduleTests {
  @Test("messages come out by time, whatever the order they went in")
  func order() {
    var schedule = Schedule()
    var seed: UInt64 = 1
    var times: [Int64] = []
    for number in 0..<500 as Range<UInt64> {
      seed = seed &* 6_364_136_223_846_793_005 &+ 1
      let time = Int64(seed >> 40)
      times.append(time)
      schedule.insert(number, at: time)
    }
    var taken: [Int64] = []
    while let first = schedule.first, let number = schedule.take(dueAt: .max) {
      #expect(first.number == number)
      #expect(times[Int(number)] == first.time)
      taken.append(first.time)
    }
    #expect(taken == times.sorted())
  }

  @Test("nothing is taken before it is due; ALRM makes all due and keeps what was due first")
  func due() {
    var schedule = Schedule()
    schedule.insert(1, at: 50)
    schedule.insert(2, at: 100)
    schedule.insert(3, at: 200)
    #expect(schedule.take(dueAt: 49) == nil)
    schedule.advanceAll(to: 60)
    #expect(schedule.take(dueAt: 60) == 1)
    #expect(schedule.take(dueAt: 60) != nil)
    #expect(schedule.take(dueAt: 60) != nil)
    #expect(schedule.isEmpty)
  }
}

extension ScheduleTests {
  @Test("a message that is made due earlier comes before those that were due first")
  func advance() {
    var schedule = Schedule()
    for number in 1...20 as ClosedRange<UInt64> { schedule.insert(number, at: Int64(number) * 10) }
    schedule.advance(17, to: 5)
    schedule.advance(3, to: 100)  // not earlier
    schedule.advance(99, to: 0)  // not here
    #expect(schedule.take(dueAt: 5) == 17)
    #expect(schedule.take(dueAt: 30) == 1)
    #expect(schedule.take(dueAt: 30) == 2)
    #expect(schedule.take(dueAt: 30) == 3)
    #expect(schedule.count == 16)
  }
}

@Suite struct RetryTests {
  @Test("each pass that starts on time is the square of spec send.md 5", arguments: 1...80)
  func squares(attempt: Int64) {
    let birth: Int64 = 1_000_000_000
    let local = (10 * (attempt - 1)) * (10 * (attempt - 1))
    let remote = (20 * (attempt - 1)) * (20 * (attempt - 1))
    #expect(Retry.next(birth: birth, now: birth + local, .local) == birth + (10 * attempt) * (10 * attempt))
    #expect(Retry.next(birth: birth, now: birth + remote, .remote) == birth + (20 * attempt) * (20 * attempt))
  }

  @Test("a birth in the future counts as now; the root is the integer part up to 32 bits")
  func edges() {
    #expect(Retry.next(birth: 500, now: 100, .local) == 600)
    for (number, root) in [(0, 0), (1, 1), (3, 1), (4, 2), (99, 9), (100, 10), (4_294_967_295, 65535)]
      as [(Int64, Int64)]
    {
      #expect(Retry.squareRoot(number) == root)
    }
    #expect(Retry.squareRoot(.max) == 3_037_000_499)
  }
}

@Suite struct ReportTests {
  func parse(_ bytes: Bytes) -> [ReportParser.Report] {
    var parser = ReportParser()
    return bytes.compactMap { parser.feed($0) }
  }

  @Test("slot 0 is a delivery number, not the end of a report")
  func slotZero() {
    #expect(
      parse([0] + Bytes("Kok\n") + [0, 7] + Bytes("D") + [0]) == [
        .init(delivery: 0, body: Bytes("Kok\n")), .init(delivery: 7, body: Bytes("D")),
      ])
    #expect(parse([3, 0]) == [.init(delivery: 3, body: [])])
  }

  @Test("of an endless report 10,000 bytes are kept")
  func endless() {
    let reports = parse([1] + Bytes("Z") + Bytes(repeating: 65, count: 50000) + [0])
    #expect(reports.count == 1)
    #expect(reports[0].body.count == 9999)
  }

  @Test("the letter decides; an old message fails instead of waiting")
  func outcomes() {
    #expect(Outcome(Bytes("Kfine\n"), isDying: true) == .success(Bytes("fine\n")))
    #expect(Outcome(Bytes("Zlater\n"), isDying: false) == .deferral(Bytes("later\n")))
    #expect(Outcome(Bytes("Dno\n"), isDying: false) == .failure(Bytes("no\n")))
    #expect(Outcome(Bytes("?"), isDying: true) == .mangled)
    #expect(Outcome([], isDying: false) == .mangled)
    #expect(
      Outcome(Bytes("Zlater\n"), isDying: true)
        == .failure(
          Bytes("later\nI'm not going to try again; this message has been in the queue too long.\n")))
  }

  @Test(
    "VERP",
    arguments: [
      ("list-@host-@[]", "box@dom", "list-box=dom@host"),
      ("list-@host-@[]", "a@b@c", "list-a@b=c@host"),
      ("list-@host", "box@dom", "list-@host"),
      ("-@[]", "box@dom", "-@[]"),
      ("#@[]", "box@dom", "#@[]"),
      ("", "box@dom", ""),
      ("list-@host-@[]", "noat", "list-@host-@[]"),
    ])
  func verp(sender: String, recipient: String, expanded: String) {
    #expect(VERP.expand(sender: Bytes(sender.utf8), recipient: Bytes(recipient.utf8)) == Bytes(expanded.utf8))
  }
}

@Suite struct BounceTests {
  let settings = BounceSettings(
    from: Bytes("MAILER-DAEMON"), host: Bytes("mx.example"), doubleBounceRecipient: Bytes("postmaster@mx.example"),
    limit: nil)

  @Test("a paragraph never contains a blank line and ends with one")
  func paragraph() {
    let text = BounceParagraph.bytes(recipient: Bytes("a\nb@c"), report: Bytes("one\n\n\ntwo\n\n"))
    #expect(text == Bytes("<a_b@c>:\none\n//two\n\n\n"))
    #expect(BounceParagraph.bytes(recipient: Bytes("x@y"), report: Bytes("no")) == Bytes("<x@y>:\nno\n\n"))
    #expect(BounceParagraph.bytes(recipient: Bytes("x@y"), report: []) == Bytes("<x@y>:\n\n"))
  }

  @Test("bounce, double bounce, triple bounce")
  func kinds() throws {
    let bounce = try #require(Notice(1, sender: Bytes("a@b"), settings))
    #expect(bounce.kind == .bounce)
    #expect(bounce.sender == [])
    #expect(bounce.recipient == Bytes("a@b"))
    let verp = try #require(Notice(1, sender: Bytes("own-@h-@[]"), settings))
    #expect(verp.recipient == Bytes("own-@h"))
    let double = try #require(Notice(1, sender: [], settings))
    #expect(double.kind == .doubleBounce)
    #expect(double.sender == Bytes("#@[]"))
    #expect(double.recipient == Bytes("postmaster@mx.example"))
    #expect(try #require(Notice(1, sender: Bytes("-@[]"), settings)).kind == .doubleBounce)
    #expect(Notice(1, sender: Bytes("#@[]"), settings) == nil)
  }

  @Test("the fixed parts of QSBMF stand byte for byte")
  func head() throws {
    let notice = try #require(Notice(1, sender: Bytes("a b@c"), settings))
    let head = notice.head(settings, now: 0)
    #expect(
      head.hasPrefix(
        "Date: 1 Jan 1970 00:00:00 -0000\nFrom: MAILER-DAEMON@mx.example\nTo: \"a b\"@c\nSubject: failure notice\n\nHi. This is the qmail-send program at mx.example.\n"
      ))
    #expect(head.hasSuffix("\n\n"))
    #expect(notice.middle == Bytes("--- Below this line is a copy of the message.\n\nReturn-Path: <\"a b\"@c>\n"))
  }
}

@Suite struct TodoLinkTests {
  @Test("what todo says is understood, anything else ignored")
  func messages() {
    guard case .queued(4711, local: true, remote: true) = TodoLink.parse(Bytes("DB4711")[...]) else {
      Issue.record("DB")
      return
    }
    guard case .log(let line) = TodoLink.parse(Bytes("Lnew msg 1")[...]), line == Bytes("new msg 1") else {
      Issue.record("L")
      return
    }
    guard case .ready = TodoLink.parse(Bytes("R")[...]) else {
      Issue.record("todo has not said that it is alone")
      return
    }
    for text in ["", "D", "DB", "DBx", "DZ1", "Q", "DB1x"] { #expect(TodoLink.parse(Bytes(text.utf8)[...]) == nil) }
  }
}
