import Bytes
import CShim
import System
import Testing

@testable import Injection

@Suite struct VerdictTests {
  func verdict(_ status: System.ExitStatus, wroteAll: Bool = true, text: String = "") -> Verdict {
    Injection.verdict(status, wroteAll: wroteAll, rejection: Bytes(text.utf8), pid: 7)
  }

  @Test(
    "exit statuses mean what spec pipes.md 1.3 says",
    arguments: [
      (11, "D", "envelope address too long for qq (#5.1.3)"), (115, "D", "envelope address too long for qq (#5.1.3)"),
      (31, "D", "mail server permanently rejected message (#5.3.0)"), (12, "D", "qq permanent problem (#5.3.0)"),
      (32, "D", "qq permanent problem (#5.3.0)"), (40, "D", "qq permanent problem (#5.3.0)"),
      (41, "Z", "qq temporary problem (#4.3.0)"), (10, "Z", "qq temporary problem (#4.3.0)"),
      (51, "Z", "qq out of memory (#4.3.0)"), (52, "Z", "qq timeout (#4.3.0)"),
      (53, "Z", "qq write error or disk full (#4.3.0)"), (54, "Z", "qq read error (#4.3.0)"),
      (55, "Z", "qq unable to read configuration (#4.3.0)"),
      (56, "Z", "qq trouble making network connection (#4.3.0)"), (61, "Z", "qq trouble in home directory (#4.3.0)"),
      (62, "Z", "qq trouble creating files in queue (#4.3.0)"),
      (66, "Z", "qq trouble creating files in queue (#4.3.0)"),
      (71, "Z", "mail server temporarily rejected message (#4.3.0)"),
      (72, "Z", "connection to mail server timed out (#4.4.1)"),
      (73, "Z", "connection to mail server rejected (#4.4.1)"),
      (74, "Z", "communication with mail server failed (#4.4.2)"), (81, "Z", "qq internal bug (#4.3.0)"),
      (91, "Z", "qq internal bug (#4.3.0)"), (111, "Z", "qq temporary problem (#4.3.0)"),
      (120, "Z", "unable to exec qq (#4.3.0)"), (255, "Z", "qq temporary problem (#4.3.0)"),
    ] as [(Int32, String, String)])
  func table(code: Int32, letter: String, text: String) {
    let bytes = Bytes(text.utf8)
    #expect(verdict(.exited(code)) == (letter == "D" ? .refused(bytes) : .deferred(bytes)))
  }

  @Test("exit 0 counts only if everything was written")
  func success() {
    #expect(verdict(.exited(0)) == .queued(7))
    #expect(verdict(.exited(0), wroteAll: false) == .deferred(Bytes("qq read error (#4.3.0)")))
    #expect(verdict(.signalled(9)) == .deferred(Bytes("qq crashed (#4.3.0)")))
  }

  @Test("a filter's own words are used, and cannot forge a line of a reply", arguments: [82, 88] as [Int32])
  func custom(code: Int32) {
    #expect(verdict(.exited(code), text: "Dno thanks (#5.7.1)") == .refused(Bytes("no thanks (#5.7.1)")))
    #expect(verdict(.exited(code), text: "Zlater") == .deferred(Bytes("later")))
    #expect(verdict(.exited(code), text: "Da\r\n250 ok\u{7}") == .refused(Bytes("a250 ok?")))
    #expect(verdict(.exited(code), text: "Dx") == .deferred(Bytes("qq temporary problem (#4.3.0)")))
    #expect(verdict(.exited(code)) == .deferred(Bytes("qq temporary problem (#4.3.0)")))
  }

  @Test("text of a program that does not ask for it is not used")
  func unasked() {
    #expect(verdict(.exited(53), text: "Dboo!") == .deferred(Bytes("qq write error or disk full (#4.3.0)")))
  }
}
