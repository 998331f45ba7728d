// What the client says, line by line.

import Bytes

/// A command: verb and argument (RFC 5321, 4.1).
public struct Command: Equatable, Sendable {
  public enum Verb: Sendable {
    case helo, ehlo, mail, rcpt, data, rset, noop, vrfy, help, quit
    /// Anything else; STARTTLS and AUTH become verbs when `tlsd` and a password program stand behind them.
    case unknown
  }

  public let verb: Verb
  /// What follows the verb, without the spaces between.
  public let argument: ArraySlice<UInt8>

  /// - Parameter line: without its line end. The verb is the text before the first space, in any case.
  public init(_ line: Bytes) {
    let word = line.prefix { $0 != .space }
    verb = Command.verb(word)
    argument = line[word.endIndex...].drop { $0 == .space }
  }

  private static func verb(_ word: ArraySlice<UInt8>) -> Verb {
    let table: [(StaticString, Verb)] = [
      ("HELO", .helo), ("EHLO", .ehlo), ("MAIL", .mail), ("RCPT", .rcpt), ("DATA", .data), ("RSET", .rset),
      ("NOOP", .noop), ("VRFY", .vrfy), ("HELP", .help), ("QUIT", .quit),
    ]
    for (name, verb) in table where word.equalsIgnoringCase(name) { return verb }
    return .unknown
  }
}

/// Puts command lines together from bytes. A line ends with LF; one CR before it is dropped.
public struct CommandReader {
  /// What a line turned out to be.
  public enum Event: Equatable {
    /// A line without its end.
    case line(Bytes)
    /// The line was longer than ``lineLimit``; all of it has been read and thrown away.
    case tooLong
    /// The line held a NUL or a CR that ended nothing. Neither can be carried on faithfully: a NUL cuts addresses short
    /// in C programs, a CR must never reach the wire again.
    case badByte
  }

  /// Longest line in bytes without its end; RFC 5321, 4.5.3.1.4 asks for 512.
  public static let lineLimit = 4096

  private var line = Bytes()
  private var isTooLong = false

  public init() {}

  /// - Returns: nil as long as the line has no end.
  public mutating func feed(_ byte: UInt8) -> Event? {
    guard byte == .lf else {
      // Room for one more: the CR of the line end.
      if line.count <= CommandReader.lineLimit { line.append(byte) } else { isTooLong = true }
      return nil
    }
    defer { self = CommandReader() }
    if line.last == .cr { line.removeLast() }
    if isTooLong || line.count > CommandReader.lineLimit { return .tooLong }
    if line.contains(.nul) || line.contains(.cr) { return .badByte }
    return .line(line)
  }
}
