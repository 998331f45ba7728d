// Control: reading control files (spec control.md 1).
//
// One value per file or one entry per line. A missing file is "absent", never an error; a file that
// cannot be read is an error, never "absent". Oddities that qmail bears in silence (CR, leading blanks,
// numbers that are none) are kept as qmail reads them, and collected as warnings for the reader's log.

import Bytes
import System

/// A control file that exists but cannot be read.
public struct ControlError: Error {
  /// As given to the reader, e.g. `control/locals`.
  public let file: StaticString
  public let cause: SystemError

  public init(file: StaticString, cause: SystemError) {
    self.file = file
    self.cause = cause
  }
}

/// Reads control files relative to the current directory, which is the home when the program starts.
public struct Control {
  /// What looked wrong, one line each without LF, e.g. `control/locals: line 2 ends with CR`.
  public private(set) var warnings: [Bytes] = []
  /// First line of `control/me`.
  public let me: Bytes?

  /// Longest file that is read; a longer one is an error (EFBIG).
  public static let sizeLimit = 64 << 20

  /// - Throws: ``ControlError`` if `control/me` exists but cannot be read.
  public init() throws(ControlError) {
    let first = try Control.contents("control/me").map(Control.firstLine)
    me = first
    if let first { check(first, of: "control/me") }
  }

  /// The first line without trailing blanks; nil if the file is absent.
  public mutating func line(_ file: StaticString) throws(ControlError) -> Bytes? {
    guard let text = try Control.contents(file) else { return nil }
    let line = Control.firstLine(text)
    check(line, of: file)
    return line
  }

  private mutating func check(_ line: Bytes, of file: StaticString) {
    if line.last == .cr { warn(file, "line 1 ends with CR") }
    if let first = line.first, first.isBlank { warn(file, "line 1 starts with a blank") }
  }

  /// The first line; without the file that of `control/me`; without both `standIn`.
  public mutating func lineOrMe(_ file: StaticString, _ standIn: StaticString) throws(ControlError) -> Bytes {
    try line(file) ?? me ?? Bytes(standIn)
  }

  /// The number at the start of the first line; absent or no number: `standIn`.
  public mutating func number(_ file: StaticString, _ standIn: UInt64) throws(ControlError) -> UInt64 {
    guard let line = try line(file) else { return standIn }
    guard let (value, length) = line.decimalPrefix else {
      warn(file, "not a number, the default stands")
      return standIn
    }
    if length != line.count { warn(file, "text after the number is ignored") }
    return value
  }

  /// All entries: trailing blanks removed, empty lines and lines that start with `#` left out. nil if absent.
  public mutating func list(_ file: StaticString) throws(ControlError) -> [Bytes]? {
    guard let text = try Control.contents(file) else { return nil }
    var entries: [Bytes] = []
    var lineNumber = 0
    for line in text.split(separator: .lf, omittingEmptySubsequences: false) {
      lineNumber += 1
      let entry = line.trimmedEnd
      if entry.isEmpty || entry.first == .ascii("#") { continue }
      if entry.last == .cr { warn(file, "a line ends with CR", lineNumber) }
      if entry[entry.startIndex].isBlank { warn(file, "a line starts with a blank", lineNumber) }
      entries.append(Bytes(entry))
    }
    return entries
  }

  /// Notes something odd about a file, to be logged by the reader.
  public mutating func warn(_ file: StaticString, _ what: StaticString, _ lineNumber: Int? = nil) {
    var text = Bytes(file)
    if let lineNumber {
      text.append(": line ")
      text.append(decimal: lineNumber)
    }
    text.append(": ")
    text.append(what)
    warnings.append(text)
  }

  private static func contents(_ file: StaticString) throws(ControlError) -> Bytes? {
    do throws(SystemError) {
      return try Files.contents(Path(Bytes(file)), limit: sizeLimit)
    } catch {
      if error.isAbsence { return nil }
      throw ControlError(file: file, cause: error)
    }
  }

  private static func firstLine(_ text: Bytes) -> Bytes {
    Bytes(text.prefix { $0 != .lf }.trimmedEnd)
  }
}

/// A list looked up by whole entry, ignoring ASCII case (spec control.md 1, "map").
public struct ControlSet: Sendable {
  private let entries: Set<Bytes>

  public init(_ list: [Bytes]) { entries = Set(list.map { $0.lowercased }) }

  public func contains<B: RandomAccessCollection>(_ key: B) -> Bool where B.Element == UInt8, B.Index == Int {
    entries.contains(key.lowercased)
  }
  public var isEmpty: Bool { entries.isEmpty }
}

/// A list of `key:value`, looked up by key, ignoring ASCII case (spec control.md 1, "colon map").
/// Of equal keys the last counts; lines without a colon do not.
public struct ControlMap: Sendable {
  private var entries: [Bytes: Bytes] = [:]

  public init(_ list: [Bytes]) {
    for line in list {
      guard let colon = line.firstIndex(of: .ascii(":")) else { continue }
      entries[line[..<colon].lowercased] = Bytes(line[(colon + 1)...])
    }
  }

  public subscript<B: RandomAccessCollection>(key: B) -> Bytes? where B.Element == UInt8, B.Index == Int {
    entries[key.lowercased]
  }
  public var isEmpty: Bool { entries.isEmpty }

  /// The value of the first existing key of: the domain, each of its suffixes that starts with a dot (longest
  /// first), the empty key. This is how smtproutes and virtualdomains are searched.
  public func value<B: RandomAccessCollection>(forDomain domain: B) -> Bytes?
  where B.Element == UInt8, B.Index == Int, B.SubSequence: RandomAccessCollection {
    if let value = self[domain] { return value }
    var at = domain.startIndex
    while at < domain.endIndex {
      if domain[at] == .ascii("."), let value = self[Bytes(domain[at...])] {
        return value
      }
      at += 1
    }
    return self[Bytes()]
  }
}
