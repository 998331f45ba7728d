import Bytes
import Testing

@testable import rspawn

@Suite struct RemoteReportTests {
  @Test(
    "the table of spec pipes.md 5",
    arguments: [
      ("r\0Kaccepted\n\0", "Kaccepted\n"),
      ("rto\n\0Kaccepted\n\0", "Kto\naccepted\n"),
      ("r\0Zlater\n\0", "Zlater\n"),
      ("r\0Dnever\n\0", "Dnever\n"),
      ("hno such\n\0Dgiving up\n\0", "Dno such\ngiving up\n"),
      ("hno such\n\0Kaccepted\n\0", "Dno such\n"),
      ("hno such\n\0Zlost\n\0", "Dno such\n"),
      ("sbusy\n\0Zlost\n\0", "Zbusy\nlost\n"),
      ("sbusy\n\0Dgiving up\n\0", "Zbusy\ngiving up\n"),
      ("sbusy\n\0Kaccepted\n\0", "Zbusy\n"),
      ("Kaccepted\n\0", "Kaccepted\n"),
      ("Zlater\n\0", "Zlater\n"),
      ("Dnever\n\0", "Dnever\n"),
      ("", "Zqmail-remote produced no output.\n"),
    ])
  func table(output: String, report: String) {
    #expect(remoteReport(Bytes(output.utf8)) == Bytes(report.utf8))
  }

  @Test(
    "without a record for the message nobody has taken it: temporary, but a refused recipient stays refused",
    arguments: [
      ("r\0", "Zqmail-remote was cut short.\n"),
      ("r\0Kaccepted", "Zqmail-remote was cut short.\n"),
      ("rto\n\0", "Zto\n"),
      ("sbusy\n\0", "Zbusy\n"),
      ("hno such\n\0", "Dno such\n"),
      ("hno such\n", "Zqmail-remote was cut short.\n"),
      ("Kaccepted", "Zqmail-remote was cut short.\n"),
      ("\0", "Zqmail-remote was cut short.\n"),
      ("garbage\0", "Zarbage"),
    ])
  func cut(output: String, report: String) {
    #expect(remoteReport(Bytes(output.utf8)) == Bytes(report.utf8))
  }

  @Test("an output that is cut anywhere never says delivered, and has no NUL")
  func everyCut() {
    let whole = Bytes("rto\n\0Kaccepted\n\0")
    for length in 0..<whole.count {
      let report = remoteReport(Bytes(whole.prefix(length)))
      #expect(report.first == .ascii("Z"))
      #expect(!report.contains(0))
    }
    #expect(remoteReport(whole).first == .ascii("K"))
  }
}
