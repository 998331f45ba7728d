import Bytes
import SMTP
import Testing

private func encode(_ pieces: [ArraySlice<UInt8>]) -> Bytes {
  var encoder = DotEncoder()
  var wire = Bytes()
  for piece in pieces { encoder.feed(piece, into: &wire) }
  encoder.finish(into: &wire)
  return wire
}

@Suite struct DotEncoderTests {
  struct Case: Sendable {
    let message, wire: Bytes
    init(_ message: StaticString, _ wire: StaticString) {
      self.message = Bytes(message)
      self.wire = Bytes(wire)
    }
  }

  @Test(
    "a message goes out with CRLF and dots doubled, however it is cut",
    arguments: [
      Case("", ".\r\n"),
      Case("a\n", "a\r\n.\r\n"),
      Case("a", "a\r\n.\r\n"),
      Case(".\n..a\nb.\n", "..\r\n...a\r\nb.\r\n.\r\n"),
      Case("a\r\nb\n", "a\r\nb\r\n.\r\n"),
      Case("a\r.\nb\n", "a\r\n..\r\nb\r\n.\r\n"),
      Case("a\r.\r\nb\n", "a\r\n..\r\nb\r\n.\r\n"),
      Case("a\r\r\nb\n", "a\r\n\r\nb\r\n.\r\n"),
      Case("a\r\r.\n", "a\r\n\r\n..\r\n.\r\n"),
      Case("a\r", "a\r\n.\r\n"),
      Case("\r\n.\n", "\r\n..\r\n.\r\n"),
      Case("\n\n", "\r\n\r\n.\r\n"),
    ])
  func table(example: Case) {
    for pieces in cuts(example.message) { #expect(encode(pieces) == example.wire) }
  }

  @Test("no bare CR or LF and no early end, whatever the message holds")
  func neverBare() {
    for message in samples(3000, length: 12) {
      let wire = encode([message[...]])
      for (index, byte) in wire.enumerated() {
        if byte == .cr { #expect(index + 1 < wire.count && wire[index + 1] == .lf) }
        if byte == .lf { #expect(index > 0 && wire[index - 1] == .cr) }
      }
      let lines = Bytes(wire.filter { $0 != .cr }).split(separator: .lf, omittingEmptySubsequences: false)
      #expect(lines.count >= 2 && lines[lines.count - 2].equals(".") && lines.last?.isEmpty == true)
      for line in lines.dropLast(2) where line.first == .ascii(".") { #expect(line.hasPrefix("..")) }
      #expect(encode(message.indices.map { message[$0...$0] }) == wire)
    }
  }
}
