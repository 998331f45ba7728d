// Bytes: byte strings as the wire and the disk have them.
//
// ASCII case, decimal numbers, searching, trimming, printing what is not printable. What
// comes from outside is never a `String`. No I/O; input may be chosen by strangers.

/// A byte string: anything read from the wire, a pipe or a file.
public typealias Bytes = [UInt8]

extension UInt8 {
  public static let lf: UInt8 = 10
  public static let cr: UInt8 = 13
  public static let space: UInt8 = 32
  public static let tab: UInt8 = 9
  public static let nul: UInt8 = 0

  /// The lowercase form of an ASCII letter; any other byte unchanged.
  public var lowercased: UInt8 { self >= 65 && self <= 90 ? self + 32 : self }
  public var isDigit: Bool { self >= 48 && self <= 57 }
  public var isLetter: Bool { lowercased >= 97 && lowercased <= 122 }
  public var isBlank: Bool { self == .space || self == .tab }

  /// The byte of an ASCII character in our own source text.
  public static func ascii(_ character: Unicode.Scalar) -> UInt8 { UInt8(ascii: character) }
}

extension Array where Element == UInt8 {
  /// The bytes of text we wrote ourselves.
  public init(_ text: StaticString) {
    self = text.withUTF8Buffer { Array($0) }
  }

  /// The digits of an unsigned number, without leading zeros.
  public init<N: BinaryInteger>(decimal number: N) {
    guard number != 0 else {
      self = [48]
      return
    }
    var digits: [UInt8] = []
    var rest = number.magnitude
    while rest != 0 {
      digits.append(48 + UInt8(truncatingIfNeeded: rest % 10))
      rest /= 10
    }
    if number < 0 { digits.append(.ascii("-")) }
    digits.reverse()
    self = digits
  }

  public mutating func append(_ text: StaticString) {
    text.withUTF8Buffer { append(contentsOf: $0) }
  }

  public mutating func append<N: BinaryInteger>(decimal number: N) {
    append(contentsOf: [UInt8](decimal: number))
  }
}

/// Questions about a byte string, whole or a slice of one.
extension RandomAccessCollection where Element == UInt8, Index == Int {
  /// The same bytes with ASCII capitals made small.
  public var lowercased: Bytes { map { $0.lowercased } }

  /// Whether both are the same when ASCII case is ignored.
  public func equalsIgnoringCase<Other: RandomAccessCollection>(_ other: Other) -> Bool
  where Other.Element == UInt8, Other.Index == Int {
    guard count == other.count else { return false }
    var there = other.startIndex
    for byte in self {
      if byte.lowercased != other[there].lowercased { return false }
      there += 1
    }
    return true
  }

  public func equals(_ text: StaticString) -> Bool {
    text.withUTF8Buffer { count == $0.count && $0.elementsEqual(self) }
  }

  public func equalsIgnoringCase(_ text: StaticString) -> Bool {
    text.withUTF8Buffer { equalsIgnoringCase($0) }
  }

  public func hasPrefix(_ text: StaticString) -> Bool {
    text.withUTF8Buffer { count >= $0.count && self.prefix($0.count).elementsEqual($0) }
  }

  public func hasPrefixIgnoringCase(_ text: StaticString) -> Bool {
    text.withUTF8Buffer { count >= $0.count && self.prefix($0.count).equalsIgnoringCase($0) }
  }

  public func hasPrefix(_ bytes: Bytes) -> Bool {
    count >= bytes.count && self.prefix(bytes.count).elementsEqual(bytes)
  }

  public func hasSuffix(_ text: StaticString) -> Bool {
    text.withUTF8Buffer { count >= $0.count && self.suffix($0.count).elementsEqual($0) }
  }

  /// Whether `bytes`, which are not empty, stand anywhere in it.
  public func contains(_ bytes: Bytes) -> Bool {
    guard count >= bytes.count else { return false }
    for start in startIndex...(endIndex - bytes.count) where self[start] == bytes[0] {
      if self[start..<(start + bytes.count)].elementsEqual(bytes) { return true }
    }
    return false
  }

  /// Index of the last occurrence of `byte`.
  public func lastIndex(of byte: UInt8) -> Int? {
    var i = endIndex
    while i > startIndex {
      i -= 1
      if self[i] == byte { return i }
    }
    return nil
  }

  /// Without spaces, tabs and line feeds at its end, as every control file line is read.
  public var trimmedEnd: SubSequence {
    var end = endIndex
    while end > startIndex, self[end - 1].isBlank || self[end - 1] == .lf { end -= 1 }
    return self[startIndex..<end]
  }

  /// The number in the digits at its start; nil without any digit or above `UInt64.max`.
  public var decimalPrefix: (value: UInt64, length: Int)? {
    var value: UInt64 = 0
    var length = 0
    for byte in self {
      guard byte.isDigit else { break }
      let (tens, over) = value.multipliedReportingOverflow(by: 10)
      let (sum, carried) = tens.addingReportingOverflow(UInt64(byte - 48))
      if over || carried { return nil }
      value = sum
      length += 1
    }
    return length == 0 ? nil : (value, length)
  }

  /// The number, if all bytes are digits and there is at least one.
  public var decimal: UInt64? {
    guard let (value, length) = decimalPrefix, length == count else { return nil }
    return value
  }

  /// As text from elsewhere stands in a log line (spec send.md 9): LF as `/`; space, control bytes, bytes above 126
  /// and `%` as `_`.
  public var logSafe: Bytes {
    map { byte in
      if byte == .lf { return .ascii("/") }
      return byte <= 32 || byte > 126 || byte == .ascii("%") ? .ascii("_") : byte
    }
  }
}
