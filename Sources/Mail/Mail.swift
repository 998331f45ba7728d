// Mail: what RFC 5321 and 5322 call things, as far as several programs need it.
//
// Envelope addresses as the queue carries them (no quoting, no angle brackets, at most one split at the last @),
// their quoted form for headers and SMTP, and dates. No I/O. Addresses are chosen by strangers.

import Bytes

/// An envelope address as it stands in the queue: local-part, `@`, domain; or a bare local-part; or nothing.
public struct Mailbox: Equatable, Sendable {
  /// The whole, unquoted.
  public let bytes: Bytes
  private let at: Int?

  public init(_ bytes: Bytes) {
    self.bytes = bytes
    at = bytes.lastIndex(of: .ascii("@"))
  }

  /// Everything before the last `@`, or all without one.
  public var localPart: ArraySlice<UInt8> { at.map { bytes[..<$0] } ?? bytes[...] }
  /// Everything after the last `@`; nil without one.
  public var domain: ArraySlice<UInt8>? { at.map { bytes[($0 + 1)...] } }

  /// The form for SMTP and header fields: the local-part in quotes if it needs them (spec delivery.md 8).
  public var quoted: Bytes {
    guard !bytes.isEmpty, Mailbox.needsQuotes(localPart) else { return bytes }
    var text = Bytes("\"")
    for byte in localPart {
      if byte == .cr || byte == .lf || byte == .ascii("\"") || byte == .ascii("\\") { text.append(.ascii("\\")) }
      text.append(byte)
    }
    text.append(.ascii("\""))
    if let domain {
      text.append(.ascii("@"))
      text.append(contentsOf: domain)
    }
    return text
  }

  /// Whether a local-part is no dot-atom.
  public static func needsQuotes(_ text: ArraySlice<UInt8>) -> Bool {
    guard let first = text.first, let last = text.last else { return true }
    if first == .ascii(".") || last == .ascii(".") { return true }
    var previous: UInt8 = 0
    for byte in text {
      if byte <= 32 || byte >= 127 { return true }
      switch byte {
      case .ascii("("), .ascii(")"), .ascii(","), .ascii(":"), .ascii(";"), .ascii("<"), .ascii(">"), .ascii("@"),
        .ascii("["), .ascii("\\"), .ascii("]"), .ascii("\""):
        return true
      case .ascii(".") where previous == .ascii("."): return true
      default: previous = byte
      }
    }
    return false
  }
}

/// A moment in the calendar, UTC.
public struct UTCDate: Sendable {
  public let year: Int64
  /// 1 to 12, 1 to 31, 0 (Sunday) to 6, 0 to 23, 0 to 59, 0 to 59.
  public let month, day, weekday, hour, minute, second: Int

  /// - Parameter time: seconds since 1970.
  public init(_ time: Int64) {
    var days = time / 86400
    var rest = time % 86400
    if rest < 0 {
      rest += 86400
      days -= 1
    }
    hour = Int(rest / 3600)
    minute = Int(rest / 60 % 60)
    second = Int(rest % 60)
    weekday = Int(((days + 4) % 7 + 7) % 7)
    // Years begin in March here, so that the leap day is the last of its year; eras have 400 years.
    let shifted = days + 719468
    let era = (shifted >= 0 ? shifted : shifted - 146096) / 146097
    let dayOfEra = shifted - era * 146097
    let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36524 - dayOfEra / 146096) / 365
    let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
    let monthFromMarch = (5 * dayOfYear + 2) / 153
    day = Int(dayOfYear - (153 * monthFromMarch + 2) / 5 + 1)
    month = Int(monthFromMarch < 10 ? monthFromMarch + 3 : monthFromMarch - 9)
    year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
  }

  private static let months: [StaticString] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
  ]
  private static let weekdays: [StaticString] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"]

  /// `21 Nov 2026 05:23:28 -0000`: header fields and Received lines (spec queue.md 4.1).
  public var header: Bytes {
    var text = Bytes(decimal: day)
    text.append(" ")
    text.append(UTCDate.months[month - 1])
    text.append(" ")
    text.append(decimal: year)
    text.append(" ")
    text.append(contentsOf: clock)
    text.append(" -0000")
    return text
  }

  /// `Sat Nov 21 05:23:28 2026`, the day padded with a space: mbox `From ` lines, as asctime(3).
  public var asctime: Bytes {
    var text = Bytes(UTCDate.weekdays[weekday])
    text.append(" ")
    text.append(UTCDate.months[month - 1])
    text.append(day < 10 ? "  " : " ")
    text.append(decimal: day)
    text.append(" ")
    text.append(contentsOf: clock)
    text.append(" ")
    text.append(decimal: year)
    return text
  }

  /// `20261121052328`: the start of a Message-ID.
  public var compact: Bytes {
    var text = Bytes(decimal: year)
    for part in [month, day, hour, minute, second] { text.append(contentsOf: UTCDate.two(part)) }
    return text
  }

  private var clock: Bytes {
    var text = UTCDate.two(hour)
    text.append(":")
    text.append(contentsOf: UTCDate.two(minute))
    text.append(":")
    text.append(contentsOf: UTCDate.two(second))
    return text
  }

  private static func two(_ number: Int) -> Bytes { [48 + UInt8(number / 10), 48 + UInt8(number % 10)] }
}
