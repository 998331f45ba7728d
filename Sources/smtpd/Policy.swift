// Who may send to whom, as far as it can be decided without asking anybody (spec smtp.md 4).

import Bytes
import Control
import Mail

extension Settings {
  /// Whether `control/badmailfrom` names the sender or its whole domain.
  func isBadSender(_ sender: Bytes) -> Bool {
    if badSenders.isEmpty { return false }
    if badSenders.contains(sender) { return true }
    guard let domain = Mailbox(sender).domain else { return false }
    return badSenders.contains(Bytes("@") + domain)
  }

  /// Under which names the recipient's domain may stand in rcpthosts: itself, or any suffix that begins at a dot.
  ///
  /// An address without a domain is judged by the domain that the queue will give it; RFC 5321, 4.5.1 wants
  /// `postmaster` accepted in any case.
  /// - Returns: nil if the recipient needs no such name; nothing if none can help.
  func hostKeys(for recipient: Bytes) -> [Bytes]? {
    guard let domain = Mailbox(recipient).domain else {
      return recipient.equalsIgnoringCase("postmaster") ? nil : Settings.hostKeys(noHost[...])
    }
    return Settings.hostKeys(domain)
  }

  private static func hostKeys(_ domain: ArraySlice<UInt8>) -> [Bytes] {
    guard !domain.isEmpty else { return [] }
    let name = domain.lowercased
    return [name] + name.indices.filter { name[$0] == .ascii(".") && $0 > 0 }.map { Bytes(name[$0...]) }
  }
}
