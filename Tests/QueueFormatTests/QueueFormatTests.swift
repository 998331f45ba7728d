import Bytes
import Testing

@testable import QueueFormat

@Suite struct QueueFormatTests {
  @Test("names follow the number and its remainder by 23")
  func names() {
    #expect(QueuePath.mess(16_228_563).bytes == Bytes("mess/16/16228563"))
    #expect(QueuePath.recipients(23, .remote).bytes == Bytes("remote/0/23"))
    #expect(QueuePath.todo(5).bytes == Bytes("todo/5"))
    #expect(QueuePath.number(of: Bytes("123")) == 123)
    #expect(QueuePath.number(of: Bytes("12x")) == nil)
    #expect(QueuePath.number(of: Bytes(".123")) == nil)
  }

  @Test(
    "records are read as they are printed",
    arguments: [
      TodoRecord.uid(0), .uid(1000), .pid(4711), .sender([]), .sender(Bytes("a@b")), .recipient(Bytes("x y@z")),
    ])
  func records(record: TodoRecord) {
    #expect(record.bytes.last == 0)
    #expect(TodoRecord(Bytes(record.bytes.dropLast())) == record)
  }

  @Test("a strange letter, a number that is none and an empty record are refused")
  func strange() {
    for text in ["", "Xa", "u", "ux", "p-1", "p99999999999999999999"] {
      #expect(TodoRecord(Bytes(text.utf8)) == nil)
    }
  }

  @Test("an info file is F, sender, NUL")
  func info() {
    #expect(InfoRecord.bytes(sender: Bytes("a@b")) == Bytes("Fa@b") + [0])
    #expect(InfoRecord.sender(in: Bytes("Fa@b") + [0]) == Bytes("a@b"))
    #expect(InfoRecord.sender(in: Bytes("F") + [0]) == [])
    #expect(InfoRecord.sender(in: Bytes("Fa@b")) == nil)
    #expect(InfoRecord.sender(in: []) == nil)
  }
}

@Suite struct MessageIDTests {
  let ours = "01ARZ3NDEKTSV4RRFFQ69G5FAV"

  func head(_ first: String, _ rest: String) -> Bytes { Bytes((first + "\n" + rest).utf8) }
  let network = "Received: (qmail 1 invoked from network); 1 Jan 1970 00:00:00 -0000"
  let script = "Received: (qmail 1 invoked by uid 7); 1 Jan 1970 00:00:00 -0000"

  func id(_ head: Bytes, rootless: Bool = false) -> MessageID {
    MessageID(head: head, inode: 99, modified: 5, nanoseconds: 1, rootless: rootless)
  }

  @Test("time comes first, then what makes it unique")
  func layout() {
    let id = MessageID(nanoseconds: 1_469_918_176_385_000_000, random: Bytes(repeating: 0, count: 10))
    #expect(id.bytes == Bytes("01ARYZ6S410000000000000000"))
    let full = MessageID(nanoseconds: 0, random: Bytes(repeating: 255, count: 10))
    #expect(full.bytes == Bytes("0000000000ZZZZZZZZZZZZZZZZ"))
    #expect(MessageID(full.bytes[...]) == full)
  }

  @Test("two files that share inode or time have different ids")
  func derived() {
    let one = MessageID(inode: 7, modified: 100, nanoseconds: 999_999)
    #expect(one != MessageID(inode: 8, modified: 100, nanoseconds: 999_999))
    #expect(one != MessageID(inode: 7, modified: 100, nanoseconds: 999_998))
    #expect(one != MessageID(inode: 7, modified: 101, nanoseconds: 999_999))
    #expect(one == MessageID(inode: 7, modified: 100, nanoseconds: 999_999))
  }

  @Test("smtpd's id is found in its Received line, also below what a filter added")
  func received() {
    let field = "Received: from x (HELO y) (192.0.2.1)\n  by mx with ESMTP id \(ours); 1 Jan 1970 00:00:00 -0000\n"
    #expect(id(head(network, field + "Subject: x\n\n")).bytes == Bytes(ours.utf8))
    #expect(id(head(network, "X-Filter: yes\n" + field)).bytes == Bytes(ours.utf8))
    #expect(id(head(script, field), rootless: true).bytes == Bytes(ours.utf8))
  }

  @Test("nobody else can choose an id: not a script, not a client, not in the body")
  func forged() {
    let field = "Received: from x\n  by mx with ESMTP id \(ours); 1 Jan 1970 00:00:00 -0000\n"
    let none = MessageID(inode: 99, modified: 5, nanoseconds: 1)
    #expect(id(head(script, field)) == none)
    #expect(id(head(network, "Received: by mx with SMTP; today\n" + field)) == none)
    #expect(id(head(network, "Subject: x\n\n" + field)) == none)
    #expect(id(head(network, "Received: id \(ours.dropLast())!; x\n")) == none)
    #expect(id(head(network, "Received:;\n")) == none)
    #expect(id([]) == none)
    #expect(id(head(script, "Delivered-To: a@b\n" + field), rootless: true) == none)
  }
}
