// The arguments of MAIL and RCPT.

import Bytes

/// An address with parameters behind it: `FROM:<a@b> SIZE=10` (spec smtp.md 3).
public struct PathArgument: Equatable, Sendable {
  /// What is wrong with the argument.
  public enum Fault: Error {
    /// There is none: 501.
    case missing
    /// No address can be found, or one longer than ``addressLimit``: 555.
    case syntax
  }

  /// Unquoted, without source route and angle brackets; empty for `<>`.
  public var address: Bytes
  /// What follows the address, cut at spaces.
  public let parameters: [ArraySlice<UInt8>]

  /// Longest address in bytes.
  public static let addressLimit = 899

  public init(_ argument: ArraySlice<UInt8>) throws(Fault) {
    guard !argument.isEmpty else { throw .missing }
    var rest: ArraySlice<UInt8>
    let terminator: UInt8
    if let bracket = argument.firstIndex(of: .ascii("<")) {
      rest = argument[(bracket + 1)...]
      terminator = .ascii(">")
    } else if let colon = argument.firstIndex(of: .ascii(":")) {
      rest = argument[(colon + 1)...].drop { $0 == .space }
      terminator = .space
    } else {
      throw .syntax
    }
    if rest.first == .ascii("@") {  // a source route: RFC 5321, F.2 says to ignore it
      guard let colon = rest.prefix(while: { $0 != terminator }).firstIndex(of: .ascii(":")) else { throw .syntax }
      rest = rest[(colon + 1)...]
    }
    address = PathArgument.unquote(&rest, until: terminator)
    guard address.count <= PathArgument.addressLimit else { throw .syntax }
    parameters = rest.split(separator: .space)
  }

  /// Takes the bytes up to the unquoted terminator off the front of `rest`, and the terminator. A missing one is no
  /// error.
  private static func unquote(_ rest: inout ArraySlice<UInt8>, until terminator: UInt8) -> Bytes {
    var address = Bytes()
    var quoted = false
    while let byte = rest.popFirst() {
      switch byte {
      case .ascii("\\"):
        if let literal = rest.popFirst() { address.append(literal) }
      case .ascii("\""):
        quoted.toggle()
      case terminator where !quoted:
        return address
      default:
        address.append(byte)
      }
    }
    return address
  }

  /// The address in `user@[192.0.2.1]` or `user@[IPv6:2001:db8::1]`, without brackets; nil for any other domain.
  public var addressLiteral: Bytes? {
    guard let at = address.lastIndex(of: .ascii("@")) else { return nil }
    let domain = address[(at + 1)...]
    guard domain.first == .ascii("["), domain.last == .ascii("]"), domain.count > 2 else { return nil }
    let inner = domain.dropFirst().dropLast()
    return Bytes(inner.hasPrefixIgnoringCase("IPv6:") ? inner.dropFirst(5) : inner)
  }

  /// Puts a name in place of what follows the last `@`.
  public mutating func replaceDomain(_ name: Bytes) {
    guard let at = address.lastIndex(of: .ascii("@")) else { return }
    address = Bytes(address[...at]) + name
  }
}

/// The parameters of MAIL that are offered in EHLO.
public struct MailParameters: Equatable, Sendable {
  public enum Fault: Error {
    /// A parameter that was not offered: 555 (RFC 5321, 4.1.1.11).
    case unknown
    /// A value that cannot be, or a parameter given twice: 501.
    case malformed
  }

  public enum Body: Sendable { case sevenBit, eightBitMIME }

  /// The client's estimate of the message's size on the wire, in bytes (RFC 1870).
  public private(set) var size: UInt64?
  /// RFC 6152.
  public private(set) var body: Body?

  public init(_ parameters: [ArraySlice<UInt8>]) throws(Fault) {
    for parameter in parameters {
      let key = parameter.prefix { $0 != .ascii("=") }
      let value = parameter[key.endIndex...].dropFirst()
      if key.equalsIgnoringCase("SIZE") {
        guard size == nil, value.count <= 20, let number = value.decimal else { throw .malformed }
        size = number
      } else if key.equalsIgnoringCase("BODY") {
        guard body == nil else { throw .malformed }
        if value.equalsIgnoringCase("7BIT") {
          body = .sevenBit
        } else if value.equalsIgnoringCase("8BITMIME") {
          body = .eightBitMIME
        } else {
          throw .malformed
        }
      } else {
        throw .unknown
      }
    }
  }
}
