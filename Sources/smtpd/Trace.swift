// Where a message has been: the Received field we add, and those that are in it already.

import Bytes
import Mail

/// The client, as the program that accepted the connection describes it (spec pipes.md 8).
struct Peer {
  /// `TCPREMOTEHOST`, `TCPREMOTEINFO`, `TCPREMOTEIP`, and our own `TCPLOCALHOST` or `TCPLOCALIP`.
  let host, info, address, local: Bytes?

  /// The field of spec smtp.md 6, two lines with their LFs.
  ///
  /// - Parameters:
  ///   - helo: what the client calls itself; nil before HELO.
  ///   - id: if not empty it stands where MessageID(receivedIn:) looks for it.
  func received(helo: Bytes?, isExtended: Bool, id: Bytes, at date: UTCDate) -> Bytes {
    let name = host ?? Bytes("unknown")
    var text = Bytes("Received: from ")
    text += Peer.clean(name)
    if let helo, !helo.equalsIgnoringCase(name) {
      text += Bytes(" (HELO ") + Peer.clean(helo) + Bytes(")")
    }
    text.append(" (")
    if let info { text += Peer.clean(info) + Bytes("@") }
    text += Peer.clean(address ?? Bytes("unknown"))
    text.append(")\n  by ")
    text += Peer.clean(local ?? Bytes("unknown"))
    text.append(isExtended ? " with ESMTP" : " with SMTP")
    if !id.isEmpty { text += Bytes(" id ") + id }
    text.append("; ")
    text += date.header
    text.append(.lf)
    return text
  }

  /// At most 255 bytes; all but letters, digits and `.@%+/=:-[]` become `?`.
  static func clean(_ text: Bytes) -> Bytes {
    text.prefix(255).map { byte in
      if byte.isLetter || byte.isDigit { return byte }
      switch byte {
      case .ascii("."), .ascii("@"), .ascii("%"), .ascii("+"), .ascii("/"), .ascii("="), .ascii(":"), .ascii("-"),
        .ascii("["), .ascii("]"):
        return byte
      default: return .ascii("?")
      }
    }
  }
}

/// Counts the Received and Delivered-To fields in the header of a message that comes in pieces.
struct HopCounter {
  private(set) var hops = 0
  /// The start of the present line; no more than the longest name and its colon need.
  private var start = Bytes()
  private var isBlankSoFar = true
  private var isHeader = true

  /// With this number of hops a message is looping (spec smtp.md 5).
  static let limit = 100
  private static let startLength = 16

  init() {}

  mutating func feed(_ text: ArraySlice<UInt8>) {
    guard isHeader else { return }
    for byte in text {
      if byte == .lf {
        if isBlankSoFar {
          isHeader = false
          return
        }
        start.removeAll(keepingCapacity: true)
        isBlankSoFar = true
        continue
      }
      isBlankSoFar = false
      guard start.count < HopCounter.startLength else { continue }
      start.append(byte)
      if byte == .ascii(":"), isHop { hops += 1 }
    }
  }

  /// Whether the line up to its first colon is the name of a field that every hop adds. `Received-SPF:` is not.
  private var isHop: Bool {
    let name = start.dropLast().trimmedEnd
    return name.equalsIgnoringCase("Received") || name.equalsIgnoringCase("Delivered-To")
  }
}
