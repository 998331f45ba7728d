// The id of a message, unique for ever (INTERNALS.md, "One id per message").

import Bytes
import CShim
import System

/// 26 characters of Crockford's base 32: 48 bits of milliseconds since 1970, then 80 bits that make it unique.
///
/// `smtpd` makes one from random bits and writes it into its Received line. A message that came another way has the id
/// that follows from its mess file: the nanoseconds of the mtime and the inode number, which no other file of this
/// queue ever had together.
public struct MessageID: Equatable, Sendable {
  public let bytes: Bytes

  private static let alphabet = Bytes("0123456789ABCDEFGHJKMNPQRSTVWXYZ")

  private init(high: UInt64, low: UInt64) {
    var text = Bytes()
    for position in stride(from: 125, through: 0, by: -5) {
      let digit: UInt64
      if position >= 64 {
        digit = high >> UInt64(position - 64)
      } else if position == 60 {
        digit = (low >> 60) | (high << 4)
      } else {
        digit = low >> UInt64(position)
      }
      text.append(MessageID.alphabet[Int(digit & 31)])
    }
    bytes = text
  }

  /// A fresh one.
  /// - Parameters:
  ///   - nanoseconds: since 1970.
  ///   - random: ten bytes.
  public init(nanoseconds: Int64, random: Bytes) {
    let milliseconds = UInt64(nanoseconds / 1_000_000)
    var low: UInt64 = 0
    for byte in random[2..<10] { low = low << 8 | UInt64(byte) }
    self.init(high: milliseconds << 16 | UInt64(random[0]) << 8 | UInt64(random[1]), low: low)
  }

  /// That of a message without one of its own: from inode number and mtime of its mess file.
  public init(inode: UInt64, modified seconds: Int64, nanoseconds: UInt32) {
    let milliseconds = UInt64(seconds) * 1000 + UInt64(nanoseconds / 1_000_000)
    let below = UInt64(nanoseconds % 1_000_000)  // 20 bits
    self.init(high: milliseconds << 16 | below >> 4, low: below << 60 | inode & (1 << 60 - 1))
  }

  /// Reads one as it was printed; nil if it is none.
  public init?(_ text: ArraySlice<UInt8>) {
    guard text.count == 26, text.allSatisfy({ MessageID.alphabet.contains($0) }) else { return nil }
    bytes = Bytes(text)
  }

  /// How much of a mess file has to be looked at, in bytes.
  public static let headSize = 4096

  /// The id of a message in the queue.
  ///
  /// That of `smtpd` stands in the first Received field below the line that queue wrote. All below it the client may
  /// have forged, and all of it anybody but `smtpd`; so queue's own line must say that the message came from the network.
  /// - Parameters:
  ///   - head: the first ``headSize`` bytes of its mess file.
  ///   - inode, modified, nanoseconds: of that file, its mtime as seconds and the part below.
  ///   - rootless: whether smtpd runs as the same user as everybody else.
  public init(head: Bytes, inode: UInt64, modified: Int64, nanoseconds: UInt32, rootless: Bool) {
    if let received = MessageID(receivedIn: head, rootless: rootless) {
      self = received
    } else {
      self.init(inode: inode, modified: modified, nanoseconds: nanoseconds)
    }
  }

  private init?(receivedIn head: Bytes, rootless: Bool) {
    var lines = head.split(separator: .lf, omittingEmptySubsequences: false)[...]
    guard let invocation = lines.popFirst(), rootless || Bytes(invocation).contains(MessageID.fromNetwork) else {
      return nil
    }
    // Rootless, queue's line does not tell smtpd from others. What is forwarded or sent again brings the Received line of
    // its former life, but below fields of its own.
    if rootless, lines.first?.hasPrefixIgnoringCase("received:") != true { return nil }
    while let line = lines.first, !line.isEmpty, !line.hasPrefixIgnoringCase("received:") { lines.removeFirst() }
    guard let first = lines.popFirst(), !first.isEmpty else { return nil }
    var field = Bytes(first)
    while let more = lines.first, more.first?.isBlank == true {
      field.append(contentsOf: more)
      lines.removeFirst()
    }
    // ... with ESMTP id 01ABC...; date
    guard let end = field.lastIndex(of: .ascii(";")), end > 30 else { return nil }
    guard field[..<(end - 26)].hasSuffix(" id ") else { return nil }
    self.init(field[(end - 26)..<end])
  }

  private static let fromNetwork = Bytes(" invoked from network); ")
}

/// What a mess file tells about its message.
public struct MessFile {
  public let size: Int64
  public let id: MessageID

  /// Looks at mess/s/N, relative to `queue/`.
  public init(_ number: MessageNumber, rootless: Bool) throws(SystemError) {
    let file = try Descriptor.open(QueuePath.mess(number), O_RDONLY)
    let status = try file.status()
    var head = Bytes()
    _ = try file.read(into: &head, limit: MessageID.headSize)
    size = status.size
    id = MessageID(
      head: head, inode: status.inode, modified: status.modified, nanoseconds: status.modifiedNanoseconds,
      rootless: rootless)
  }
}
