import Bytes
import Testing

@Suite struct LogLineTests {
  @Test("values cannot forge keys or lines")
  func forging() {
    var line = LogLine("smtpd")
    line.add("from", Bytes("a b%\nevent=x\u{7f}é"))
    line.add("qp", -12)
    #expect(line.bytes == Bytes("smtpd from=a_b__event=x___ qp=-12".utf8))
  }

  @Test("a long value is cut")
  func cut() {
    var line = LogLine("smtpd")
    line.add("v", Bytes(repeating: 97, count: 100_000))
    #expect(line.bytes.count == Bytes("smtpd v=").count + LogLine.valueLimit)
  }
}
