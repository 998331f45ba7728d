import Bytes
import Mail
import QueueFormat
import SMTP
import Testing

@testable import smtpd

@Suite struct TraceTests {
  private func peer(
    _ host: StaticString? = nil, _ info: StaticString? = nil, _ address: StaticString? = nil,
    _ local: StaticString? = nil
  ) -> Peer {
    Peer(
      host: host.map { Bytes($0) }, info: info.map { Bytes($0) }, address: address.map { Bytes($0) },
      local: local.map { Bytes($0) })
  }

  private func text(_ bytes: Bytes) -> String { String(decoding: bytes, as: UTF8.self) }

  @Test("the Received field has every part of spec smtp.md 6")
  func whole() {
    let field = peer("mx.example", "user", "192.0.2.1", "192.0.2.9").received(
      helo: Bytes("my_host"), isExtended: true, id: Bytes("01ARZ3NDEKTSV4RRFFQ69G5FAV"), at: UTCDate(0))
    #expect(
      text(field) == "Received: from mx.example (HELO my?host) (user@192.0.2.1)\n"
        + "  by 192.0.2.9 with ESMTP id 01ARZ3NDEKTSV4RRFFQ69G5FAV; 1 Jan 1970 00:00:00 -0000\n")
  }

  @Test("what is missing is unknown; HELO that says the same is left out")
  func parts() {
    #expect(
      text(peer().received(helo: nil, isExtended: false, id: [], at: UTCDate(0)))
        == "Received: from unknown (unknown)\n  by unknown with SMTP; 1 Jan 1970 00:00:00 -0000\n")
    #expect(
      text(peer("a.B").received(helo: Bytes("A.b"), isExtended: false, id: [], at: UTCDate(0))).hasPrefix(
        "Received: from a.B (unknown)\n"))
    #expect(
      text(peer("a").received(helo: [], isExtended: false, id: [], at: UTCDate(0))).hasPrefix(
        "Received: from a (HELO ) (unknown)\n"))
  }

  @Test("the longest field we write still shows its id to those who look for it")
  func idIsFound() {
    let long = Bytes(repeating: 120, count: 5000)
    let id = MessageID(nanoseconds: 1, random: Bytes(repeating: 7, count: 10))
    let peer = Peer(host: long, info: long, address: long, local: long)
    let field = peer.received(helo: long + [1], isExtended: true, id: id.bytes, at: UTCDate(0))
    let head = Bytes("Received: (qmail 1 invoked from network); 1 Jan 1970 00:00:00 -0000\n") + field
    let found = MessageID(
      head: Bytes(head.prefix(MessageID.headSize)), inode: 1, modified: 1, nanoseconds: 1, rootless: false)
    #expect(found == id)
  }
}

@Suite struct TextMeterTests {
  /// The code of the refusal of a text that comes as one piece or byte by byte.
  private func refusal(_ wire: Bytes, databytes: UInt64 = 0) -> Int? {
    var codes: [Int?] = []
    for pieces in [[wire[...]], wire.indices.map { wire[$0...$0] }] {
      var decoder = DotDecoder()
      var meter = TextMeter(databytes: databytes)
      for piece in pieces {
        var text = Bytes()
        _ = decoder.feed(piece, into: &text)
        meter.note(text[...], from: decoder)
      }
      codes.append(meter.refusal?.code)
    }
    #expect(codes[0] == codes[1])
    return codes[0]
  }

  private func hops(_ field: StaticString, _ count: Int) -> Bytes {
    Bytes(Array(repeating: Bytes(field), count: count).joined())
  }

  @Test("a hundred hops are a loop")
  func hops() {
    let end = Bytes("\r\n.\r\n")
    #expect(refusal(hops("Received: a\r\n", 99) + end) == nil)
    #expect(refusal(hops("Received: a\r\n", 100) + end) == 554)
    #expect(refusal(hops("rEceived :a\r\n", 50) + hops("DELIVERED-TO: a\r\n", 50) + end) == 554)
  }

  @Test("what only looks like a hop is none")
  func noHops() {
    for field: StaticString in [
      "Received-SPF: x\r\n", " Received: x\r\n", "X-Received: x\r\n", "Delivered: x\r\n", "Received\r\n",
      "Delivered-To-You: x\r\n",
    ] {
      #expect(refusal(hops(field, 200) + Bytes("\r\n.\r\n")) == nil)
    }
    #expect(refusal(Bytes("\r\n") + hops("Received: a\r\n", 200) + Bytes(".\r\n")) == nil)
  }

  @Test("databytes counts what is stored")
  func size() {
    #expect(refusal(Bytes("..3\r\n5678\r\n.\r\n"), databytes: 8) == nil)
    #expect(refusal(Bytes("..3\r\n56789\r\n.\r\n"), databytes: 8) == 552)
  }

  @Test("bare CR and LF are refused")
  func bare() {
    #expect(refusal(Bytes("a\nb\r\n.\r\n")) == 451)
    #expect(refusal(Bytes("a\rb\r\n.\r\n")) == 554)
    #expect(refusal(Bytes("a\r\n.\r\n")) == nil)
  }
}
