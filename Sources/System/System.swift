// System: the kernel's services as Swift values.
//
// Descriptors with one owner, files, directories, child processes, signals, waiting and time.
// Knows nothing of mail. Nothing here ends the process: whether to die is the program's
// decision. Every call goes through CShim, where a fault can be injected (INTERNALS.md).

import Bytes
import CShim

/// A system call that failed.
public struct SystemError: Error {
  /// Its name in section 2 of the manual, e.g. `fsync`.
  public let call: StaticString
  /// The `errno` it left.
  public let code: Int32

  public init(_ call: StaticString, code: Int32 = shim_errno()) {
    self.call = call
    self.code = code
  }

  /// What the C library says about the code, e.g. `No such file or directory`.
  public var text: Bytes { Bytes(cString: shim_strerror(code)) }

  /// Whether the file or directory does not exist.
  public var isAbsence: Bool { code == ENOENT }

  /// Whether the same call may succeed later (the list of spec pipes.md 4.5).
  public var isTemporary: Bool {
    switch code {
    case EINTR, ENOMEM, ETXTBSY, EIO, ETIMEDOUT, EWOULDBLOCK, EDEADLK, EBUSY, ENFILE, EMFILE, EFBIG,
      ENOSPC, ENETDOWN, ENETUNREACH, ENETRESET, ECONNABORTED, ECONNRESET, ENOBUFS, ETOOMANYREFS,
      ECONNREFUSED, EHOSTDOWN, EHOSTUNREACH, EUSERS, EDQUOT, ESTALE, ENOLCK:
      return true
    default:
      return false
    }
  }
}

extension Array where Element == UInt8 {
  /// The bytes of a C string, without its NUL; empty for a null pointer.
  public init(cString: UnsafePointer<CChar>?) {
    self = []
    guard var at = cString else { return }
    while at.pointee != 0 {
      append(UInt8(bitPattern: at.pointee))
      at += 1
    }
  }

  /// Calls `body` with these bytes as a C string. Bytes after a NUL are not seen by C.
  public func withCString<R>(_ body: (UnsafePointer<CChar>) -> R) -> R {
    let terminated = self + [0]
    return terminated.withUnsafeBytes { body($0.baseAddress!.assumingMemoryBound(to: CChar.self)) }
  }
}

/// The name of a file: `"lock/trigger"`, `"mess/\(n % 23)/\(n)"` or bytes from elsewhere.
public struct Path: ExpressibleByStringInterpolation {
  private let terminated: Bytes

  public init(_ bytes: Bytes) { terminated = bytes + [0] }
  public init(stringLiteral text: String) { terminated = Bytes(text.utf8) + [0] }

  /// The name without the final NUL.
  public var bytes: Bytes { Bytes(terminated.dropLast()) }

  public func withCString<R>(_ body: (UnsafePointer<CChar>) -> R) -> R {
    terminated.withUnsafeBytes { body($0.baseAddress!.assumingMemoryBound(to: CChar.self)) }
  }
}

/// What stat(2) tells of a file.
public struct FileStatus {
  public let inode: UInt64
  public let size: Int64
  /// Type and permission bits.
  public let mode: UInt32
  public let uid: UInt32
  public let gid: UInt32
  /// Seconds since 1970.
  public let accessed: Int64
  public let modified: Int64
  public let changed: Int64
  /// The part of `modified` below a second.
  public let modifiedNanoseconds: UInt32

  init(_ raw: shim_stat) {
    inode = raw.inode
    size = raw.size
    mode = raw.mode
    uid = raw.uid
    gid = raw.gid
    accessed = raw.atime
    modified = raw.mtime
    changed = raw.ctime
    modifiedNanoseconds = raw.mtime_nanoseconds
  }

  public var isRegularFile: Bool { mode & 0o170000 == 0o100000 }
}

/// Operations on names.
public enum Files {
  public static func status(_ path: Path) throws(SystemError) -> FileStatus {
    var raw = shim_stat()
    guard path.withCString({ sys_stat($0, &raw) }) == 0 else { throw SystemError("stat") }
    return FileStatus(raw)
  }

