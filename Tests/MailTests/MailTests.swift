import Bytes
import Testing

@testable import Mail

@Suite struct MailTests {
  @Test(
    "a local-part is quoted when it is no dot-atom, a domain never",
    arguments: [
      ("a@b", "a@b"), ("a.b@c", "a.b@c"), ("", ""), ("@b", "\"\"@b"), (".a@b", "\".a\"@b"), ("a.@b", "\"a.\"@b"),
      ("a..b@c", "\"a..b\"@c"), ("a b@c", "\"a b\"@c"), ("a\"b\\c@d", "\"a\\\"b\\\\c\"@d"), ("a@b@c", "\"a@b\"@c"),
      ("a\nb@c", "\"a\\\nb\"@c"), ("bare", "bare"), ("a@b c", "a@b c"), ("ü@c", "\"ü\"@c"),
    ])
  func quoting(plain: String, quoted: String) {
    #expect(Mailbox(Bytes(plain.utf8)).quoted == Bytes(quoted.utf8))
  }

  @Test("the split is at the last @")
  func split() {
    let mailbox = Mailbox(Bytes("a@b@c"))
    #expect(Bytes(mailbox.localPart) == Bytes("a@b"))
    #expect(mailbox.domain.map { Bytes($0) } == Bytes("c"))
    #expect(Mailbox(Bytes("a")).domain == nil)
  }

  @Test(
    "dates",
    arguments: [
      (0, "1 Jan 1970 00:00:00 -0000", "Thu Jan  1 00:00:00 1970"),
      (951_782_400, "29 Feb 2000 00:00:00 -0000", "Tue Feb 29 00:00:00 2000"),
      (1_795_238_608, "21 Nov 2026 05:23:28 -0000", "Sat Nov 21 05:23:28 2026"),
      (4_102_444_799, "31 Dec 2099 23:59:59 -0000", "Thu Dec 31 23:59:59 2099"),
      (-1, "31 Dec 1969 23:59:59 -0000", "Wed Dec 31 23:59:59 1969"),
    ] as [(Int64, String, String)])
  func dates(time: Int64, header: String, asctime: String) {
    #expect(UTCDate(time).header == Bytes(header.utf8))
    #expect(UTCDate(time).asctime == Bytes(asctime.utf8))
  }

  @Test("days follow each other through four centuries")
  func calendar() {
    var previous = UTCDate(-86400)
    for day in stride(from: 0, through: 146097 * 86400, by: 86400) as StrideThrough<Int64> {
      let date = UTCDate(day)
      let isNext =
        date.day == previous.day + 1 && date.month == previous.month
        || date.day == 1 && (date.month == previous.month + 1 || date.month == 1 && date.year == previous.year + 1)
      #expect(isNext && date.weekday == (previous.weekday + 1) % 7)
      previous = date
    }
    #expect(UTCDate(1_795_238_608).compact == Bytes("20261121052328"))
  }
}
