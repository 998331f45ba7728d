import Bytes
import Testing

@Suite struct BytesTests {
  @Test("decimal digits are printed and read back", arguments: [0, 7, 10, 1003, UInt64.max] as [UInt64])
  func decimal(number: UInt64) {
    #expect(Bytes(decimal: number).decimal == number)
    #expect(Bytes(decimal: number) == Bytes(String(number).utf8))
  }

  @Test("a number above 64 bits, an empty text and a sign are no number")
  func noNumber() {
    #expect(Bytes("18446744073709551616").decimal == nil)
    #expect(Bytes("").decimal == nil)
    #expect(Bytes("-1").decimal == nil)
    #expect(Bytes("12x").decimal == nil)
    #expect(Bytes("12x").decimalPrefix?.value == 12)
    #expect(Bytes(decimal: -120) == Bytes("-120"))
  }

  @Test("only ASCII letters have a case")
  func cases() {
    #expect(Bytes("AbZ[\\]@`{é").lowercased == Bytes("abz[\\]@`{é"))
    #expect(Bytes("FROM").equalsIgnoringCase("from"))
    #expect(!Bytes("FRO").equalsIgnoringCase("from"))
    #expect(!Bytes([0xC4]).equalsIgnoringCase([0xE4] as Bytes))
  }

  @Test("the end of a line is trimmed, its start is not")
  func trimming() {
    #expect(Bytes(Bytes(" a b \t \n\n").trimmedEnd) == Bytes(" a b"))
    #expect(Bytes(Bytes(" \t\n").trimmedEnd) == [])
    #expect(Bytes(Bytes("a\r\n").trimmedEnd) == Bytes("a\r"))
  }
}
