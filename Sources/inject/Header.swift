// The header: splitting it from the body, and the fields known by name (spec inject.md 3 and 4).

import Bytes

/// One header field, with all its lines and its final LF.
struct Field: Equatable {
  let bytes: Bytes
  private let colon: Int

  /// - Parameter bytes: must contain a colon.
  init(_ bytes: Bytes) {
    self.bytes = bytes
    colon = bytes.firstIndex(of: .ascii(":")) ?? bytes.endIndex
  }

  /// As written, without the blanks before the colon.
  var name: ArraySlice<UInt8> { bytes[..<colon].trimmedEnd }
  /// All after the colon.
  var body: ArraySlice<UInt8> { bytes[colon...].dropFirst() }
  var kind: FieldKind { FieldKind(name) }
}

/// The fields that are treated in some way. Names are compared without case.
enum FieldKind: Int, CaseIterable {
  case to, cc, bcc, apparentlyTo
  case resentTo, resentCc, resentBcc
  case sender, from, replyTo, returnPath, returnReceiptTo, errorsTo, resentSender, resentFrom, resentReplyTo
  case date, messageID, resentDate, resentMessageID
  case contentLength, mailFollowupTo
  case other

  init(_ name: ArraySlice<UInt8>) {
    for kind in FieldKind.allCases where kind.name.utf8CodeUnitCount == name.count {
      if name.equalsIgnoringCase(kind.name) {
        self = kind
        return
      }
    }
    self = .other
  }

  var name: StaticString {
    switch self {
    case .to: return "To"
    case .cc: return "Cc"
    case .bcc: return "Bcc"
    case .apparentlyTo: return "Apparently-To"
    case .resentTo: return "Resent-To"
    case .resentCc: return "Resent-Cc"
    case .resentBcc: return "Resent-Bcc"
    case .sender: return "Sender"
    case .from: return "From"
    case .replyTo: return "Reply-To"
    case .returnPath: return "Return-Path"
    case .returnReceiptTo: return "Return-Receipt-To"
    case .errorsTo: return "Errors-To"
    case .resentSender: return "Resent-Sender"
    case .resentFrom: return "Resent-From"
    case .resentReplyTo: return "Resent-Reply-To"
    case .date: return "Date"
    case .messageID: return "Message-ID"
    case .resentDate: return "Resent-Date"
    case .resentMessageID: return "Resent-Message-ID"
    case .contentLength: return "Content-Length"
    case .mailFollowupTo: return "Mail-Followup-To"
    case .other: return ""
    }
  }

  enum Addresses { case none, recipients, resentRecipients, sender }

  /// What the addresses of the field mean.
  var addresses: Addresses {
    switch self {
    case .to, .cc, .bcc, .apparentlyTo: return .recipients
    case .resentTo, .resentCc, .resentBcc: return .resentRecipients
    case .sender, .from, .replyTo, .returnPath, .returnReceiptTo, .errorsTo, .resentSender, .resentFrom,
      .resentReplyTo:
      return .sender
    case .date, .messageID, .resentDate, .resentMessageID, .contentLength, .mailFollowupTo, .other: return .none
    }
  }

  /// Whether the field makes the message a resent one.
  var marksResent: Bool {
    switch self {
    case .resentSender, .resentFrom, .resentReplyTo, .resentTo, .resentCc, .resentBcc, .resentDate,
      .resentMessageID:
      return true
    default: return false
    }
  }

  /// Whether the field is used and then left out.
  var isRemoved: Bool {
    switch self {
    case .bcc, .resentBcc, .returnPath, .contentLength: return true
    default: return false
    }
  }
}

/// What stood at the end of the header.
enum HeaderEnd: Equatable {
  /// The empty line, which is used up.
  case emptyLine
  /// The start of a line that is no field and so belongs to the body; an empty line has to go before it.
  case line(Bytes)
  /// The end of the message.
  case endOfMessage
}

/// Finds the fields in a message's bytes.
struct HeaderParser {
  /// Longest header in bytes, all fields together.
  static let sizeLimit = 16 << 20
  /// A line without a colon in its first so many bytes is no field.
  static let nameLimit = 65536

  /// The header is longer than ``sizeLimit``.
  struct TooLong: Error {}

  private enum State { case lineStart, name, blanksAfterName, text, over }

  private(set) var fields: [Field] = []
  /// Set when the header is over.
  private(set) var end: HeaderEnd?

  private var state = State.lineStart
  private var field = Bytes()  // whose continuation may follow; empty before the first
  private var line = Bytes()  // that may become a field
  private var size = 0

  /// - Returns: the rest of `chunk`, which is body; empty while the header goes on.
  mutating func feed(_ chunk: ArraySlice<UInt8>) throws(TooLong) -> ArraySlice<UInt8> {
    var rest = chunk
    while end == nil, let byte = rest.popFirst() {
      feed(byte)
      size += 1
      if size > HeaderParser.sizeLimit { throw TooLong() }
    }
    return rest
  }

  /// The message is over; a last line without LF gets one.
  mutating func finish() {
    if end == nil, state != .lineStart { feed(.lf) }
    if end == nil { stop(.endOfMessage) }
  }

  private mutating func feed(_ byte: UInt8) {
    switch state {
    case .lineStart: startLine(byte)
    case .name:
      switch byte {
      case .ascii(":"): startField(byte)
      case .space where line.equals("From"):
        line = Bytes("MBOX-Line: From")
        startField(byte)
      case .space, .tab:
        line.append(byte)
        state = .blanksAfterName
      case 33...126 where line.count < HeaderParser.nameLimit: line.append(byte)
      default: startBody(byte)
      }
    case .blanksAfterName:
      switch byte {
      case .ascii(":"): startField(byte)
      case _ where byte.isBlank && line.count < HeaderParser.nameLimit: line.append(byte)
      default: startBody(byte)
      }
    case .text:
      field.append(byte)
      if byte == .lf { state = .lineStart }
    case .over: break
    }
  }

  private mutating func startLine(_ byte: UInt8) {
    switch byte {
    case .lf: stop(.emptyLine)
    case _ where byte.isBlank && !field.isEmpty:
      field.append(byte)
      state = .text
    case 33...126 where byte != .ascii(":"):
      line = [byte]
      state = .name
    default: startBody(byte)
    }
  }

  private mutating func startField(_ byte: UInt8) {
    endField()
    line.append(byte)
    field = line
    line = []
    state = .text
  }

  private mutating func startBody(_ byte: UInt8) {
    line.append(byte)
    stop(.line(line))
  }

  private mutating func stop(_ end: HeaderEnd) {
    endField()
    line = []
    state = .over
    self.end = end
  }

  private mutating func endField() {
    if !field.isEmpty { fields.append(Field(field)) }
    field = []
  }
}
