// The message as it will be queued: its header made whole, its envelope (spec inject.md 4 and 5).

import Bytes
import Control
import Mail

/// What cannot be undone: the message is not queued.
enum MessageFault: Error {
  /// A sender field, an address of the command line or of the environment.
  case unparsable(Bytes)
  case tooManyAddresses
}

/// What the header is made with.
struct Surroundings {
  let rules: RewritingRules
  let habits: Habits
  let identity: Identity
  let idHost: Bytes
  /// From $QMAILMFTFILE; nil if there is none.
  let mailingLists: ControlSet?
  let pid: Int32
  /// Of the program's start, since 1970.
  let nanoseconds: Int64
  /// A number nobody can guess, for the Message-ID.
  let random: UInt32

  var time: Int64 { nanoseconds / 1_000_000_000 }
}

/// Collects the fields one by one.
struct Message {
  private let around: Surroundings
  private var kept = Bytes()
  private var seen: [Bool]
  private var plainRecipients: [Bytes] = []
  private var resentRecipients: [Bytes] = []
  private var followupFields: [[Bytes]] = []  // the addresses of each To and Cc
  private var returnPath: Bytes?
  private var addressCount = 0
  /// Recipient fields that are no address lists; their addresses get nothing.
  private(set) var unparsable: [Field] = []

  init(_ around: Surroundings) {
    self.around = around
    seen = Array(repeating: false, count: FieldKind.allCases.count)
  }

  private func hasSeen(_ kinds: FieldKind...) -> Bool {
    for kind in kinds where seen[kind.rawValue] { return true }
    return false
  }

  var isResent: Bool {
    for kind in FieldKind.allCases where kind.marksResent && seen[kind.rawValue] { return true }
    return false
  }

  /// From the header: those of the Resent- fields alone if there is one.
  var recipients: [Bytes] { isResent ? resentRecipients : plainRecipients }

  mutating func add(_ field: Field) throws(MessageFault) {
    let kind = field.kind
    if kind == .returnPath && around.habits.ignoreReturnPath { return }
    if kind == .from && around.habits.dropFrom { return }
    if kind == .messageID && around.habits.dropMessageID { return }
    seen[kind.rawValue] = true

    let rewritten = kind.addresses == .none ? nil : try rewrite(field, kind)
    if let rewritten { use(rewritten.addresses, of: kind) }
    if !kind.isRemoved { kept.append(contentsOf: rewritten?.bytes ?? field.bytes) }
  }

  /// - Returns: nil for a recipient field that is no address list; it stays as it is.
  private mutating func rewrite(_ field: Field, _ kind: FieldKind) throws(MessageFault) -> RewrittenField? {
    do throws(AddressFault) {
      let rewritten = try around.rules.rewrite(field)
      addressCount += rewritten.addresses.count
      guard addressCount <= RewritingRules.mostAddresses else { throw .tooMany }
      return rewritten
    } catch {
      switch error {
      case .tooMany: throw .tooManyAddresses
      case .unparsable where kind.addresses == .sender: throw .unparsable(field.bytes)
      case .unparsable:
        unparsable.append(field)
        return nil
      }
    }
  }

  private mutating func use(_ addresses: [Bytes], of kind: FieldKind) {
    switch kind.addresses {
    case .recipients: plainRecipients += addresses.filter { !$0.isEmpty }
    case .resentRecipients: resentRecipients += addresses.filter { !$0.isEmpty }
    case .sender, .none: break
    }
    if kind == .to || kind == .cc { followupFields.append(addresses.filter { !$0.isEmpty }) }
    if kind == .returnPath, returnPath == nil { returnPath = addresses.last }
  }

  /// The reverse-path where the command line names none.
  func sender() throws(MessageFault) -> Bytes {
    var sender: Bytes
    if let returnPath {
      sender = returnPath
    } else {
      let raw = around.identity.senderAddress(around.habits, time: around.time, pid: around.pid)
      guard let complete = around.rules.complete(quoted: raw) else { throw .unparsable(raw) }
      sender = complete
    }
    if around.habits.recipientVERP && !sender.isEmpty { sender.append("-@[]") }
    return sender
  }

  /// The fields that were missing, then those that came. The empty line is not part of it.
  func header() throws(MessageFault) -> Bytes {
    var text = Bytes()
    let resent = isResent
    if !hasSeen(resent ? .resentDate : .date) {
      text.append(resent ? "Resent-Date: " : "Date: ")
      text.append(contentsOf: UTCDate(around.time).header)
      text.append(.lf)
    }
    if !hasSeen(resent ? .resentMessageID : .messageID) {
      text.append(resent ? "Resent-Message-ID: " : "Message-ID: ")
      text.append(contentsOf: messageID)
      text.append(.lf)
    }
    if !hasSeen(resent ? .resentFrom : .from) {
      let field = around.identity.authorField(
        resent ? .resentFrom : .from, nameInComment: around.habits.nameInComment)
      do throws(AddressFault) { text += try around.rules.rewrite(field).bytes } catch {
        throw .unparsable(field.bytes)
      }
    }
    if resent ? !hasSeen(.resentTo, .resentCc) : !hasSeen(.to, .cc) {
      text.append(resent ? "Resent-Cc" : "Cc")
      text.append(": recipient list not shown: ;\n")
    }
    if !resent { text += followup }
    return text + kept
  }

  /// `<YYYYMMDDhhmmss.X.qmail@idhost>`. X names the process and the moment, and cannot be guessed.
  private var messageID: Bytes {
    var text = Bytes("<")
    text += UTCDate(around.time).compact
    text.append(".")
    text.append(decimal: around.pid)
    text.append(".")
    text.append(decimal: around.nanoseconds % 1_000_000_000)
    text.append(".")
    text.append(decimal: around.random)
    text.append(".qmail@")
    text += around.idHost
    text.append(">")
    return text
  }

  /// Mail-Followup-To, if the message goes to a mailing list the caller has named; otherwise nothing.
  private var followup: Bytes {
    guard let lists = around.mailingLists, !hasSeen(.mailFollowupTo),
      followupFields.contains(where: { $0.contains { lists.contains($0) } })
    else { return [] }
    var text = Bytes("Mail-Followup-To: ")
    var isFirst = true
    for field in followupFields.reversed() {
      for address in field {
        if !isFirst { text.append(",\n  ") }
        isFirst = false
        text += Mailbox(address).quoted
      }
    }
    text.append(.lf)
    return text
  }
}

/// The forward-paths of a message, each once, in the order they came.
struct RecipientList {
  private(set) var addresses: [Bytes] = []
  private var known: Set<Bytes> = []

  /// Two addresses are the same if they differ in the case of their domain alone.
  mutating func add(_ address: Bytes) {
    let mailbox = Mailbox(address)
    var key = Bytes(mailbox.localPart)
    if let domain = mailbox.domain {
      key.append("@")
      key += domain.lowercased
    }
    if known.insert(key).inserted { addresses.append(address) }
  }
}
