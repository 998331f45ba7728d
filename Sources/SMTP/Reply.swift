// The server's replies, as the server makes them.

import Bytes

/// One reply: code, enhanced status code, text (RFC 5321, 4.2; RFC 3463).
public struct Reply: Equatable, Sendable {
  public let code: Int
  /// One or more lines.
  public let lines: [Bytes]
  /// For example `5.7.1`; nil if this reply never carries one: greeting, HELO, EHLO, 354 (RFC 2034, 3).
  public let status: Bytes?

  /// A reply of one line.
  /// - Parameters:
  ///   - status: nil takes what stands in `(#5.7.1)` at the end of the text, and without that the class, e.g. `5.0.0`.
  public init(_ code: Int, _ text: Bytes, status: StaticString? = nil) {
    self.code = code
    lines = [text]
    self.status = status.map { Bytes($0) } ?? Reply.statusAtEnd(of: text) ?? Bytes(decimal: code / 100) + Bytes(".0.0")
  }

  public init(_ code: Int, _ text: StaticString, status: StaticString? = nil) {
    self.init(code, Bytes(text), status: status)
  }

  /// A reply without an enhanced status code.
  public init(plain code: Int, _ lines: [Bytes]) {
    self.code = code
    self.lines = lines
    status = nil
  }

  /// Whether the client has done something wrong, or we could not do what it asked.
  public var isRefusal: Bool { code >= 400 }

  /// The reply as it is sent. Bytes that could forge a line of their own become `?`.
  /// - Parameter extended: whether the client said EHLO and so was offered ENHANCEDSTATUSCODES.
  public func wire(extended: Bool) -> Bytes {
    var wire = Bytes()
    for (index, line) in lines.enumerated() {
      wire.append(decimal: code)
      wire.append(index == lines.count - 1 ? " " : "-")
      if extended, let status {
        wire.append(contentsOf: status)
        wire.append(" ")
      }
      for byte in line { wire.append(byte < 32 || byte == 127 ? .ascii("?") : byte) }
      wire.append("\r\n")
    }
    return wire
  }

  /// `5.7.1` of a text that ends in `(#5.7.1)`.
  private static func statusAtEnd(of text: Bytes) -> Bytes? {
    guard text.last == .ascii(")"), let hash = text.lastIndex(of: .ascii("#")), hash > 0,
      text[hash - 1] == .ascii("(")
    else { return nil }
    let status = text[(hash + 1)..<(text.count - 1)]
    let parts = status.split(separator: .ascii("."), omittingEmptySubsequences: false)
    guard parts.count == 3, parts.allSatisfy({ $0.decimal != nil }) else { return nil }
    return Bytes(status)
  }
}
