import Bytes
import Testing

@testable import System

@Suite("A command line is read as getopt(3) reads it")
struct OptionsTests {
  /// Letters with their values, `f` and `q` taking one; `q` only in its own word. Then the operands.
  func read(_ words: String...) -> ([String], [String]) {
    var options = Options(words.map { Bytes($0.utf8) })
    var seen: [String] = []
    func text(_ bytes: Bytes) -> String { String(decoding: bytes, as: UTF8.self) }
    while let letter = options.next() {
      var item = text([letter])
      if letter == .ascii("f") { item += "=" + (options.value().map(text) ?? "(none)") }
      if letter == .ascii("q") { item += "=" + text(options.attachedValue()) }
      seen.append(item)
    }
    return (seen, options.operands.map(text))
  }

  @Test func lettersTogetherAndApart() {
    #expect(read("-ab", "-c", "x") == (["a", "b", "c"], ["x"]))
  }

  @Test func valuesAttachedAndApart() {
    #expect(read("-fx", "-af", "y", "z") == (["f=x", "a", "f=y"], ["z"]))
    #expect(read("-f", "", "-f", "-a") == (["f=", "f=-a"], []))
    #expect(read("-f") == (["f=(none)"], []))
    #expect(read("-q30m", "-q", "x") == (["q=30m", "q="], ["x"]))
  }

  @Test func optionsEnd() {
    #expect(read("-a", "--", "-b") == (["a"], ["-b"]))
    #expect(read("-a", "x", "-b") == (["a"], ["x", "-b"]))
    #expect(read("-", "-b") == ([], ["-", "-b"]))
    #expect(read("--", "--") == ([], ["--"]))
  }
}
