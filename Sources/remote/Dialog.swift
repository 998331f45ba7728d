// One conversation with a mail server (spec smtp.md 11, RFC 5321). Decides what is said and what is reported; how
// bytes travel is the `Transport`'s part. Everything that the server says is chosen by strangers.

import Bytes
import Mail
import SMTP
import System

/// The connection broke or was silent for too long.
struct ConnectionLost: Error {}

protocol Transport {
  func write(_ bytes: Bytes) throws(ConnectionLost)
  func reply() throws(ConnectionLost) -> ReplyParser.Reply
}

/// The message, as the queue stores it.
protocol MessageText {
  /// Its size in bytes on the wire, about, and whether it has bytes above 127; nil if that cannot be told beforehand.
  func survey() -> (size: Int, isEightBit: Bool)?
  /// The next piece; nil at the end.
  func next() throws(SystemError) -> Bytes?
}

struct Envelope {
  let sender: Bytes
  let recipients: [Bytes]
}

/// How a conversation ended: the record of the message.
enum Conclusion: Equatable {
  case final(Bytes)
  /// The server was not ready to talk; nothing was said of the message. Another address may do better, and only if none
  /// does this is the record.
  case elsewhere(Bytes)
}

struct Dialog<Link: Transport, Text: MessageText> {
  private let link: Link
  private let text: Text
  private let envelope: Envelope
  private let peer: Bytes
  private let ownName: Bytes
  private let report: (Bytes) -> Void
  /// No reply to MAIL yet: the transaction can begin anew elsewhere.
  private var isEarly = true
  /// The final dot may be out: whether the server has taken the message is not known.
  private var isCritical = false

  /// Commands sent before their replies are read. Their replies must find room in the buffers of two kernels.
  private static var window: Int { 50 }

  /// - Parameters:
  ///   - peer: the server's address, for reports.
  ///   - ownName: for EHLO.
  ///   - report: takes each recipient's record, in order, with its NUL.
  init(
    with peer: Bytes, over link: Link, as ownName: Bytes, sending text: Text, envelope: Envelope,
    report: @escaping (Bytes) -> Void
  ) {
    self.link = link
    self.text = text
    self.envelope = envelope
    self.peer = peer
    self.ownName = ownName
    self.report = report
  }

  /// Talks from greeting to QUIT.
  mutating func run() -> Conclusion {
    do throws(ConnectionLost) {
      return try greet()
    } catch {
      var record = Bytes("ZConnected to ") + peer
      record.append(" but connection died. ")
      if isCritical { record.append("Possible duplicate! ") }
      record.append("(#4.4.2)\n")
      return isEarly ? .elsewhere(record) : .final(record)
    }
  }

  private mutating func greet() throws(ConnectionLost) -> Conclusion {
    let greeting = try link.reply()
    guard greeting.code == 220 else {
      return .elsewhere(quit("ZConnected to ", " but greeting failed", greeting))
    }
    try link.write(Bytes("EHLO ") + ownName + Bytes("\r\n"))
    var hello = try link.reply()
    var extensions: ReplyParser.Reply? = hello
    if hello.code >= 500 {
      try link.write(Bytes("HELO ") + ownName + Bytes("\r\n"))
      hello = try link.reply()
      extensions = nil
    }
    guard hello.code == 250 else {
      return .final(quit("ZConnected to ", " but my name was rejected", hello))
    }
    return .final(try transact(extensions))
  }

  // The transaction

  private enum Step {
    case mail(parameters: Bytes)
    case recipient(Bytes)
    /// Cannot be said in SMTP.
    case unspeakable
    case data

    var expectsReply: Bool {
      if case .unspeakable = self { false } else { true }
    }
  }

  private func steps(_ extensions: ReplyParser.Reply?) -> [Step] {
    var parameters = Bytes()
    let size = extensions?.parameters(of: "SIZE") != nil
    let eightBit = extensions?.parameters(of: "8BITMIME") != nil
    if size || eightBit, let survey = text.survey() {
      if size { parameters += Bytes(" SIZE=") + Bytes(decimal: survey.size) }
      if eightBit && survey.isEightBit { parameters.append(" BODY=8BITMIME") }
    }
    var steps = [Step.mail(parameters: parameters)]
    for recipient in envelope.recipients { steps.append(isSpeakable(recipient) ? .recipient(recipient) : .unspeakable) }
    if envelope.recipients.contains(where: isSpeakable) { steps.append(.data) }
    return steps
  }

  private func command(_ step: Step) -> Bytes {
    switch step {
    case .mail(let parameters):
      Bytes("MAIL FROM:<") + wireForm(envelope.sender) + Bytes(">") + parameters + Bytes("\r\n")
    case .recipient(let address): Bytes("RCPT TO:<") + wireForm(address) + Bytes(">\r\n")
    case .unspeakable: []
    case .data: Bytes("DATA\r\n")
    }
  }

