// What programs tell the operator.

/// A log line of the new kind: `PROGRAM key=value key=value ...` (design.md 9).
///
/// Values may be chosen by strangers: every byte outside 33...126 and `%` becomes `_`, so that no value can look like
/// a further key or line, and what is longer than ``valueLimit`` is cut.
public struct LogLine {
  /// The line without LF.
  public private(set) var bytes: Bytes

  public static let valueLimit = 256

  /// - Parameter program: its name without `apus-`.
  public init(_ program: StaticString) { bytes = Bytes(program) }

  public mutating func add(_ key: StaticString, _ value: Bytes) {
    bytes.append(" ")
    bytes.append(key)
    bytes.append("=")
    for byte in value.prefix(LogLine.valueLimit) {
      bytes.append(byte > 32 && byte < 127 && byte != .ascii("%") ? byte : .ascii("_"))
    }
  }

  public mutating func add(_ key: StaticString, _ value: StaticString) { add(key, Bytes(value)) }

  public mutating func add<N: BinaryInteger>(_ key: StaticString, _ value: N) { add(key, Bytes(decimal: value)) }
}
