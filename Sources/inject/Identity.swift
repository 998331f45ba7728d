// Who sends: the author and the reverse-path that stand in where the message names none (spec inject.md 2 and 5).

import Bytes
import Mail

/// The letters of $QMAILINJECT.
struct Habits: Equatable {
  /// `c`: the name of a new From goes into a comment.
  var nameInComment = false
  /// `s`, `f`, `i`: Return-Path, From and Message-ID that came with the message do not count.
  var ignoreReturnPath = false
  var dropFrom = false
  var dropMessageID = false
  /// `r`: a reverse-path for each recipient; `m`: one for each message.
  var recipientVERP = false
  var messageVERP = false

  init(_ letters: Bytes) {
    for letter in letters {
      switch letter {
      case .ascii("c"): nameInComment = true
      case .ascii("s"): ignoreReturnPath = true
      case .ascii("f"): dropFrom = true
      case .ascii("i"): dropMessageID = true
      case .ascii("r"): recipientVERP = true
      case .ascii("m"): messageVERP = true
      default: break
      }
    }
  }
}

/// The caller, as the environment describes him. None of it is checked: a forged From is normal.
struct Identity: Equatable {
  let user: Bytes
  let host: Bytes?
  /// nil also if it is empty.
  let name: Bytes?
  let senderUser: Bytes
  let senderHost: Bytes?

  /// - Parameter environment: the value of a variable.
  init(_ environment: (StaticString) -> Bytes?) {
    func first(_ names: [StaticString]) -> Bytes? {
      for name in names {
        // A line break here would start a new header field.
        if let value = environment(name) { return value.map { $0 == .lf || $0 == .cr ? .space : $0 } }
      }
      return nil
    }
    user = first(["QMAILUSER", "MAILUSER", "USER", "LOGNAME"]) ?? Bytes("anonymous")
    host = first(["QMAILHOST", "MAILHOST"])
    name = first(["QMAILNAME", "MAILNAME", "NAME"]).flatMap { $0.isEmpty ? nil : $0 }
    senderUser = first(["QMAILSUSER"]) ?? user
    senderHost = first(["QMAILSHOST"]) ?? host
  }

  /// From or Resent-From, not yet rewritten.
  func authorField(_ kind: FieldKind, nameInComment: Bool) -> Field {
    var text = Bytes(kind.name)
    text.append(": ")
    let address = Identity.address(user, host)
    if let name, nameInComment {
      text.append(contentsOf: address)
      text.append(" ")
      text.append(contentsOf: Identity.escaped(name, "(", ")"))
    } else if let name {
      text.append(contentsOf: Identity.escaped(name, "\"", "\""))
      text.append(" <")
      text.append(contentsOf: address)
      text.append(">")
    } else {
      text.append(contentsOf: address)
    }
    text.append(.lf)
    return Field(text)
  }

  /// The default reverse-path, quoted and not yet rewritten; the `-@[]` of recipient VERP is still missing.
  func senderAddress(_ habits: Habits, time: Int64, pid: Int32) -> Bytes {
    var user = senderUser
    if habits.messageVERP {
      user.append("-")
      user.append(decimal: time)
      user.append(".")
      user.append(decimal: pid)
    }
    if habits.recipientVERP { user.append("-") }
    return Identity.address(user, senderHost)
  }

  private static func address(_ user: Bytes, _ host: Bytes?) -> Bytes {
    // A mailbox without domain: the user may contain an @ of its own, which then needs quotes.
    var text = Mailbox.needsQuotes(user[...]) ? escaped(user, "\"", "\"") : user
    if let host {
      text.append("@")
      text.append(contentsOf: host)
    }
    return text
  }

  private static func escaped(_ text: Bytes, _ open: StaticString, _ close: StaticString) -> Bytes {
    var result = Bytes(open)
    for byte in text {
      switch byte {
      case .ascii("\""), .ascii("("), .ascii(")"), .ascii("["), .ascii("]"), .ascii("\\"): result.append("\\")
      default: break
      }
      result.append(byte)
    }
    result.append(close)
    return result
  }
}
