// Waiting for descriptors and signals.

import Bytes
import CShim

/// Waits for descriptors with poll(2): no limit on their number or value.
public struct Wait {
  private var entries: [pollfd] = []

  public init() {}

  /// Adds a descriptor to wait for. - Returns: the index to ask for afterwards.
  @discardableResult
  public mutating func read(_ number: Int32) -> Int { add(number, Int16(POLLIN)) }

  @discardableResult
  public mutating func write(_ number: Int32) -> Int { add(number, Int16(POLLOUT)) }

  private mutating func add(_ number: Int32, _ events: Int16) -> Int {
    entries.append(pollfd(fd: number, events: events, revents: 0))
    return entries.count - 1
  }

  /// Forgets all descriptors, to build the next wait in the same memory.
  public mutating func reset() { entries.removeAll(keepingCapacity: true) }

  /// Waits until one is ready or the time is over; nil waits for ever.
  /// - Returns: false when the time was over or a signal came.
  @discardableResult
  public mutating func wait(milliseconds: Int64?) throws(SystemError) -> Bool {
    let limit = milliseconds.map { Int32(clamping: max(0, $0)) } ?? -1
    let n = entries.withUnsafeMutableBufferPointer { sys_poll($0.baseAddress, UInt32($0.count), limit) }
    if n < 0 {
      if shim_errno() == EINTR {
        for i in entries.indices { entries[i].revents = 0 }
        return false
      }
      throw SystemError("poll")
    }
    return n > 0
  }

  /// Whether the descriptor added as `index` can be read or written, was closed by the other side, or failed.
  public func isReady(_ index: Int) -> Bool { entries[index].revents != 0 }

  /// Waits until a read would not block. - Returns: false when the time was over.
  public static func readable(_ number: Int32, milliseconds: Int64) throws(SystemError) -> Bool {
    try one(number, Int16(POLLIN), milliseconds)
  }

  /// Waits until a write would not block. - Returns: false when the time was over.
  public static func writable(_ number: Int32, milliseconds: Int64) throws(SystemError) -> Bool {
    try one(number, Int16(POLLOUT), milliseconds)
  }

  private static func one(_ number: Int32, _ events: Int16, _ milliseconds: Int64) throws(SystemError) -> Bool {
    let end = Clock.monotonicMilliseconds() + milliseconds
    var entry = pollfd(fd: number, events: events, revents: 0)
    while true {
      let left = max(0, end - Clock.monotonicMilliseconds())
      let n = sys_poll(&entry, 1, Int32(clamping: left))
      if n > 0 { return true }
      if n == 0 && left <= Int64(Int32.max) { return false }
      if n < 0 && shim_errno() != EINTR { throw SystemError("poll") }
    }
  }
}

/// The signals programs care about.
public enum Signal {
  public static let hangup = SIGHUP
  public static let alarm = SIGALRM
  public static let terminate = SIGTERM
  public static let child = SIGCHLD
  public static let pipe = SIGPIPE
  /// A file would outgrow the limit of this process.
  public static let fileSize = SIGXFSZ

  public static func ignore(_ number: Int32) { _ = sys_ignore(number) }
  public static func restoreDefault(_ number: Int32) { _ = sys_default(number) }

  /// The program ends with `status` at once when the signal comes; nothing is cleaned up.
  public static func exit(on number: Int32, status: Int32) { _ = sys_exit_on(number, status) }

  /// As above, but first the file is removed and the text, a line, is written to descriptor 2. Holds for one signal
  /// of a process; path and text are shorter than 256 bytes.
  public static func exit(on number: Int32, status: Int32, removing path: Path = "", saying text: Bytes = []) {
    _ = path.withCString { path in text.withCString { sys_last_act_on(number, status, path, $0) } }
  }

  /// No signal is held back any more; needed where a caller may have blocked some.
  public static func unblockAll() { _ = sys_unblock_all() }

  /// SIGALRM after so many seconds; 0 cancels.
  public static func alarm(seconds: UInt32) { _ = sys_alarm(seconds) }
}

/// Signals as readable events instead of handlers: blocked in the process, taken from a descriptor.
public struct SignalQueue: ~Copyable {
  private let descriptor: Descriptor

  public init(_ signals: [Int32]) throws(SystemError) {
    let raw = signals.withUnsafeBufferPointer { sys_signalfd($0.baseAddress, Int32($0.count)) }
    if raw < 0 { throw SystemError("signalfd") }
    descriptor = Descriptor(owning: raw)
  }

  /// To wait on.
  public var number: Int32 { descriptor.number }

  /// The next signal that came, nil when there is none.
  public func next() throws(SystemError) -> Int32? {
    let number = sys_signalfd_take(descriptor.number)
    if number < 0 { throw SystemError("read") }
    return number == 0 ? nil : number
  }
}
