import Bytes
import Testing

@testable import inject

@Suite("Header and body (spec inject.md 3)")
struct HeaderTests {
  struct Split: Equatable {
    var fields: [String]
    var end: HeaderEnd?
    var rest: String
  }

  /// Feeds the message in chunks of so many bytes.
  func split(_ message: Bytes, chunk: Int = .max) throws -> Split {
    var parser = HeaderParser()
    var rest = Bytes()
    var left = message[...]
    while !left.isEmpty {
      let piece = left.prefix(chunk)
      left = left.dropFirst(piece.count)
      if parser.end == nil { rest += try parser.feed(piece) } else { rest += piece }
    }
    parser.finish()
    return Split(fields: parser.fields.map { text($0.bytes) }, end: parser.end, rest: text(rest))
  }

  @Test(arguments: [
    ("A: b\nC: d\n\nbody\n", ["A: b\n", "C: d\n"], HeaderEnd.emptyLine, "body\n"),
    ("\nbody", [], .emptyLine, "body"),
    ("A: b\n c\n\td\n\n", ["A: b\n c\n\td\n"], .emptyLine, ""),
    ("A: b", ["A: b\n"], .endOfMessage, ""),
    ("A: b\n", ["A: b\n"], .endOfMessage, ""),
    ("A: b\n c", ["A: b\n c\n"], .endOfMessage, ""),
    ("", [], .endOfMessage, ""),
    ("body\n", [], .line(bytes("body\n")), ""),
    ("body", [], .line(bytes("body\n")), ""),
    ("A: b\nbody text\nmore", ["A: b\n"], .line(bytes("body t")), "ext\nmore"),
    (" A: b\n", [], .line(bytes(" ")), "A: b\n"),
    ("\tA: b\n", [], .line(bytes("\t")), "A: b\n"),
    (": b\n", [], .line(bytes(":")), " b\n"),
    ("A \t: b\n", ["A \t: b\n"], .endOfMessage, ""),
    ("A b: c\n", [], .line(bytes("A b")), ": c\n"),
    ("\u{e9}: b\n", [], .line([0xc3]), "\u{fffd}: b\n"),
    ("A\u{7f}: b\n", [], .line(bytes("A\u{7f}")), ": b\n"),
    ("A\0: b\n", [], .line(bytes("A\0")), ": b\n"),
    ("From x y\nA: b\n", ["MBOX-Line: From x y\n", "A: b\n"], .endOfMessage, ""),
    ("A: b\nFrom x y\n z\n\n", ["A: b\n", "MBOX-Line: From x y\n z\n"], .emptyLine, ""),
    ("From: x\n", ["From: x\n"], .endOfMessage, ""),
    ("From : x\n", ["MBOX-Line: From : x\n"], .endOfMessage, ""),
    ("From\t: x\n", ["From\t: x\n"], .endOfMessage, ""),
    ("from x\n", [], .line(bytes("from x")), "\n"),
    ("A: b\r\n\r\nbody", ["A: b\r\n"], .line(bytes("\r")), "\nbody"),
    ("A:\n\n", ["A:\n"], .emptyLine, ""),
    ("A: \0\n \n\n\0", ["A: \0\n \n"], .emptyLine, "\0"),
  ])
  func splits(message: String, fields: [String], end: HeaderEnd, rest: String) throws {
    let whole = try split(bytes(message))
    #expect(whole == Split(fields: fields, end: end, rest: rest))
    for chunk in 1...3 { #expect(try split(bytes(message), chunk: chunk) == whole) }
  }

  @Test("nothing is lost or added, wherever random bytes are cut")
  func random() throws {
    var generator = Generator(state: 3)
    for round in 0..<5_000 {
      let message = (0..<(round % 40)).map { _ in bytes("AF: \t\n\nrom\0").randomElement(using: &generator)! }
      let whole = try split(message)
      #expect(try split(message, chunk: 1) == whole)
      let start = if case .line(let start)? = whole.end { text(start) } else { whole.end == .emptyLine ? "\n" : "" }
      var again = whole.fields.joined() + start + whole.rest
      again.replace("MBOX-Line: ", with: "")
      if again != text(message) { #expect(again == text(message) + "\n") }
    }
  }

  @Test("a header that never ends is refused")
  func endless() throws {
    var parser = HeaderParser()
    let line = bytes("A: " + String(repeating: "x", count: 65532) + "\n")
    for _ in 0..<256 { _ = try parser.feed(line[...]) }
    #expect(parser.fields.count == 255)
    #expect(throws: HeaderParser.TooLong.self) { try parser.feed(line[...]) }
  }

  @Test("a line without colon is body long before the header's limit")
  func longLine() throws {
    let result = try split(Bytes(repeating: .ascii("x"), count: 1_000_000))
    #expect(result.fields.isEmpty)
    guard case .line(let start)? = result.end else {
      Issue.record("no body")
      return
    }
    #expect(start.count + result.rest.utf8.count == 1_000_000)
    #expect(start.count <= HeaderParser.nameLimit + 1)
  }
}

@Suite("Fields known by name (spec inject.md 4)")
struct FieldKindTests {
  @Test(arguments: FieldKind.allCases.filter { $0 != .other })
  func namesInAnyCase(kind: FieldKind) {
    let name = kind.name.description
    #expect(FieldKind(bytes(name)[...]) == kind)
    #expect(FieldKind(bytes(name.uppercased())[...]) == kind)
    #expect(FieldKind(bytes(name.lowercased())[...]) == kind)
    #expect(FieldKind(bytes(name + "x")[...]) == .other)
    #expect(Field(bytes(name + " \t: x\n")).kind == kind)
  }

  @Test func others() {
    for name in ["", "Subject", "Received", "X-To", "T", "Resent-Whatever", "MBOX-Line"] {
      #expect(FieldKind(bytes(name)[...]) == .other)
    }
  }

  @Test func resent() {
    let marks = FieldKind.allCases.filter { $0.marksResent }.map { $0.name.description }
    #expect(marks.allSatisfy { $0.hasPrefix("Resent-") })
    #expect(marks.count == 8)
  }
}
