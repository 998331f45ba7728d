// Delivery into a maildir (spec delivery.md 10).

import Bytes
import CShim
import System

/// How a delivery into a maildir ended: the exit status of the child that did it.
private enum MaildirResult: Int32 {
  case delivered = 0
  case failed = 1
  case noMaildir = 2
  case timeout = 3
  case unreadableMessage = 4
}

enum Maildir {
  /// Life limit of one delivery, in seconds. A reader may remove older files from tmp.
  static let timeLimit: UInt32 = 86400
  /// Longest host part of a name, in bytes, so that the whole stays below 255.
  static let hostLimit = 180

  /// A name that no other delivery uses: `seconds.MmicrosecondsPpidQcounter.host`.
  ///
  /// - Parameters:
  ///   - microseconds: since 1970.
  ///   - counter: tells the deliveries of one process apart.
  static func uniqueName(microseconds: Int64, pid: Int32, counter: Int, host: Bytes) -> Bytes {
    var name = Bytes(decimal: microseconds / 1_000_000)
    name.append(".M")
    name.append(decimal: microseconds % 1_000_000)
    name.append("P")
    name.append(decimal: pid)
    name.append("Q")
    name.append(decimal: counter)
    name.append(".")
    var safe = Bytes()
    for byte in host {
      switch byte {
      case UInt8(ascii: "/"): safe.append("\\057")
      case UInt8(ascii: ":"): safe.append("\\072")
      default: safe.append(byte)
      }
    }
    return name + safe.prefix(hostLimit)
  }
}

/// Puts the message into a maildir: complete and durable in `new`, or not at all.
///
/// A child does it, because it changes its directory and may have to give up at any moment.
/// - Parameters:
///   - head: the lines that go before the message.
///   - counter: which maildir of this run it is.
func deliver(_ message: borrowing Message, toMaildir directory: Bytes, head: Bytes, counter: Int) throws(Failure) {
  try rewind(message)
  let status: ExitStatus
  do throws(SystemError) {
    let child = try Child.start {
      // Forked, not executed: a write beyond the file size limit must stay an error.
      Signal.ignore(Signal.fileSize)
      return store(message, in: directory, head: head, counter: counter).rawValue
    }
    status = try Child.wait(child)
  } catch { throw .temporary("Unable to fork", [], error) }

  guard case .exited(let code) = status else { throw .temporary("Aack, child crashed. (#4.3.0)") }
  switch MaildirResult(rawValue: code) {
  case .delivered: return
  case .noMaildir: throw .temporary("Unable to chdir to maildir. (#4.2.1)")
  case .timeout: throw .temporary("Timeout on maildir delivery. (#4.3.0)")
  case .unreadableMessage: throw .temporary("Unable to read message. (#4.3.0)")
  case .failed, nil: throw .temporary("Temporary error on maildir delivery. (#4.3.0)")
  }
}

private func store(_ message: borrowing Message, in directory: Bytes, head: Bytes, counter: Int) -> MaildirResult {
  do throws(SystemError) { try Files.changeDirectory(Path(directory)) } catch {
    return error.isTemporary ? .failed : .noMaildir
  }
  var tries = 1
  while true {
    let name = Maildir.uniqueName(
      microseconds: Clock.microseconds(), pid: Process.pid, counter: counter, host: Process.hostName)
    do throws(SystemError) {
      let file = try Descriptor.open(Path(Bytes("tmp/") + name), O_WRONLY | O_CREAT | O_EXCL, mode: 0o644)
      return publish(message, name, file, head: head)
    } catch {
      guard error.code == EEXIST, tries < 3 else { return .failed }
    }
    tries += 1
    Clock.sleep(milliseconds: 2000)
  }
}

/// Fills the new file in tmp and moves it to new.
private func publish(
  _ message: borrowing Message, _ name: Bytes, _ file: consuming Descriptor, head: Bytes
) -> MaildirResult {
  let temporary = Path(Bytes("tmp/") + name)
  let final = Path(Bytes("new/") + name)
  Signal.exit(on: Signal.alarm, status: MaildirResult.timeout.rawValue, removing: temporary)
  Signal.alarm(seconds: Maildir.timeLimit)

  let result = fill(file, message, head: head)
  guard result == .delivered else {
    try? Files.unlink(temporary)
    return result
  }
  do throws(SystemError) { try Files.link(temporary, final) } catch {
    try? Files.unlink(temporary)
    return .failed
  }
  do throws(SystemError) { try Files.syncDirectory("new") } catch {
    // Not known to be durable: taken back, or every retry would leave one more.
    try? Files.unlink(final)
    try? Files.unlink(temporary)
    return .failed
  }
  try? Files.unlink(temporary)
  return .delivered
}

private func fill(_ file: consuming Descriptor, _ message: borrowing Message, head: Bytes) -> MaildirResult {
  do throws(SystemError) { try file.write(head) } catch { return .failed }
  do throws(CopyFault) {
    try message.copy { piece throws(SystemError) in try file.write(piece) }
  } catch {
    if case .reading = error { return .unreadableMessage }
    return .failed
  }
  do throws(SystemError) {
    try file.sync()
    try file.close()
  } catch { return .failed }
  return .delivered
}
