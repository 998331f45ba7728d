import Bytes
import Testing

@testable import Control

@Suite struct ControlTests {
  @Test("a set ignores case and compares whole entries")
  func set() {
    let set = ControlSet([Bytes("Example.ORG")])
    #expect(set.contains(Bytes("eXample.org")))
    #expect(!set.contains(Bytes("a.example.org")))
    #expect(!set.contains(Bytes("")))
  }

  @Test("in a map the last of equal keys counts, and a value keeps its colons")
  func map() {
    let map = ControlMap(["a:1", "A:2", "b:c:d", "junk", ":all"].map { Bytes($0.utf8) })
    #expect(map[Bytes("a")] == Bytes("2"))
    #expect(map[Bytes("B")] == Bytes("c:d"))
    #expect(map[Bytes("junk")] == nil)
    #expect(map[Bytes("")] == Bytes("all"))
  }

  @Test(
    "domain search: itself, dot suffixes from the longest, the empty key",
    arguments: [
      ("a.b.c", "whole"), ("x.b.c", "suffix"), ("b.c", "short"), ("c", "all"), ("", "all"),
    ])
  func domains(domain: String, value: String) {
    let map = ControlMap(["a.b.c:whole", ".b.c:suffix", ".c:short", ":all"].map { Bytes($0.utf8) })
    #expect(map.value(forDomain: Bytes(domain.utf8)) == Bytes(value.utf8))
  }
}
