// The outgoing side of DATA.

import Bytes

/// Turns a message as the queue stores it (lines end with LF) into what follows DATA on the wire (RFC 5321, 4.5.2).
///
/// Whatever the message holds, the wire sees CR and LF only as the pair: LF, CR LF and a lone CR each end one line, so
/// CR CR LF ends two. Dot-stuffing follows every line end *produced here*, not every LF read; a CR that became
/// CRLF without it let a stored CR `.` LF end the message for the receiver (spec smtp.md 11).
public struct DotEncoder {
  private enum State {
    case lineStart
    /// A CR ended the line; an LF that follows belongs to it.
    case afterCR
    case text
  }

  private var state = State.lineStart

  public init() {}

  /// Appends the wire form of `bytes` to `wire`. The pieces of a message may be cut anywhere.
  public mutating func feed(_ bytes: ArraySlice<UInt8>, into wire: inout Bytes) {
    var rest = bytes
    while let byte = rest.first {
      switch (state, byte) {
      case (.afterCR, .lf):
        state = .lineStart
        rest.removeFirst()
      case (.lineStart, .lf), (.text, .lf):
        wire.append("\r\n")
        state = .lineStart
        rest.removeFirst()
      case (_, .cr):
        wire.append("\r\n")
        state = .afterCR
        rest.removeFirst()
      case (.lineStart, _), (.afterCR, _):
        if byte == .ascii(".") { wire.append(byte) }
        state = .text
      case (.text, _):
        let run = rest.prefix { $0 != .cr && $0 != .lf }
        wire.append(contentsOf: run)
        rest = rest[run.endIndex...]
      }
    }
  }

  /// Appends the end of the message, `.` on a line by itself; a last line without its end is completed first.
  public mutating func finish(into wire: inout Bytes) {
    if state == .text { wire.append("\r\n") }
    wire.append(".\r\n")
    state = .lineStart
  }
}
