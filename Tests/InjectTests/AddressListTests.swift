import Bytes
import Testing

@testable import inject

@Suite("Tokens of a structured field (spec inject.md 6)")
struct TokensTests {
  func kinds(_ source: String) -> [TokenKind]? { Tokens(bytes(source)[...])?.all.map { $0.kind } }

  @Test(arguments: [
    ("a@b.c", [TokenKind.atom, .at, .atom, .dot, .atom]),
    ("<>:;,", [.left, .right, .colon, .semicolon, .comma]),
    ("\"a b\" (c) [d]", [.quoted, .comment, .literal]),
    ("a\"b\"c", [.atom, .quoted, .atom]),
    ("a(b)c", [.atom, .comment, .atom]),
    (" \t\r\n", []),
    ("", []),
    ("\"\"", [.quoted]),
    ("J\u{fc}rgen", [.quoted]),
    ("a)b", [.quoted]),
    ("a]b", [.quoted]),
    ("a\\\\b", [.quoted]),
    ("a\\b", [.atom]),
    ("a\\@b", [.quoted]),
    ("a\\ b", [.quoted]),
    ("a\u{7f}", [.quoted]),
    ("a\u{1}", [.quoted]),
    ("!#$%&'*+-/=?^_`{|}~", [.atom]),
  ])
  func reads(source: String, expected: [TokenKind]) { #expect(kinds(source) == expected) }

  @Test(arguments: [
    ("\"a\\\"b\"", "a\"b"), ("(a (b) c)", "a (b) c"), ("(a \\( b)", "a ( b"), ("[1\\]2]", "1]2"), ("a\\bc", "abc"),
    ("\"a\n b\"", "a\n b"),
  ])
  func unescapes(source: String, expected: String) {
    #expect(Tokens(bytes(source)[...]).map { text($0[0].text) } == expected)
  }

  @Test(arguments: [
    ")", "]", "a )", "a ]", "(", "((a)", "(a\\)", "\"", "\"a\\\"", "[", "[a", "\\", "a\\", "a\0", "(\0)", "\"\\",
  ])
  func refuses(source: String) { #expect(Tokens(bytes(source)[...]) == nil) }

  @Test("a million open parentheses need no stack")
  func depth() {
    let open = Bytes(repeating: .ascii("("), count: 1_000_000)
    let close = Bytes(repeating: .ascii(")"), count: 1_000_000)
    #expect(Tokens(open[...]) == nil)
    let nested = open + bytes("x") + close
    let tokens = Tokens(nested[...])
    #expect(tokens?.count == 1)
    #expect(tokens?[0].text.count == 1_999_999)
  }

  @Test("printed tokens are read as the same tokens")
  func stable() {
    var generator = Generator(state: 1)
    var valid = 0
    for round in 0..<60_000 {
      let source = randomSource(&generator, length: round % 24)
      guard let first = Tokens(source[...]) else { continue }
      valid += 1
      var printer = FieldPrinter(name: bytes("X")[...])
      for token in first.all { printer.put(token) }
      let printed = printer.finish()
      let second = Tokens(printed[2...])
      #expect(second?.all == first.all, "\(text(source)) was printed as \(text(printed))")
      if second?.all != first.all { return }
    }
    #expect(valid > 5_000)
  }
}

@Suite("Address lists are read from right to left (spec inject.md 6)")
struct AddressListTests {
  @Test(arguments: [
    ("a@b.c", ["a@b.c"]),
    ("a@b.c,d@e.f", ["a@b.c", "d@e.f"]),
    ("a@b.c d@e.f", ["a@b.c", "d@e.f"]),
    ("Joe <a@b.c>", ["a@b.c"]),
    ("Joe A. \"B\" @ C <a@b.c>, <d@e.f>", ["a@b.c", "d@e.f"]),
    ("<a@b.c> <d@e.f>", ["a@b.c", "d@e.f"]),
    ("<a@b.c> d@e.f", ["a@b.c", "d@e.f"]),
    ("g: a@b.c, d@e.f;, x@y.z", ["a@b.c", "d@e.f", "x@y.z"]),
    ("g: ;", []),
    ("g h i: a@b.c;", ["a@b.c"]),
    ("x@y.z, g: a@b.c; u@v.w", ["x@y.z", "a@b.c", "u@v.w"]),
    ("", []),
    (",,,", []),
    ("a@b.c (x) d@e.f", ["a@b.c", "d@e.f"]),
    ("<>", [""]),
    ("(x) a (y) @ (z) b.c", ["a@b.c"]),
    ("<a (comment) @b.c>", ["a@b.c"]),
    ("\"a b\"@c.d", ["a b@c.d"]),
    ("\"a\\\"b\"@c.d", ["a\"b@c.d"]),
    ("a@[1.2.3.4]", ["a@[1.2.3.4]"]),
    ("a . b @ c . d", ["a.b@c.d"]),
    ("a@b.c (Joe, the <x>)", ["a@b.c"]),
    ("<@r1,@r2:a@b.c>", ["a@b.c"]),
    ("a@b.c\r\n , d@e.f", ["a@b.c", "d@e.f"]),
    ("a <b@c.d> e <f@g.h>", ["b@c.d", "f@g.h"]),
  ])
  func finds(body: String, addresses: [String]) { #expect(rewrite(body)?.addresses == addresses) }

  @Test(arguments: ["a>", ">", "g: a; b;;", ";;", "a:b", ":", "a;b;", "(", "\"a@b.c", "a@b.c )", "@a:b@c"])
  func refuses(body: String) { #expect(rewrite(body) == nil) }

  @Test("an address longer than any envelope is no address")
  func longAddress() {
    #expect(rewrite(String(repeating: "a.", count: 4000) + "b") == nil)
    #expect(rewrite(String(repeating: "a.", count: 2000) + "b")?.addresses.count == 1)
  }

  @Test("more addresses than the budget are refused")
  func manyAddresses() {
    let few = String(repeating: "a@b.c,", count: 50_000)
    #expect(rewrite(few)?.addresses.count == 50_000)
    let many = Field(bytes("To:" + String(repeating: "a,", count: RewritingRules.mostAddresses + 1) + "\n"))
    #expect(throws: AddressFault.tooMany) { try rules.rewrite(many) }
  }

  @Test("random bytes are read or refused, and what was printed can be read again")
  func random() {
    var generator = Generator(state: 2)
    var valid = 0
    for round in 0..<60_000 {
      let body = randomSource(&generator, length: round % 32)
      guard let once = try? rules.rewrite(Field(bytes("To:") + body + [.lf])) else { continue }
      valid += 1
      // Reading again finds as many addresses; an inserted comma stays where it is.
      let twice = try? rules.rewrite(Field(once.bytes))
      #expect(twice != nil, "\(text(body)) became \(text(once.bytes))")
      if twice == nil { return }
    }
    #expect(valid > 3_000)
  }
}