  private mutating func transact(_ extensions: ReplyParser.Reply?) throws(ConnectionLost) -> Bytes {
    let window = extensions?.parameters(of: "PIPELINING") != nil ? Self.window : 1
    var rest = steps(extensions)[...]
    var isAccepted = false
    var lastRefusal: ReplyParser.Reply?
    while !rest.isEmpty {
      var group = rest.prefix(window)
      rest = rest.dropFirst(window)
      // Alone, DATA is not even said when there is nobody to send to.
      if window == 1, case .data = group.first, !isAccepted { break }
      let commands = group.reduce(into: Bytes()) { $0 += command($1) }
      if !commands.isEmpty { try link.write(commands) }
      while let step = group.popFirst() {
        switch step {
        case .mail:
          let reply = try link.reply()
          isEarly = false
          if reply.code >= 400 {
            let start: StaticString = reply.code >= 500 ? "DConnected to " : "ZConnected to "
            return quit(start, " but sender was rejected", reply, after: group)
          }
        case .recipient:
          let reply = try link.reply()
          if reply.code >= 400 {
            lastRefusal = reply
            report(record(reply.code >= 500 ? "h" : "s", " does not like recipient", reply) + [0])
          } else {
            isAccepted = true
            report(Bytes("r\0"))
          }
        case .unspeakable:
          report(Bytes("hSorry, that recipient address can't be used in SMTP. (#5.1.3)\n\0"))
        case .data:
          if !isAccepted { return quit("DGiving up on ", "", lastRefusal, after: [.data]) }
          let reply = try link.reply()
          if reply.code >= 400 { return quit(reply.code >= 500 ? "D" : "Z", " failed on DATA command", reply) }
          return try sendText()
        }
      }
    }
    return quit("DGiving up on ", "", lastRefusal)
  }

  private mutating func sendText() throws(ConnectionLost) -> Bytes {
    var encoder = DotEncoder()
    var wire = Bytes()
    while true {
      let piece: Bytes?
      do throws(SystemError) { piece = try text.next() } catch { return Bytes("ZUnable to read message. (#4.3.0)\n") }
      guard let piece else { break }
      encoder.feed(piece[...], into: &wire)
      if wire.count >= 32768 {
        try link.write(wire)
        wire.removeAll(keepingCapacity: true)
      }
    }
    encoder.finish(into: &wire)
    isCritical = true
    try link.write(wire)
    let reply = try link.reply()
    isCritical = false
    if reply.code >= 400 {
      return quit(reply.code >= 500 ? "D" : "Z", " failed after I sent the message", reply)
    }
    return quit("K", " accepted message", reply)
  }

  // Reports

  /// Says QUIT, and does not wait for the answer.
  ///
  /// - Parameter unread: commands already sent whose replies nobody has read. If the server goes on with DATA after
  ///   that, the connection is closed without a word: the text could not be told from commands.
  private func quit(
    _ start: StaticString, _ end: StaticString, _ reply: ReplyParser.Reply?, after unread: ArraySlice<Step> = []
  ) -> Bytes {
    var mayQuit = true
    do throws(ConnectionLost) {
      for step in unread where step.expectsReply {
        let answer = try link.reply()
        if case .data = step, answer.code < 400 { mayQuit = false }
      }
      if mayQuit { try link.write(Bytes("QUIT\r\n")) }
    } catch {}
    return record(start, end, reply)
  }

  private func record(_ start: StaticString, _ end: StaticString, _ reply: ReplyParser.Reply?) -> Bytes {
    var record = Bytes(start) + peer + Bytes(end) + Bytes(".\n")
    if let reply, !reply.text.isEmpty {
      record.append("Remote host said: ")
      record += reply.text.map { $0 == 0 ? .ascii("?") : $0 }
    }
    return record
  }
}

/// The address as SMTP says it: the local-part in quotes if it needs them; without `@` as it is.
func wireForm(_ address: Bytes) -> Bytes {
  let mailbox = Mailbox(address)
  return mailbox.domain == nil ? address : mailbox.quoted
}

/// Whether the address can stand between `<` and `>` of a command without ending it: no CR, LF or NUL anywhere, and
/// nothing below 33, no `<` and no `>` where there are no quotes.
func isSpeakable(_ address: Bytes) -> Bool {
  if address.contains(where: { $0 == .cr || $0 == .lf || $0 == 0 }) { return false }
  let bare = Mailbox(address).domain ?? address[...]
  return !bare.contains { $0 <= 32 || $0 == 127 || $0 == .ascii("<") || $0 == .ascii(">") }
}
