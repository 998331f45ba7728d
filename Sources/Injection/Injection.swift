// Injection: the caller's side of the queue interface (spec pipes.md 1).
//
// Starts the queue program, feeds it message and envelope in the order it reads them, and turns its exit status
// into one verdict. Used by whoever puts mail into the queue: smtpd, inject, local, send. The program to
// run is the caller's to name, because only unprivileged callers may listen to $QMAILQUEUE.

import Bytes
import CShim
import Installation
import System

/// What became of a message handed to queue.
public enum Verdict: Equatable {
  /// On stable storage. The value is the pid of the queue process, "qp" in logs and replies.
  case queued(Int32)
  /// Permanent refusal: text with an enhanced code, without CR, LF or control bytes.
  case refused(Bytes)
  /// Try again later: text as above.
  case deferred(Bytes)
}

/// A message on its way into the queue.
///
/// Write the text, call ``beginEnvelope(sender:)``, add recipients, and ``finish()`` or ``abort()``. Dropping it
/// queues nothing either (the queue program exits 54), but leaves its exit status unread. SIGPIPE must be ignored.
public struct Injection: ~Copyable {
  private var message: Output?
  private var envelope: Output?
  private var rejection: Input?
  private let pid: Int32
  private var broken = false

  /// `$QMAILQUEUE`, or the queue program of this installation.
  public static var program: Path {
    if let named = Environment["QMAILQUEUE"] { return Path(named) }
    return Installation.path("bin/apus-queue")
  }

  /// Starts the queue program.
  public init(program: Path = Injection.program) throws(SystemError) {
    let message = try Pipe()
    let envelope = try Pipe()
    let rejection = try Pipe()
    let home = Path(Installation.home)
    let fds = [
      (from: message.reading.number, to: Int32(0)),
      (from: envelope.reading.number, to: Int32(1)),
      (from: rejection.writing.number, to: Int32(6)),
      (from: rejection.writing.number, to: Int32(4)),
    ]
    pid = try Child.start {
      do throws(SystemError) { try Files.changeDirectory(home) } catch { return 61 }
      do throws(SystemError) { try Child.install(fds) } catch { return 120 }
      _ = Child.execute(program, [program.bytes])
      return 120
    }
    self.message = Output(message.takeWriting())
    self.envelope = Output(envelope.takeWriting())
    self.rejection = Input(rejection.takeReading())
  }

  /// Adds to the message's text. An error is kept for ``finish()``.
  public mutating func put(_ bytes: ArraySlice<UInt8>) {
    guard !broken else { return }
    do throws(SystemError) { try message?.put(bytes) } catch { broken = true }
  }

  public mutating func put(_ bytes: Bytes) { put(bytes[...]) }
  public mutating func put(_ byte: UInt8) { put([byte][...]) }

  /// Ends the text and names the reverse-path, unquoted and without angle brackets.
  public mutating func beginEnvelope(sender: Bytes) {
    do throws(SystemError) {
      if !broken { try message?.flush() }
    } catch { broken = true }
    message = nil  // closes the pipe: queue reads the envelope only after the end of the message
    envelopeRecord("F", sender)
  }

  /// Adds a forward-path. Call ``beginEnvelope(sender:)`` first.
  public mutating func add(recipient: Bytes) { envelopeRecord("T", recipient) }

  private mutating func envelopeRecord(_ letter: StaticString, _ address: Bytes) {
    guard !broken else { return }
    do throws(SystemError) {
      try envelope?.put(letter)
      try envelope?.put(address + [0])
    } catch { broken = true }
  }

  /// Ends the envelope and waits for the verdict.
  public consuming func finish() -> Verdict {
    do throws(SystemError) {
      if !broken {
        try envelope?.put(UInt8(0))
        try envelope?.flush()
      }
    } catch { broken = true }
    return conclude()
  }

  /// Gives the message up: without the final NUL nothing is queued.
  public consuming func abort() { _ = conclude() }

  private mutating func conclude() -> Verdict {
    message = nil
    envelope = nil
    var text = Bytes()
    while let chunk = try? rejection?.chunk(), !chunk.isEmpty {
      text.append(contentsOf: chunk.prefix(255 - text.count))
    }
    rejection = nil
    let status: ExitStatus
    do throws(SystemError) { status = try Child.wait(pid) } catch {
      return .deferred(Bytes("qq waitpid surprise (#4.3.0)"))
    }
    return Injection.verdict(status, wroteAll: !broken, rejection: text, pid: pid)
  }

  /// The table of spec pipes.md 1.3.
  static func verdict(_ status: ExitStatus, wroteAll: Bool, rejection: Bytes, pid: Int32) -> Verdict {
    guard case .exited(let code) = status else { return .deferred(Bytes("qq crashed (#4.3.0)")) }
    switch code {
    case 0: return wroteAll ? .queued(pid) : .deferred(Bytes("qq read error (#4.3.0)"))
    case 11, 115: return .refused(Bytes("envelope address too long for qq (#5.1.3)"))
    case 31: return .refused(Bytes("mail server permanently rejected message (#5.3.0)"))
    case 82, 88: return custom(rejection)
    case 11...40: return .refused(Bytes("qq permanent problem (#5.3.0)"))
    default: return .deferred(Bytes(temporaryText(code)))
    }
  }

  private static func temporaryText(_ code: Int32) -> StaticString {
    switch code {
    case 51: return "qq out of memory (#4.3.0)"
    case 52: return "qq timeout (#4.3.0)"
    case 53: return "qq write error or disk full (#4.3.0)"
    case 54: return "qq read error (#4.3.0)"
    case 55: return "qq unable to read configuration (#4.3.0)"
    case 56: return "qq trouble making network connection (#4.3.0)"
    case 61: return "qq trouble in home directory (#4.3.0)"
    case 62...66: return "qq trouble creating files in queue (#4.3.0)"
    case 71: return "mail server temporarily rejected message (#4.3.0)"
    case 72: return "connection to mail server timed out (#4.4.1)"
    case 73: return "connection to mail server rejected (#4.4.1)"
    case 74: return "communication with mail server failed (#4.4.2)"
    case 81, 91: return "qq internal bug (#4.3.0)"
    case 120: return "unable to exec qq (#4.3.0)"
    default: return "qq temporary problem (#4.3.0)"
    }
  }

  /// The queue program's own words: `D` or `Z`, then text; bytes that could forge a reply line become `?`.
  private static func custom(_ text: Bytes) -> Verdict {
    guard text.count > 2 else { return .deferred(Bytes("qq temporary problem (#4.3.0)")) }
    var clean = Bytes()
    for byte in text.dropFirst() where byte != .cr && byte != .lf {
      clean.append(byte < 32 || byte == 127 ? .ascii("?") : byte)
    }
    return text[0] == .ascii("D") ? .refused(clean) : .deferred(clean)
  }
}
