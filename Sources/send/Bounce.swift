// Notices of failure (spec send.md 10), in the form QSBMF.

import Bytes
import CShim
import Injection
import Mail
import QueueFormat
import System

/// One failed recipient in bounce/N (spec queue.md 4.5).
enum BounceParagraph {
  /// - Parameters:
  ///   - recipient: without the prefix of a virtual domain.
  ///   - report: the spawner's text.
  /// - Returns: a paragraph without a blank line, and the blank line that ends it.
  static func bytes(recipient: Bytes, report: Bytes) -> Bytes {
    var text = Bytes("<")
    for byte in recipient { text.append(byte == .lf ? .ascii("_") : byte) }
    text.append(">:\n")
    text.append(contentsOf: report)
    if text.last != .lf { text.append(.lf) }
    var i = text.count - 2
    while i > 0 {
      if text[i] == .lf && text[i - 1] == .lf { text[i] = .ascii("/") }
      i -= 1
    }
    text.append(.lf)
    return text
  }
}

/// What the control files say about notices.
struct BounceSettings {
  let from, host: Bytes
  let doubleBounceRecipient: Bytes
  /// How much of the message is copied into a notice; nil copies all.
  let limit: Int64?
}

/// A notice to be sent because of a message's failures.
struct Notice {
  enum Kind: Equatable { case bounce, doubleBounce }

  let number: MessageNumber
  let kind: Kind
  /// Envelope sender of the notice, its recipient, and whose mail it was.
  let sender, recipient, returnPath: Bytes

  /// - Parameter sender: as stored in the info file.
  /// - Returns: nil for a triple bounce, which is discarded.
  init?(_ number: MessageNumber, sender stored: Bytes, _ settings: BounceSettings) {
    if stored.equals("#@[]") { return nil }
    self.number = number
    returnPath = VERP.owner(of: stored)
    if returnPath.isEmpty {
      kind = .doubleBounce
      sender = Bytes("#@[]")
      recipient = settings.doubleBounceRecipient
    } else {
      kind = .bounce
      sender = []
      recipient = returnPath
    }
  }

  /// The notice down to the list of recipients.
  func head(_ settings: BounceSettings, now: Int64) -> Bytes {
    var text = Bytes("Date: ")
    text.append(contentsOf: UTCDate(now).header)
    text.append("\nFrom: ")
    text.append(contentsOf: Mailbox(settings.from + Bytes("@") + settings.host).quoted)
    text.append("\nTo: ")
    text.append(contentsOf: Mailbox(recipient).quoted.map { $0 == .lf ? .ascii("_") : $0 })
    text.append("\nSubject: failure notice\n\nHi. This is the qmail-send program at ")
    text.append(contentsOf: settings.host)
    switch kind {
    case .bounce:
      text.append(".\nYour message could not be delivered to the addresses below.\n")
      text.append("The reasons are permanent: no further attempt will be made. Sorry.\n\n")
    case .doubleBounce:
      text.append(".\nA notice of failed delivery could not be delivered either.\n\n")
    }
    return text
  }

  /// What stands between the list of recipients and the copy.
  var middle: Bytes {
    var text: Bytes
    switch kind {
    case .bounce: text = Bytes("--- Below this line is a copy of the message.\n\nReturn-Path: <")
    case .doubleBounce: text = Bytes("--- Below this line is the original bounce.\n\nReturn-Path: <")
    }
    text.append(contentsOf: Mailbox(returnPath).quoted.map { $0 == .lf ? .ascii("_") : $0 })
    text.append(">\n")
    return text
  }
}

/// A notice on its way into the queue, carried by a child so that copying a long message holds nothing up.
final class BounceInjection {
  let notice: Notice
  private let child: Int32
  private let result: Descriptor

  enum Result {
    /// With the pid of the queue program.
    case queued(Int32)
    case trouble
    case cannotStart
  }

  /// Exit statuses of the child.
  private enum Exit {
    static let trouble: Int32 = 111
    static let cannotStart: Int32 = 112
  }

  init(_ notice: Notice, _ settings: BounceSettings) throws(SystemError) {
    let pipe = try Pipe()
    let writing = pipe.writing.number
    // Signals that mean send, sent to all processes of its name, are not for the carrier of a notice.
    child = try Child.start(keepingBlocked: true) {
      Signal.ignore(Signal.pipe)
      return BounceInjection.inject(notice, settings, reportTo: writing)
    }
    self.notice = notice
    result = pipe.takeReading()
  }

  /// Readable when the child has ended.
  var waitNumber: Int32 { result.number }

  /// Waits for the child.
  func conclude() -> Result {
    let text = (try? result.readToEnd(limit: 64)) ?? []
    guard let status = try? Child.wait(child), case .exited(let code) = status else { return .trouble }
    if code == Exit.cannotStart { return .cannotStart }
    guard code == 0, let pid = text.decimal.flatMap({ Int32(exactly: $0) }) else { return .trouble }
    return .queued(pid)
  }

  /// The child's work.
  private static func inject(_ notice: Notice, _ settings: BounceSettings, reportTo writing: Int32) -> Int32 {
    guard var injection = try? Injection() else { return Exit.cannotStart }
    injection.put(notice.head(settings, now: Clock.now()))
    guard copy(QueuePath.bounce(notice.number), limit: nil, into: &injection) else { return Exit.trouble }
    injection.put(notice.middle)
    guard copy(QueuePath.mess(notice.number), limit: settings.limit, into: &injection) else { return Exit.trouble }
    injection.beginEnvelope(sender: notice.sender)
    injection.add(recipient: notice.recipient)
    switch injection.finish() {
    case .queued(let pid):
      let report = Descriptor(owning: writing)
      return (try? report.write(Bytes(decimal: pid))) != nil ? 0 : Exit.trouble
    case .refused, .deferred: return Exit.trouble
    }
  }

  /// - Returns: false if the file cannot be read. The injection is then left without its end: nothing is queued.
  private static func copy(_ path: Path, limit: Int64?, into injection: inout Injection) -> Bool {
    guard let file = try? Descriptor.open(path, O_RDONLY) else { return false }
    var left = limit ?? .max
    var block = Bytes()
    while left > 0 {
      block.removeAll(keepingCapacity: true)
      guard let n = try? file.read(into: &block, limit: Int(min(left, 65536))) else { return false }
      if n == 0 { return true }
      left -= Int64(n)
      injection.put(block)
    }
    return true
  }
}
