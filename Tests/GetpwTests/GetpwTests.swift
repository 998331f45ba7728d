import Bytes
import Testing

@testable import getpw

@Suite struct GetpwTests {
  @Test("the longest name comes first, the extension keeps its case")
  func order() {
    #expect(
      readings(of: Bytes("Ann-Lists-X")) == [
        Reading(name: Bytes("ann-lists-x"), dash: [], ext: []),
        Reading(name: Bytes("ann-lists"), dash: Bytes("-"), ext: Bytes("X")),
        Reading(name: Bytes("ann"), dash: Bytes("-"), ext: Bytes("Lists-X")),
      ])
  }

  @Test("a name is never empty")
  func empty() {
    #expect(readings(of: []) == [])
    #expect(readings(of: Bytes("-x")).map(\.name) == [Bytes("-x")])
    #expect(
      readings(of: Bytes("a-")) == [
        Reading(name: Bytes("a-"), dash: [], ext: []), Reading(name: Bytes("a"), dash: Bytes("-"), ext: []),
      ])
  }

  @Test("names of 32 bytes and more are no names")
  func long() {
    let name = Bytes(repeating: .ascii("a"), count: 31)
    #expect(readings(of: name).count == 1)
    #expect(readings(of: name + Bytes("b")).isEmpty)
    #expect(readings(of: name + Bytes("-") + name).map(\.name) == [name])
  }
}
