import Bytes
import Testing

@testable import remote

/// An answer to a question for example.org, built byte by byte.
struct Packet {
  var bytes: Bytes

  init(code: UInt8 = 0, answers: Int, type: RecordType = .mx) {
    bytes = DNSMessage.question(DomainName(Bytes("example.org"))!, type, id: [7, 7])
    bytes[2] = 0x81
    bytes[3] = 0x80 | code
    bytes[6] = UInt8(answers >> 8)
    bytes[7] = UInt8(answers & 255)
  }

  /// Adds a record whose owner is the question's name, by a pointer.
  mutating func add(type: UInt16, class: UInt8 = 1, _ data: Bytes) {
    bytes += [0xc0, 12, UInt8(type >> 8), UInt8(type & 255), 0, `class`, 0, 0, 1, 0]
    bytes += [UInt8(data.count >> 8), UInt8(data.count & 255)] + data
  }
}

private func name(_ text: String) -> DomainName { DomainName(Bytes(text.utf8))! }

@Suite struct DNSMessageTests {
  @Test("a question, byte for byte")
  func question() {
    #expect(
      DNSMessage.question(name("a.bc"), .aaaa, id: [1, 2])
        == [1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 97, 2, 98, 99, 0, 0, 28, 0, 1])
  }

  @Test("names: a final dot means the same; what can be no name is none")
  func names() {
    #expect(name("a.bc.") == name("a.bc"))
    #expect(name("a\\b").wire == [3, 97, 92, 98, 0])
    let label = String(repeating: "x", count: 63)
    #expect(DomainName(Bytes(label.utf8)) != nil)
    for bad in ["", ".", "a..b", ".a", "a..", label + "x", [label, label, label, label].joined(separator: ".")] {
      #expect(DomainName(Bytes(bad.utf8)) == nil)
    }
    #expect(
      DomainName(Bytes([label, label, label, String(repeating: "x", count: 61)].joined(separator: ".").utf8)) != nil)
  }

  @Test("mail exchangers, with and without compression, after a CNAME")
  func exchangers() throws {
    var packet = Packet(answers: 4)
    packet.add(type: 5, [1, 99, 0xc0, 12])
    packet.add(type: 15, [0, 10, 2, 109, 120, 0xc0, 12])
    packet.add(type: 15, [1, 0] + name("mx.example.com").wire)
    packet.add(type: 15, class: 3, [1, 0] + name("chaos").wire)
    #expect(
      try DNSMessage.records(.mx, in: packet.bytes) == [
        .exchanger(name("mx.example.org"), preference: 10), .exchanger(name("mx.example.com"), preference: 256),
      ])
  }

  @Test("addresses of both families")
  func addresses() throws {
    var four = Packet(answers: 1, type: .a)
    four.add(type: 1, [192, 0, 2, 1])
    #expect(try DNSMessage.records(.a, in: four.bytes) == [.address([192, 0, 2, 1])])
    var six = Packet(answers: 1, type: .aaaa)
    six.add(type: 28, Bytes(0...15))
    #expect(try DNSMessage.records(.aaaa, in: six.bytes) == [.address(Bytes(0...15))])
  }

  @Test("no data and no such name are hard, all other refusals soft", arguments: 0...15 as ClosedRange<UInt8>)
  func codes(code: UInt8) {
    let expected = code == 0 || code == 3 ? LookupFailure.hard : .soft
    #expect(throws: expected) { try DNSMessage.records(.mx, in: Packet(code: code, answers: 0).bytes) }
  }

  @Test("a message cut at any place is soft, and nothing worse")
  func everyCut() throws {
    var packet = Packet(answers: 2)
    packet.add(type: 15, [0, 10, 2, 109, 120, 0xc0, 12])
    packet.add(type: 15, [1, 0] + name("mx.example.com").wire)
    _ = try DNSMessage.records(.mx, in: packet.bytes)
    for length in 0..<packet.bytes.count {
      #expect(throws: LookupFailure.soft) { try DNSMessage.records(.mx, in: Bytes(packet.bytes.prefix(length))) }
    }
  }

  @Test(
    "names that lead in circles, forwards, beyond the end, or are too long",
    arguments: [
      [0xc0, 43],  // the pointer itself (the name begins at 43)
      [1, 97, 0xc0, 43],  // a label, then back to it
      [0xc0, 60],  // forwards
      [0xff, 0xff],  // beyond the end
      [0x40, 0],  // a label type that nobody uses
      [0x80, 0],
      [63, 97],  // a label longer than the rest
      [0xc0],  // half a pointer
    ] as [Bytes])
  func hostileNames(data: Bytes) {
    var packet = Packet(answers: 1)
    packet.add(type: 15, [0, 10] + data)
    #expect(throws: LookupFailure.soft) { try DNSMessage.records(.mx, in: packet.bytes) }
  }

  @Test("pointers that build a name of more than 255 bytes")
  func longName() {
    var packet = Packet(answers: 3)
    // 130 bytes, then a name that ends in them, then one that ends in that: 390.
    let labels = Bytes((0..<2).flatMap { _ in [64 - 1] + Bytes(repeating: 97, count: 63) })
    packet.add(type: 16, labels + [0])
    let first = packet.bytes.count - labels.count - 1
    packet.add(type: 16, labels + [0xc0 | UInt8(first >> 8), UInt8(first & 255)])
    let second = packet.bytes.count - labels.count - 2
    packet.add(type: 15, [0, 10, 0xc0 | UInt8(second >> 8), UInt8(second & 255)])
    #expect(throws: LookupFailure.soft) { try DNSMessage.records(.mx, in: packet.bytes) }
  }

  @Test("records of a wrong length, a question instead of an answer, records that are promised and missing")
  func otherLies() {
    for (type, data) in [(RecordType.a, Bytes(0...4)), (.aaaa, Bytes(0...3)), (.mx, [0]), (.mx, [0, 1, 0, 0])] {
      var packet = Packet(answers: 1, type: type)
      packet.add(type: type.rawValue, data)
      #expect(throws: LookupFailure.soft) { try DNSMessage.records(type, in: packet.bytes) }
    }
    var question = Packet(answers: 0)
    question.bytes[2] = 1
    #expect(throws: LookupFailure.soft) { try DNSMessage.records(.mx, in: question.bytes) }
    #expect(throws: LookupFailure.soft) { try DNSMessage.records(.mx, in: Packet(answers: 65535).bytes) }
  }

  @Test("random changes of a good message never stop the reader")
  func fuzz() {
    var packet = Packet(answers: 2)
    packet.add(type: 15, [0, 10, 2, 109, 120, 0xc0, 12])
    packet.add(type: 15, [1, 0] + name("mx.example.com").wire)
    var random = SystemRandomNumberGenerator()
    for _ in 0..<20_000 {
      var bytes = packet.bytes
      for _ in 0..<Int.random(in: 1...4, using: &random) {
        bytes[Int.random(in: bytes.indices, using: &random)] = UInt8.random(in: 0...255, using: &random)
      }
      _ = try? DNSMessage.records(.mx, in: bytes)
    }
  }
}
