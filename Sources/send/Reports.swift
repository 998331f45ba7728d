// What the spawners say about deliveries (spec pipes.md 3.3), and how senders are expanded for them.

import Bytes

/// Takes the stream of a spawner apart: delivery number, letter, text, NUL. The text is untrusted.
struct ReportParser {
  struct Report: Equatable {
    /// The slot.
    let delivery: UInt8
    /// Status letter and text, without NUL; empty for a mangled report.
    let body: Bytes
  }

  /// Bytes kept of one report; further ones overwrite the last.
  static let limit = 10000
  private var collected = Bytes()

  mutating func feed(_ byte: UInt8) -> Report? {
    if byte == 0 && !collected.isEmpty {
      defer { collected.removeAll(keepingCapacity: true) }
      return Report(delivery: collected[0], body: Bytes(collected.dropFirst()))
    }
    if collected.count < ReportParser.limit {
      collected.append(byte)
    } else {
      collected[ReportParser.limit - 1] = byte
    }
    return nil
  }
}

/// What a report means.
enum Outcome: Equatable {
  case success(Bytes)
  case deferral(Bytes)
  case failure(Bytes)
  case mangled

  /// - Parameter isDying: the message is too old to be tried again.
  init(_ body: Bytes, isDying: Bool) {
    var text = Bytes(body.dropFirst())
    switch body.first {
    case UInt8(ascii: "K"): self = .success(text)
    case UInt8(ascii: "D"): self = .failure(text)
    case UInt8(ascii: "Z") where isDying:
      if let last = text.last, last != .lf { text.append(.lf) }
      text.append("I'm not going to try again; this message has been in the queue too long.\n")
      self = .failure(text)
    case UInt8(ascii: "Z"): self = .deferral(text)
    default: self = .mangled
    }
  }
}

/// Variable envelope return paths (spec delivery.md 1).
enum VERP {
  private static let mark = Bytes("-@[]")

  /// The sender for one delivery: `list-@host-@[]` to `box@dom` becomes `list-box=dom@host`.
  static func expand(sender: Bytes, recipient: Bytes) -> Bytes {
    guard sender.hasSuffix("-@[]") else { return sender }
    let stem = sender.dropLast(4)
    guard let at = stem.lastIndex(of: .ascii("@")), let split = recipient.lastIndex(of: .ascii("@")) else {
      return sender
    }
    var expanded = Bytes(stem[..<at])
    expanded.append(contentsOf: recipient[..<split])
    expanded.append("=")
    expanded.append(contentsOf: recipient[(split + 1)...])
    expanded.append(contentsOf: stem[at...])
    return expanded
  }

  /// Whom a notice goes to: the sender without the mark.
  static func owner(of sender: Bytes) -> Bytes {
    sender.hasSuffix("-@[]") ? Bytes(sender.dropLast(4)) : sender
  }
}
