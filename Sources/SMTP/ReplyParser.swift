// The server's replies, as a client reads them.

import Bytes

/// Reads one reply at a time (RFC 5321, 4.2) from a server that may send anything.
///
/// After a reply the parser is ready for the next one.
public struct ReplyParser {
  /// A complete reply.
  public struct Reply: Equatable, Sendable {
    /// The number made of the first line's first three bytes; 999 if one of them is no digit or is missing.
    public let code: Int
    /// All lines as received, codes included, each ended by LF, CRs left out; at most ``textLimit`` bytes, then cut.
    public let text: Bytes

    /// Each line's text behind code and separator.
    public var lines: [ArraySlice<UInt8>] {
      text.split(separator: .lf, omittingEmptySubsequences: false).filter { !$0.isEmpty }.map { $0.dropFirst(4) }
    }

    /// What an EHLO reply says behind a keyword, e.g. `10240000` for `SIZE`; empty if it says nothing more, nil if the
    /// keyword is not offered. The first line, which is the server's name, is not searched.
    public func parameters(of keyword: StaticString) -> ArraySlice<UInt8>? {
      for line in lines.dropFirst() {
        let word = line.prefix { $0 != .space && $0 != .ascii("=") }
        if word.equalsIgnoringCase(keyword) { return line[word.endIndex...].drop { $0 == .space }.trimmedEnd }
      }
      return nil
    }
  }

  /// What a byte led to.
  public enum Event: Equatable {
    case more
    case reply(Reply)
    /// The reply has more than ``lineLimit`` lines or a line more than ``lineLengthLimit`` bytes: this is no mail server.
    case overrun
  }

  public static let textLimit = 5000
  public static let lineLimit = 1000
  public static let lineLengthLimit = 65536

  private var text = Bytes()
  private var code = 0
  private var lines = 0
  /// Bytes of the present line so far.
  private var column = 0
  private var continues = false

  public init() {}

  public mutating func feed(_ byte: UInt8) -> Event {
    if byte != .cr && text.count < ReplyParser.textLimit { text.append(byte) }
    if byte == .lf { return endLine() }
    if lines == 0 && column < 3 { code = byte.isDigit && code < 999 ? code * 10 + Int(byte - 48) : 999 }
    if column == 3 { continues = byte == .ascii("-") }
    column += 1
    return column > ReplyParser.lineLengthLimit ? .overrun : .more
  }

  /// Feeds bytes up to the end of the reply or of the bytes.
  /// - Parameter bytes: what was fed is removed from its front.
  public mutating func feed(_ bytes: inout ArraySlice<UInt8>) -> Event {
    while let byte = bytes.popFirst() {
      let event = feed(byte)
      if event != .more { return event }
    }
    return .more
  }

  private mutating func endLine() -> Event {
    if lines == 0 && column < 3 { code = 999 }
    lines += 1
    let isLast = !continues
    column = 0
    continues = false
    if isLast {
      defer { self = ReplyParser() }
      return .reply(Reply(code: code, text: text))
    }
    return lines >= ReplyParser.lineLimit ? .overrun : .more
  }
}
