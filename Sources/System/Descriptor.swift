// Descriptors with one owner, and buffered reading and writing on them.

import Bytes
import CShim

/// An open file descriptor with one owner; closed when the owner ends.
public struct Descriptor: ~Copyable {
  private var raw: Int32  // -1 once given away

  public init(owning raw: Int32) { self.raw = raw }
  deinit { if raw >= 0 { _ = sys_close(raw) } }

  /// Standard input, output and error, owned from here on.
  public static func standard(_ number: Int32) -> Descriptor { Descriptor(owning: number) }

  /// The number, for calls that only look. It stays owned here.
  public var number: Int32 { raw }

  /// Hands the number to a new owner, e.g. a child process.
  public consuming func release() -> Int32 {
    let number = raw
    raw = -1
    return number
  }

  /// Opens a file, close-on-exec.
  /// - Parameter flags: `O_RDONLY` and its kin.
  public static func open(_ path: Path, _ flags: Int32, mode: UInt32 = 0) throws(SystemError) -> Descriptor {
    while true {
      let raw = path.withCString { sys_open($0, flags, mode) }
      if raw >= 0 { return Descriptor(owning: raw) }
      if shim_errno() != EINTR { throw SystemError("open") }
    }
  }

  /// Closes now, and tells whether the kernel was content.
  public consuming func close() throws(SystemError) {
    let number = raw
    raw = -1
    guard sys_close(number) == 0 else { throw SystemError("close") }
  }

  /// Reads at most `limit` bytes into the end of `buffer`.
  /// - Returns: how many; 0 at the end of the file.
  public borrowing func read(into buffer: inout Bytes, limit: Int) throws(SystemError) -> Int {
    let old = buffer.count
    buffer.append(contentsOf: repeatElement(0, count: limit))
    var n = -1
    var code: Int32 = EINTR
    while n < 0 && code == EINTR {
      n = buffer.withUnsafeMutableBytes { sys_read(raw, $0.baseAddress! + old, limit) }
      code = n < 0 ? shim_errno() : 0
    }
    buffer.removeLast(limit - max(n, 0))
    if n < 0 { throw SystemError("read", code: code) }
    return n
  }

  /// Reads from the present position to the end.
  /// - Throws: ``SystemError`` for read(2); EFBIG if there are more than `limit` bytes.
  public borrowing func readToEnd(limit: Int) throws(SystemError) -> Bytes {
    var all = Bytes()
    while try read(into: &all, limit: 65536) > 0 {
      if all.count > limit { throw SystemError("read", code: EFBIG) }
    }
    return all
  }

  /// One write(2): how many bytes were taken.
  public borrowing func writeSome(_ bytes: ArraySlice<UInt8>) throws(SystemError) -> Int {
    while true {
      let n = bytes.withUnsafeBytes { sys_write(raw, $0.baseAddress, $0.count) }
      if n >= 0 { return n }
      if shim_errno() != EINTR { throw SystemError("write") }
    }
  }

  /// Writes all of `bytes`.
  /// - Throws: ``SystemError`` for write(2); some bytes may be out already.
  public borrowing func write(_ bytes: ArraySlice<UInt8>) throws(SystemError) {
    var rest = bytes
    while !rest.isEmpty { rest = rest.dropFirst(try writeSome(rest)) }
  }

  public borrowing func write(_ bytes: Bytes) throws(SystemError) { try write(bytes[...]) }

  /// Writes at an offset without moving the position.
  public borrowing func write(_ bytes: Bytes, at offset: Int64) throws(SystemError) {
    let n = bytes.withUnsafeBytes { sys_pwrite(raw, $0.baseAddress, $0.count, offset) }
    if n < 0 { throw SystemError("pwrite") }
    if n != bytes.count { throw SystemError("pwrite", code: EIO) }
  }

  /// Reads up to `limit` bytes at an offset without moving the position.
  public borrowing func read(at offset: Int64, limit: Int) throws(SystemError) -> Bytes {
    var buffer = Bytes(repeating: 0, count: limit)
    let n = buffer.withUnsafeMutableBytes { sys_pread(raw, $0.baseAddress, limit, offset) }
    if n < 0 { throw SystemError("pread") }
    buffer.removeLast(limit - n)
    return buffer
  }

  /// Makes the data durable. An error is final: the data must be taken for lost (spec queue.md 14).
  public borrowing func sync() throws(SystemError) {
    guard sys_fsync(raw) == 0 else { throw SystemError("fsync") }
  }

  public borrowing func syncData() throws(SystemError) {
    guard sys_fdatasync(raw) == 0 else { throw SystemError("fdatasync") }
  }

  public borrowing func truncate(to size: Int64) throws(SystemError) {
    guard sys_ftruncate(raw, size) == 0 else { throw SystemError("ftruncate") }
  }

  /// - Returns: the new position.
  @discardableResult
  public borrowing func seek(to offset: Int64, from origin: Int32 = SEEK_SET) throws(SystemError) -> Int64 {
    let at = sys_lseek(raw, offset, origin)
    if at < 0 { throw SystemError("lseek") }
    return at
  }

  public borrowing func status() throws(SystemError) -> FileStatus {
    var raw = shim_stat()
    guard sys_fstat(self.raw, &raw) == 0 else { throw SystemError("fstat") }
    return FileStatus(raw)
  }

  /// flock(2), exclusive.
  /// - Throws: EWOULDBLOCK when somebody else has it and `waiting` is false.
  public borrowing func lock(waiting: Bool) throws(SystemError) {
    let operation = waiting ? LOCK_EX : LOCK_EX | LOCK_NB
    guard sys_flock(raw, operation) == 0 else { throw SystemError("flock") }
  }

