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
  case local = 0
  case remote = 1

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

/// One record of a todo (or intd) file (spec queue.md 4.2).
public enum TodoRecord: Equatable, Sendable {
  /// Real uid of the caller of queue.
  case uid(UInt64)
  /// Pid of that queue process, "qp" in logs.
  case pid(UInt64)
  case sender(Bytes)
  case recipient(Bytes)

  /// - Parameter record: without its NUL.
  /// - Returns: nil for an unknown letter or a number that is none.
  public init?(_ record: Bytes) {
    let value = Bytes(record.dropFirst())
    switch record.first {
    case UInt8(ascii: "u"):
      guard let uid = value.decimal else { return nil }
      self = .uid(uid)
    case UInt8(ascii: "p"):
      guard let pid = value.decimal else { return nil }
      self = .pid(pid)
    case UInt8(ascii: "F"): self = .sender(value)
    case UInt8(ascii: "T"): self = .recipient(value)
    default: return nil
    }
  }

  /// The record with its NUL.
  public var bytes: Bytes {
    switch self {
    case .uid(let uid): return Bytes("u") + Bytes(decimal: uid) + [0]
    case .pid(let pid): return Bytes("p") + Bytes(decimal: pid) + [0]
    case .sender(let sender): return Bytes("F") + sender + [0]
    case .recipient(let recipient): return Bytes("T") + recipient + [0]
    }
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