  /// As `status`, of a symbolic link itself.
  public static func linkStatus(_ path: Path) throws(SystemError) -> FileStatus {
    var raw = shim_stat()
    guard path.withCString({ sys_lstat($0, &raw) }) == 0 else { throw SystemError("lstat") }
    return FileStatus(raw)
  }

  /// Whether the file exists; any error other than ENOENT is thrown.
  public static func exists(_ path: Path) throws(SystemError) -> Bool {
    do throws(SystemError) {
      _ = try status(path)
      return true
    } catch {
      if error.isAbsence { return false }
      throw error
    }
  }

  public static func link(_ old: Path, _ new: Path) throws(SystemError) {
    let failed = old.withCString { from in new.withCString { sys_link(from, $0) } } != 0
    if failed { throw SystemError("link") }
  }

  public static func rename(_ old: Path, _ new: Path) throws(SystemError) {
    let failed = old.withCString { from in new.withCString { sys_rename(from, $0) } } != 0
    if failed { throw SystemError("rename") }
  }

  public static func unlink(_ path: Path) throws(SystemError) {
    guard path.withCString({ sys_unlink($0) }) == 0 else { throw SystemError("unlink") }
  }

  /// Removes the name.
  /// - Returns: false if it was not there.
  @discardableResult
  public static func unlinkIfPresent(_ path: Path) throws(SystemError) -> Bool {
    do throws(SystemError) {
      try unlink(path)
      return true
    } catch {
      if error.isAbsence { return false }
      throw error
    }
  }

  /// Makes the entries of a directory durable (fsync on the directory).
  public static func syncDirectory(_ path: Path) throws(SystemError) {
    let directory = try Descriptor.open(path, O_RDONLY | O_DIRECTORY)
    try directory.sync()
  }

  /// Sets the access and modification time, in seconds since 1970.
  public static func setTimes(_ path: Path, to seconds: Int64) throws(SystemError) {
    guard path.withCString({ sys_utimes($0, seconds) }) == 0 else { throw SystemError("utimensat") }
  }

  public static func changeDirectory(_ path: Path) throws(SystemError) {
    guard path.withCString({ sys_chdir($0) }) == 0 else { throw SystemError("chdir") }
  }

  /// The whole file, at most `limit` bytes of it.
  /// - Throws: ``SystemError``; EFBIG if the file is longer.
  public static func contents(_ path: Path, limit: Int = 64 << 20) throws(SystemError) -> Bytes {
    let file = try Descriptor.open(path, O_RDONLY)
    return try file.readToEnd(limit: limit)
  }
}

/// The names in a directory, without `.` and `..`, in no defined order.
public struct Directory: ~Copyable {
  private let handle: UnsafeMutableRawPointer

  public init(_ path: Path) throws(SystemError) {
    guard let opened = path.withCString({ sys_opendir($0) }) else { throw SystemError("opendir") }
    handle = opened
  }

  deinit { sys_closedir(handle) }

  /// The next name, or nil at the end.
  public func next() throws(SystemError) -> Bytes? {
    while let name = sys_readdir(handle) {
      let bytes = Bytes(cString: name)
      if bytes != [46] && bytes != [46, 46] { return bytes }
    }
    if shim_errno() != 0 { throw SystemError("readdir") }
    return nil
  }
}

/// Time as the machine tells it.
public enum Clock {
  /// Seconds since 1970, UTC.
  public static func now() -> Int64 { sys_time() }
  public static func nanoseconds() -> Int64 { sys_time_nanoseconds() }
  public static func microseconds() -> Int64 { sys_time_microseconds() }
  /// Milliseconds from an arbitrary start; never goes back. For time-outs.
  public static func monotonicMilliseconds() -> Int64 { sys_monotonic_milliseconds() }
  public static func sleep(milliseconds: Int64) { _ = sys_sleep_milliseconds(milliseconds) }
}

/// Random bytes from the kernel. Only a kernel without getrandom(2) can fail, which stops the program.
public func randomBytes(_ count: Int) -> Bytes {
  var bytes = Bytes(repeating: 0, count: count)
  let failed = bytes.withUnsafeMutableBytes { sys_getrandom($0.baseAddress, count) } != 0
  precondition(!failed)
  return bytes
}
