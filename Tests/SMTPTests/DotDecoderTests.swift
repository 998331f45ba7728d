import Bytes
import SMTP
import Testing

private struct Decoded: Equatable {
  var text = Bytes()
  /// Bytes behind the end; nil if it did not come.
  var after: Int?
  var bareCR = false
  var bareLF = false
}

private func decode(_ pieces: [ArraySlice<UInt8>]) -> Decoded {
  var decoder = DotDecoder()
  var decoded = Decoded()
  for piece in pieces {
    if let after = decoded.after {
      decoded.after = after + piece.count
    } else {
      decoded.after = decoder.feed(piece, into: &decoded.text)
    }
  }
  decoded.bareCR = decoder.hasBareCR
  decoded.bareLF = decoder.hasBareLF
  return decoded
}

/// The definition, slow and plain: the end is the first CR LF . CR LF, the start of DATA counting as after CR LF.
private func reference(_ wire: Bytes) -> Decoded {
  let marked = Bytes("\r\n") + wire
  var decoded = Decoded()
  var end = marked.count
  var at = 0
  while at + 5 <= marked.count {
    if marked[at..<(at + 5)].equals("\r\n.\r\n") {
      end = at + 2
      decoded.after = marked.count - at - 5
      break
    }
    at += 1
  }
  for index in 2..<max(2, end) {
    let byte = marked[index]
    let next = index + 1 < marked.count ? marked[index + 1] : nil
    if byte == .cr, let next, next != .lf { decoded.bareCR = true }
    if byte == .lf, index == 2 || marked[index - 1] != .cr { decoded.bareLF = true }
  }
  return decoded
}

@Suite struct DotDecoderTests {
  struct Case: Sendable {
    let wire, text: Bytes
    let after: Int?
    let bareCR, bareLF: Bool
    init(_ wire: StaticString, _ text: StaticString, _ after: Int?, cr: Bool = false, lf: Bool = false) {
      self.wire = Bytes(wire)
      self.text = Bytes(text)
      self.after = after
      bareCR = cr
      bareLF = lf
    }
  }

  @Test(
    "each way a message can go on or end, however it is cut",
    arguments: [
      Case(".\r\n", "", 0),
      Case("a\r\n.\r\nQUIT\r\n", "a\n", 6),
      Case("..\r\n.\r\n", ".\n", 0),
      Case(".a\r\n..b.\r\n.\r\n", "a\n.b.\n", 0),
      Case("\r\n\r\n.\r\n", "\n\n", 0),
      Case("a\u{0}\u{ff}\r\n.\r\n", "a\u{0}\u{ff}\n", 0),
      Case("a", "a", nil),
      Case("a\r\n.\r", "a\n", nil),
      Case("a\n.\r\nb\r\n.\r\n", "a\n.\nb\n", 0, lf: true),
      Case("a\n.\nb\r\n.\r\n", "a\n.\nb\n", 0, lf: true),
      Case("a\r\n.\nb\r\n.\r\n", "a\n\nb\n", 0, lf: true),
      Case("\nb\r\n.\r\n", "\nb\n", 0, lf: true),
      Case("a\r.\r\nb\r\n.\r\n", "a\r.\nb\n", 0, cr: true),
      Case("a\r\r\n.\r\n", "a\r\n", 0, cr: true),
      Case("a\r\n.\rb\r\n.\r\n", "a\n.\rb\n", 0, cr: true),
      Case("a\r\n.\r\r\n.\r\n", "a\n.\r\n", 0, cr: true),
      Case("a\r\n.\r.\r\n.\r\n", "a\n.\r.\n", 0, cr: true),
      Case("a\r.\rb\n.\n\r\n.\r\n", "a\r.\rb\n.\n\n", 0, cr: true, lf: true),
    ])
  func table(example: Case) {
    for pieces in cuts(example.wire) {
      let decoded = decode(pieces)
      #expect(decoded.text == example.text)
      #expect(decoded.after == example.after)
      #expect(decoded.bareCR == example.bareCR)
      #expect(decoded.bareLF == example.bareLF)
    }
  }

  @Test("end and faults are those of the definition, whatever comes")
  func definition() {
    for wire in samples(5000, length: 14) {
      var decoded = decode([wire[...]])
      let expected = reference(wire)
      #expect(decode(wire.indices.map { wire[$0...$0] }) == decoded)
      decoded.text = []
      #expect(decoded == expected, "\(wire)")
    }
  }

  @Test("what the encoder sends, the decoder gives back")
  func roundTrip() {
    for message in samples(2000, length: 20, over: Bytes("\n.ab\n")) where message.last == .lf {
      var encoder = DotEncoder()
      var wire = Bytes()
      encoder.feed(message[...], into: &wire)
      encoder.finish(into: &wire)
      #expect(decode([wire[...]]) == Decoded(text: message, after: 0))
    }
  }
}
