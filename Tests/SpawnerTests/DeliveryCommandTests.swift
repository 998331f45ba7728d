// The loop itself is tested from outside, with real pipes and children (Tests/e2e): a test process has
// threads, and what is forked from it may find locks that nobody will ever open.

import Bytes
import Testing

@testable import Spawner

private func bytes(_ slot: UInt8, _ message: String, _ sender: String, _ recipient: String) -> Bytes {
  [slot] + Bytes(message.utf8) + [0] + Bytes(sender.utf8) + [0] + Bytes(recipient.utf8) + [0]
}

private func commands(in stream: Bytes) -> [DeliveryCommand] {
  var parser = DeliveryCommandParser()
  return stream.compactMap { parser.feed($0) }
}

@Suite struct DeliveryCommandTests {
  @Test("slot 0, empty fields, and the next command")
  func stream() {
    let found = commands(in: Bytes("\0\0\0\0") + bytes(255, "1/2", "a", "b@c"))
    #expect(found.count == 2)
    #expect(found[0] == DeliveryCommand())
    #expect(found[1].slot == 255)
    #expect(found[1].message == Bytes("1/2"))
    #expect(found[1].sender == Bytes("a"))
    #expect(found[1].recipient == Bytes("b@c"))
  }

  @Test("a command cut anywhere is no command")
  func cut() {
    let whole = bytes(5, "1/2", "s@a", "r@b")
    for length in 0..<whole.count { #expect(commands(in: Bytes(whole.prefix(length))).isEmpty) }
    #expect(commands(in: whole).count == 1)
  }

  @Test("an endless field costs bounded memory, and the stream stays in step")
  func endlessField() {
    let long = String(repeating: "a", count: 1_000_000)
    let found = commands(in: bytes(4, "1/2", long, "r@b") + bytes(5, "1/2", "s", "r@b"))
    #expect(found.map(\.isOversized) == [true, false])
    #expect(found[0].sender.count == DeliveryCommand.fieldLimit)
    #expect(throws: DeliveryCommand.Fault.oversized) { try found[0].checked(slots: 120) { _ in false } }
    #expect(Bytes(DeliveryCommand.Fault.oversized.report) == Bytes("Zqmail-spawn out of memory. (#4.3.0)\n"))
    #expect(found[1].slot == 5)
  }

  @Test(
    "refused without a look at the disk",
    arguments: [
      (bytes(120, "1/2", "s", "r@b"), "ZInternal error: delnum too big. (#4.3.5)\n"),
      (bytes(7, "1/2", "s", "r@b"), "ZInternal error: delnum in use. (#4.3.5)\n"),
      (bytes(9, "1/x", "s", "r@b"), "DInternal error: messid has nonnumerics. (#5.3.5)\n"),
      (bytes(9, "/1/2", "s", "r@b"), "DInternal error: messid has nonnumerics. (#5.3.5)\n"),
      (bytes(9, "../1", "s", "r@b"), "DInternal error: messid has nonnumerics. (#5.3.5)\n"),
      (bytes(9, "", "s", "r@b"), "DInternal error: messid too short. (#5.3.5)\n"),
      (bytes(9, String(repeating: "1", count: 101), "s", "r@b"), "DInternal error: messid too long. (#5.3.5)\n"),
      (bytes(9, "1/2", "s", "r"), "DSorry, address must include host name. (#5.1.3)\n"),
      (bytes(9, "1/2", "s", ""), "DSorry, address must include host name. (#5.1.3)\n"),
    ])
  func refusals(input: Bytes, text: String) throws {
    let command = try #require(commands(in: input).first)
    do throws(DeliveryCommand.Fault) {
      _ = try command.checked(slots: 120) { $0 == 7 }
      Issue.record("accepted")
    } catch {
      #expect(Bytes(error.report) == Bytes(text.utf8))
    }
  }

  @Test("the last @ divides; a name of 100 bytes is good")
  func good() throws {
    let command = try #require(commands(in: bytes(119, String(repeating: "1", count: 100), "", "a@b@c")).first)
    #expect(try command.checked(slots: 120) { _ in false } == 3)
  }

  @Test("a cut output keeps the limit and says so", arguments: [31, 100, 3000])
  func cutting(limit: Int) {
    let text = cutOutput(Bytes(repeating: .ascii("x"), count: limit), limit: limit)
    #expect(text.count == limit)
    #expect(text.hasSuffix("\nError report too long, sorry.\n"))
  }
}
