import Bytes

@testable import inject

/// Our own text as bytes.
func bytes(_ text: String) -> Bytes { Bytes(text.utf8) }
/// Bytes as text, for messages a person can read.
func text<B: Sequence>(_ bytes: B) -> String where B.Element == UInt8 { String(decoding: Array(bytes), as: UTF8.self) }

/// Rules with the domains DH, DD and PD.
let rules = RewritingRules(defaultHost: bytes("DH"), defaultDomain: bytes("DD"), plusDomain: bytes("PD"))!

/// The address list `body` of a field `To`, rewritten; nil if it is none.
func rewrite(_ body: String, name: String = "To") -> (field: String, addresses: [String])? {
  guard let result = try? rules.rewrite(Field(bytes(name + ":" + body + "\n"))) else { return nil }
  return (text(result.bytes), result.addresses.map { text($0) })
}

/// A source of numbers that is the same in every run.
struct Generator: RandomNumberGenerator {
  var state: UInt64
  mutating func next() -> UInt64 {
    state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
    var x = state
    x ^= x >> 33
    x = x &* 0xff51_afd7_ed55_8ccd
    return x ^ (x >> 33)
  }
}

/// Bytes in which every construct of the syntax is likely.
func randomSource(_ generator: inout Generator, length: Int) -> Bytes {
  let alphabet = bytes("ab@@..,,<>:;()[]\"\\ \t\r\n+é\u{1}\u{7f})(") + [0xff]
  return (0..<length).map { _ in alphabet[Int.random(in: 0..<alphabet.count, using: &generator)] }
}
