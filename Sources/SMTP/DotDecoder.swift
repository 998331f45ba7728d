// The incoming side of DATA.

import Bytes

/// Finds the end of DATA, undoes dot-stuffing and turns CRLF into LF (RFC 5321, 4.5.2; spec smtp.md 5).
///
/// Only CR LF `.` CR LF ends a message. A bare CR or LF spoils it, yet decoding runs on to the real end: stopping early
/// would let the rest be read as commands, which is how one message is smuggled inside another.
public struct DotDecoder {
  private enum State { case lineStart, dot, dotCR, text, cr }

  private var state = State.lineStart
  /// Whether a CR came that no LF followed.
  public private(set) var hasBareCR = false
  /// Whether an LF came that followed no CR.
  public private(set) var hasBareLF = false

  public init() {}

  /// Whether the message must be refused when its end has come.
  public var isSpoiled: Bool { hasBareCR || hasBareLF }

  /// Appends what `wire` holds of the message to `text`. A message may be cut anywhere.
  /// - Returns: how many bytes of `wire` follow the end of the message; nil if that has not come yet.
  public mutating func feed(_ wire: ArraySlice<UInt8>, into text: inout Bytes) -> Int? {
    var rest = wire
    while let byte = rest.first {
      switch (state, byte) {
      case (.lineStart, .ascii(".")):
        state = .dot
      case (.dot, .cr):
        state = .dotCR
      case (.dotCR, .lf):
        state = .lineStart
        return rest.count - 1
      case (.lineStart, .cr), (.text, .cr):
        state = .cr
      case (.cr, .lf):
        text.append(.lf)
        state = .lineStart
      case (.cr, .cr):
        hasBareCR = true
        text.append(.cr)
      case (.cr, _):
        hasBareCR = true
        text.append(.cr)
        text.append(byte)
        state = .text
      case (.dotCR, _):
        hasBareCR = true
        text.append(".\r")
        if byte == .cr {
          state = .cr
        } else {
          text.append(byte)
          state = .text
        }
      case (.lineStart, .lf), (.dot, .lf), (.text, .lf):
        hasBareLF = true
        text.append(.lf)
        state = .text
      case (.lineStart, _), (.dot, _), (.text, _):
        let run = rest.prefix { $0 != .cr && $0 != .lf }
        text.append(contentsOf: run)
        rest = rest[run.endIndex...]
        state = .text
        continue
      }
      rest.removeFirst()
    }
    return nil
  }
}
