// Child processes, the environment, arguments and identity.

import Bytes
import CShim

/// How a child ended.
public enum ExitStatus: Equatable {
  case exited(Int32)
  case signalled(Int32)

  init(_ status: Int32) {
    self = shim_exited(status) != 0 ? .exited(shim_exit_status(status)) : .signalled(shim_term_signal(status))
  }
}

/// Making and judging child processes.
public enum Child {
  /// Forks. In the child `body` runs and must end in an exec or an exit status.
  ///
  /// The child starts with no signal blocked and SIGPIPE at its default. Every descriptor that was
  /// opened here is closed by the exec; `Descriptors.install` gives it those it shall have.
  /// - Parameter keepingBlocked: signals that this process has blocked stay so in the child; for children that execute
  ///   nothing, and should not feel what is meant for their parent.
  /// - Returns: the child's process id.
  public static func start(keepingBlocked: Bool = false, _ body: () -> Int32) throws(SystemError) -> Int32 {
    let pid = sys_fork()
    if pid < 0 { throw SystemError("fork") }
    if pid == 0 {
      if !keepingBlocked { Signal.unblockAll() }
      Signal.restoreDefault(Signal.pipe)
      shim_exit(body())
    }
    return pid
  }

  /// Installs descriptors in a child: `pairs` of (present number, number after exec).
  ///
  /// A present number may be another's target; all are first moved out of the way.
  public static func install(_ pairs: [(from: Int32, to: Int32)]) throws(SystemError) {
    var highest: Int32 = 2
    for pair in pairs { highest = max(highest, pair.from, pair.to) }
    var moved: [Int32] = []
    for (index, pair) in pairs.enumerated() {
      let spare = highest + 1 + Int32(index)
      guard sys_dup2(pair.from, spare) >= 0 else { throw SystemError("dup2") }
      moved.append(spare)
    }
    for (index, pair) in pairs.enumerated() {
      guard sys_dup2(moved[index], pair.to) >= 0 else { throw SystemError("dup2") }
      _ = sys_close(moved[index])
    }
  }

  /// Executes the program at `path` with these arguments (the first is its name); no PATH search.
  /// - Returns: only if that failed.
  public static func execute(_ path: Path, _ arguments: [Bytes]) -> SystemError {
    withArguments(arguments) { list in _ = path.withCString { sys_execv($0, list) } }
    return SystemError("execve")
  }

  /// As `execute`, looking for `arguments[0]` in PATH unless it has a slash.
  public static func executeByName(_ arguments: [Bytes]) -> SystemError {
    withArguments(arguments) { list in _ = arguments[0].withCString { sys_execvp($0, list) } }
    return SystemError("execve")
  }

  private static func withArguments(_ arguments: [Bytes], _ body: (UnsafePointer<UnsafePointer<CChar>?>) -> Void) {
    // All texts in one block, and a table of where each begins.
    var block = Bytes()
    var starts: [Int] = []
    for argument in arguments {
      starts.append(block.count)
      block.append(contentsOf: argument.prefix { $0 != 0 })
      block.append(0)
    }
    block.withUnsafeBytes { raw in
      let base = raw.baseAddress!.assumingMemoryBound(to: CChar.self)
      var table: [UnsafePointer<CChar>?] = starts.map { base + $0 }
      table.append(nil)
      table.withUnsafeBufferPointer { body($0.baseAddress!) }
    }
  }

  /// Waits until the child ends.
  public static func wait(_ pid: Int32) throws(SystemError) -> ExitStatus {
    var status: Int32 = 0
    while sys_waitpid(pid, &status, 0) == -1 {
      if shim_errno() != EINTR { throw SystemError("waitpid") }
    }
    return ExitStatus(status)
  }

  /// A child that has ended and was not waited for yet; nil if there is none.
  public static func reap() -> (pid: Int32, status: ExitStatus)? {
    var status: Int32 = 0
    let pid = sys_waitpid(-1, &status, shim_wnohang())
    return pid > 0 ? (pid, ExitStatus(status)) : nil
  }

  public static func send(_ signal: Int32, to pid: Int32) { _ = sys_kill(pid, signal) }
}

/// This process: who it runs as and with what arguments.
public enum Process {
  public static var pid: Int32 { sys_getpid() }
  /// Real user id: who called.
  public static var uid: UInt32 { sys_getuid() }
  /// Effective user id: with whose rights.
  public static var effectiveUid: UInt32 { sys_geteuid() }

  /// The arguments after the program's name.
  public static var arguments: [Bytes] {
    let count = shim_argc()
    guard count > 1 else { return [] }
    return (1..<count).map { Bytes(cString: shim_argv($0)) }
  }

  /// The name this program was called by.
  public static var name: Bytes { Bytes(cString: shim_argv(0)) }

  public static func exit(_ status: Int32) -> Never { shim_exit(status) }

  @discardableResult
  public static func setUmask(_ mask: UInt32) -> UInt32 { sys_umask(mask) }

  /// Gives up privilege for good: groups, then gid, then uid.
  public static func become(uid: UInt32, gid: UInt32, groups: [UInt32]) throws(SystemError) {
    guard groups.withUnsafeBufferPointer({ sys_setgroups($0.baseAddress, Int32($0.count)) }) == 0 else {
      throw SystemError("setgroups")
    }
    guard sys_setgid(gid) == 0 else { throw SystemError("setgid") }
    guard sys_setuid(uid) == 0 else { throw SystemError("setuid") }
  }

  /// The machine's name, at most 64 bytes.
  public static var hostName: Bytes {
    var buffer = [CChar](repeating: 0, count: 65)
    guard sys_gethostname(&buffer, 64) == 0 else { return Bytes("localhost") }
    return Bytes(cString: buffer)
  }
}

/// The environment; values are bytes that whoever started the program chose.
public enum Environment {
  public static subscript(name: StaticString) -> Bytes? {
    let value = name.withUTF8Buffer { Bytes($0).withCString { shim_getenv($0) } }
    return value.map { Bytes(cString: $0) }
  }

  public static func set(_ name: StaticString, _ value: Bytes) {
    _ = name.withUTF8Buffer { Bytes($0).withCString { name in value.withCString { shim_setenv(name, $0) } } }
  }

  public static func unset(_ name: StaticString) {
    _ = name.withUTF8Buffer { Bytes($0).withCString { shim_unsetenv($0) } }
  }
}