  public borrowing func setNonblocking(_ on: Bool = true) throws(SystemError) {
    guard sys_nonblocking(raw, on ? 1 : 0) == 0 else { throw SystemError("fcntl") }
  }

  public borrowing func setCloseOnExec(_ on: Bool = true) throws(SystemError) {
    guard sys_close_on_exec(raw, on ? 1 : 0) == 0 else { throw SystemError("fcntl") }
  }
}

/// Two ends of a pipe; what is written to one is read from the other. Both close on exec.
public struct Pipe: ~Copyable {
  public var reading: Descriptor
  public var writing: Descriptor

  public init() throws(SystemError) {
    var both: (Int32, Int32) = (-1, -1)
    let failed = withUnsafeMutableBytes(of: &both) {
      sys_pipe($0.baseAddress!.assumingMemoryBound(to: Int32.self))
    }
    if failed != 0 { throw SystemError("pipe") }
    reading = Descriptor(owning: both.0)
    writing = Descriptor(owning: both.1)
  }

  public consuming func takeReading() -> Descriptor { reading }
  public consuming func takeWriting() -> Descriptor { writing }
}

/// Buffered reading. A read that waits longer than the time-out fails with ETIMEDOUT.
public struct Input: ~Copyable {
  public let descriptor: Descriptor
  /// Longest wait for a single read, in milliseconds; nil waits for ever.
  public var timeout: Int64?
  private var buffer = Bytes()
  private var start = 0

  public init(_ descriptor: consuming Descriptor, timeout: Int64? = nil) {
    self.descriptor = descriptor
    self.timeout = timeout
  }

  /// What has been read but not taken. Emptied by ``discard()``.
  public var buffered: ArraySlice<UInt8> { buffer[start...] }

  /// Throws away what has been read but not taken.
  public mutating func discard() { start = buffer.count }

  /// Reads more into an empty buffer. - Returns: false at the end of the file.
  private mutating func refill() throws(SystemError) -> Bool {
    if let timeout {
      guard try Wait.readable(descriptor.number, milliseconds: timeout) else {
        throw SystemError("read", code: ETIMEDOUT)
      }
    }
    buffer.removeAll(keepingCapacity: true)
    start = 0
    return try descriptor.read(into: &buffer, limit: 8192) > 0
  }

  /// The next byte, nil at the end of the file.
  public mutating func next() throws(SystemError) -> UInt8? {
    if start == buffer.count {
      guard try refill() else { return nil }
    }
    defer { start += 1 }
    return buffer[start]
  }

  /// Whatever is there next, at least one byte; empty at the end of the file.
  public mutating func chunk() throws(SystemError) -> ArraySlice<UInt8> {
    if start == buffer.count {
      guard try refill() else { return [] }
    }
    let chunk = buffer[start...]
    start = buffer.count
    return chunk
  }

  /// Gives back the last `count` bytes of the chunk just taken; they come again.
  public mutating func putBack(_ count: Int) { start -= count }

  /// The bytes up to and including `end`.
  ///
  /// - Parameter limit: longest answer; a longer text is cut there and its rest stays for the next call.
  /// - Returns: nil at the end of the file; a text that lacks `end` is the last one, or was cut.
  public mutating func text(through end: UInt8, limit: Int = .max) throws(SystemError) -> Bytes? {
    var text = Bytes()
    while text.count < limit {
      if start == buffer.count {
        guard try refill() else { return text.isEmpty ? nil : text }
      }
      let window = buffer[start...].prefix(limit - text.count)
      if let at = window.firstIndex(of: end) {
        text.append(contentsOf: buffer[start...at])
        start = at + 1
        return text
      }
      text.append(contentsOf: window)
      start = window.endIndex
    }
    return text
  }
}

/// Buffered writing. Nothing is out before ``flush()``; what is not flushed is dropped.
public struct Output: ~Copyable {
  public let descriptor: Descriptor
  /// Longest wait for a single write, in milliseconds; nil waits for ever. Needs a non-blocking
  /// descriptor to hold for large texts.
  public var timeout: Int64?
  private var buffer = Bytes()
  private let capacity: Int

  public init(_ descriptor: consuming Descriptor, timeout: Int64? = nil, capacity: Int = 8192) {
    self.descriptor = descriptor
    self.timeout = timeout
    self.capacity = capacity
  }

  public mutating func put(_ bytes: ArraySlice<UInt8>) throws(SystemError) {
    if bytes.count >= capacity {
      try flush()
      try writeOut(bytes)
      return
    }
    buffer.append(contentsOf: bytes)
    if buffer.count >= capacity { try flush() }
  }

  public mutating func put(_ bytes: Bytes) throws(SystemError) { try put(bytes[...]) }

  public mutating func put(_ text: StaticString) throws(SystemError) {
    buffer.append(text)
    if buffer.count >= capacity { try flush() }
  }

  public mutating func put(_ byte: UInt8) throws(SystemError) {
    buffer.append(byte)
    if buffer.count >= capacity { try flush() }
  }

  public mutating func flush() throws(SystemError) {
    guard !buffer.isEmpty else { return }
    let all = buffer
    buffer.removeAll(keepingCapacity: true)
    try writeOut(all[...])
  }

  /// Gives the descriptor back; what is not flushed is dropped.
  public consuming func release() -> Descriptor { descriptor }

  private func writeOut(_ bytes: ArraySlice<UInt8>) throws(SystemError) {
    guard let timeout else { return try descriptor.write(bytes) }
    var rest = bytes
    while !rest.isEmpty {
      guard try Wait.writable(descriptor.number, milliseconds: timeout) else {
        throw SystemError("write", code: ETIMEDOUT)
      }
      do throws(SystemError) {
        rest = rest.dropFirst(try descriptor.writeSome(rest))
      } catch {
        if error.code != EWOULDBLOCK { throw error }
      }
    }
  }
}
