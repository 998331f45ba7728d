// QueueFormat: names, records and limits of the queue directory, byte for byte as qmail has them (spec queue.md).
//
// Whoever touches a queue file takes its name and its form from here. Paths are relative to `queue/`. Contents of
// mess files and addresses are chosen by strangers.

import Bytes
import System

/// The number of a message: the inode of its mess file (spec queue.md 3).
public typealias MessageNumber = UInt64

/// Constants of spec queue.md 1.
public enum QueueLimits {
  /// Subdirectories of mess, info, local and remote.
  public static let split: UInt64 = 23
  /// Life limit of one queue process, in seconds.
  public static let death: UInt32 = 86400
  /// Age after which leftovers may be removed, in seconds; must exceed `death`.
  public static let ossified: Int64 = 129600
  /// Longest address in bytes, its NUL not counted.
  public static let address = 1002
}

/// The two ways out of the queue.
public enum Channel: Int, CaseIterable, Sendable {
  case local = 0, remote = 1

  public var name: StaticString { self == .local ? "local" : "remote" }
}

/// File names of one message.
public enum QueuePath {
  public static func mess(_ n: MessageNumber) -> Path { "mess/\(n % QueueLimits.split)/\(n)" }
  public static func info(_ n: MessageNumber) -> Path { "info/\(n % QueueLimits.split)/\(n)" }
  public static func intd(_ n: MessageNumber) -> Path { "intd/\(n)" }
  public static func todo(_ n: MessageNumber) -> Path { "todo/\(n)" }
  public static func bounce(_ n: MessageNumber) -> Path { "bounce/\(n)" }
  public static func recipients(_ n: MessageNumber, _ channel: Channel) -> Path {
    channel == .local ? "local/\(n % QueueLimits.split)/\(n)" : "remote/\(n % QueueLimits.split)/\(n)"
  }

  /// The directories that hold the split files of a message.
  public static func messDirectory(_ n: MessageNumber) -> Path { "mess/\(n % QueueLimits.split)" }
  public static func infoDirectory(_ n: MessageNumber) -> Path { "info/\(n % QueueLimits.split)" }
  public static func recipientsDirectory(_ n: MessageNumber, _ channel: Channel) -> Path {
    channel == .local ? "local/\(n % QueueLimits.split)" : "remote/\(n % QueueLimits.split)"
  }

  /// The message a directory entry stands for; nil for names that are not all digits (spec queue.md 3).
  public static func number(of name: Bytes) -> MessageNumber? { name.decimal }
}

/// The records of a todo (or intd) file (spec queue.md 4.2).
public struct TodoEnvelope: Equatable {
  /// Real uid of the caller of queue.
  public var uid: UInt64
  /// Pid of that queue process, "qp" in logs.
  public var pid: UInt64
  public var sender: Bytes
  public var recipients: [Bytes]

  /// Why a todo file cannot be read.
  public enum Fault: Error {
    /// A record starts with a byte other than u, p, F or T.
    case unknownRecord
    /// No sender, or numbers that are none.
    case incomplete
  }

  public init(uid: UInt64, pid: UInt64, sender: Bytes, recipients: [Bytes]) {
    self.uid = uid
    self.pid = pid
    self.sender = sender
    self.recipients = recipients
  }

  /// Reads a whole file. A last record without NUL is ignored, as qmail does.
  public init(parsing file: Bytes) throws(Fault) {
    var uid: UInt64?
    var pid: UInt64?
    var sender: Bytes?
    recipients = []
    var rest = file[...]
    while let end = rest.firstIndex(of: 0) {
      let record = rest[rest.startIndex..<end]
      rest = rest[(end + 1)...]
      let value = record.dropFirst()
      switch record.first {
      case UInt8(ascii: "u"): uid = Bytes(value).decimal
      case UInt8(ascii: "p"): pid = Bytes(value).decimal
      case UInt8(ascii: "F"): sender = Bytes(value)
      case UInt8(ascii: "T"): recipients.append(Bytes(value))
      default: throw .unknownRecord
      }
    }
    guard let uid, let pid, let sender else { throw .incomplete }
    self.uid = uid
    self.pid = pid
    self.sender = sender
  }

  /// The records before the recipients.
  public static func head(uid: UInt32, pid: Int32) -> Bytes {
    var bytes = Bytes("u")
    bytes.append(decimal: uid)
    bytes.append(0)
    bytes.append("p")
    bytes.append(decimal: pid)
    bytes.append(0)
    return bytes
  }
}

/// The record of an info file: `F`, sender, NUL (spec queue.md 4.3).
public enum InfoRecord {
  public static func bytes(sender: Bytes) -> Bytes { Bytes("F") + sender + [0] }

  /// The sender; nil if the file has another form.
  public static func sender(in file: Bytes) -> Bytes? {
    guard file.first == .ascii("F"), let end = file.firstIndex(of: 0) else { return nil }
    return Bytes(file[1..<end])
  }
}

/// Record letters of local and remote files (spec queue.md 4.4).
public enum RecipientMark {
  public static let todo = UInt8(ascii: "T")
  public static let done = UInt8(ascii: "D")
}
