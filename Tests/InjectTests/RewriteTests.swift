import Bytes
import Testing

@testable import inject

@Suite("Rewriting one address (spec inject.md 7)")
struct RewriteTests {
  @Test(arguments: [
    // 1: source routes
    ("@a,@b:u@c.d", "u@c.d"), ("@a:u@c", "u@c.DD"), ("@a:", ""), ("@a", ""), ("@a,@b", ""), ("@a:b:c@d.e", "b:c@d.e"),
    // 2: one dot at the end
    ("u@c.", "u@c.DD"), ("u@c.d.", "u@c.d"), ("u@c.d..", "u@c.d."), (".", ""), ("u.", "u@DH.DD"),
    // 3: an @ at the end
    ("u@", "u@DH.DD"), ("u@.", "u@DH.DD"), ("u@c@", "u@c.DD"),
    // 4: no @
    ("u", "u@DH.DD"), ("\"u v\"", "u v@DH.DD"), ("u.v", "u.v@DH.DD"),
    // 5: plus
    ("u@cs+", "u@cs.PD"), ("u+", "u+@DH.DD"), ("u@a.b+", "u@a.b.PD"), ("u@\"cs+\"", "u@cs+.DD"), ("u@+", "u@.PD"),
    // 6: no dot
    ("u@c", "u@c.DD"), ("u@c.d", "u@c.d"), ("u@[1]", "u@[1]"), ("u@v@c", "u@v@c.DD"), ("u@v.w@c", "u@v.w@c.DD"),
    // Left alone
    ("u@[]", "u@[]"), ("u-@h-@[]", "u-@h-@[]"), ("\"#\"@[]", "#@[]"), ("", ""),
  ])
  func rule(before: String, after: String) {
    #expect(rewrite("<\(before)>")?.addresses == [after])
  }

  @Test("the default host passes the rules that follow")
  func defaultHost() throws {
    let plus = try #require(
      RewritingRules(defaultHost: bytes("cs+"), defaultDomain: bytes("DD"), plusDomain: bytes("PD.org")))
    #expect(plus.complete(quoted: bytes("u")).map { text($0) } == "u@cs.PD.org")
    let whole = try #require(
      RewritingRules(defaultHost: bytes("h.example"), defaultDomain: bytes("DD"), plusDomain: bytes("PD")))
    #expect(whole.complete(quoted: bytes("u")).map { text($0) } == "u@h.example")
  }

  @Test func domainsThatAreNone() {
    #expect(RewritingRules(defaultHost: bytes("a)"), defaultDomain: [], plusDomain: []) != nil)
    #expect(RewritingRules(defaultHost: bytes(")"), defaultDomain: [], plusDomain: []) == nil)
    #expect(RewritingRules(defaultHost: [], defaultDomain: bytes("\""), plusDomain: []) == nil)
    #expect(RewritingRules(defaultHost: [], defaultDomain: [], plusDomain: bytes("a\0")) == nil)
  }

  @Test("rewriting twice is rewriting once, unless an address has an odd end")
  func idempotent() {
    for before in ["u", "u@c", "u@cs+", "<@a:u@c>", "u@c.d.", "\"a b\"", "u@[1.2.3.4]"] {
      let once = rewrite(before)!
      let twice = rewrite(String(once.field.dropFirst(3).dropLast()))!
      #expect(once.addresses == twice.addresses)
      #expect(once.field == twice.field)
    }
  }
}

@Suite("Printing a field (spec inject.md 7, header form)")
struct UnparseTests {
  @Test(arguments: [
    (" a", "To: a@DH.DD\n"),
    (" a,b", "To: a@DH.DD, b@DH.DD\n"),
    (" Joe  A. Doe<a>", "To: Joe A.Doe <a@DH.DD>\n"),
    (" a b", "To: a@DH.DD, b@DH.DD\n"),
    (" <a> b", "To: <a@DH.DD>, b@DH.DD\n"),
    (" \"J\u{f6}\" (x (y) z) <a>", "To: \"J\u{f6}\" (x \\(y\\) z) <a@DH.DD>\n"),
    (" g:a,b;", "To: g: a@DH.DD, b@DH.DD;\n"),
    (" g:a; b", "To: g: a@DH.DD;, b@DH.DD\n"),
    (" a (x) @ b", "To: a@b.DD (x)\n"),
    (" <a (x) @ b>", "To: <a@b.DD (x)>\n"),
    (" a,,b,", "To: a@DH.DD, , b@DH.DD,\n"),
    (" a\\\"b", "To: a\\\"b@DH.DD\n"),
    (" \"a\\\\b\"", "To: \"a\\\\b\"@DH.DD\n"),
    (" a@b [x]", "To: a@b.DD, [x]@DH.DD\n"),
    (" \"a\n b\" <c>", "To: \"a\\\n b\" <c@DH.DD>\n"),
  ])
  func prints(body: String, field: String) { #expect(rewrite(body)?.field == field) }

  @Test func nameAsWritten() {
    #expect(rewrite("a", name: "tO")?.field == "tO: a@DH.DD\n")
    #expect(rewrite("a", name: "CC \t ")?.field == "CC: a@DH.DD\n")
  }

  @Test(
    "the bytes stay if no address changed",
    arguments: [
      "a@b.c", " a@b.c,d@e.f", "   Joe\n\t<a@b.c>  ,\n g:;", " \u{fc}ber <a@b.c>", "", " ", " <>", " a @ b.c (x)",
      " u@[]", String(repeating: "x", count: 100) + " <a@b.c>,    <d@e.f>",
    ])
  func unchanged(body: String) { #expect(rewrite(body)?.field == "To:" + body + "\n") }

  @Test("a line has at most 78 bytes, the comma included", arguments: [77, 78, 79])
  func width(length: Int) {
    let item = String(repeating: "y", count: length - 13 - 4) + "@b.c"
    let joined = "To: x@DH.DD, " + item
    #expect(joined.utf8.count == length)
    #expect(rewrite("x," + item)?.field == (length <= 78 ? joined : "To: x@DH.DD,\n  " + item) + "\n")
  }

  @Test("every line is as long as it may be and no longer")
  func folding() {
    for width in 1...90 {
      let address = String(repeating: "w", count: width) + "@b.c"
      let body = " x," + Array(repeating: address, count: 12).joined(separator: ",")
      let field = rewrite(body)!.field
      // The rule of the specification, said another way.
      var lines = ["To: x@DH.DD,"]
      for i in 0..<12 {
        let item = " " + address + (i == 11 ? "" : ",")
        if lines[lines.count - 1].utf8.count + item.utf8.count <= 78 {
          lines[lines.count - 1] += item
        } else {
          lines.append(" " + item)
        }
      }
      #expect(field == lines.joined(separator: "\n") + "\n")
    }
  }

  @Test("no line of blanks after a comma at the end")
  func commaAtTheEnd() {
    for width in 60...80 {
      let field = rewrite(" x," + String(repeating: "w", count: width) + ",")!.field
      #expect(!field.contains("\n \n"))
      #expect(!field.contains("\n  \n"))
    }
  }
}
