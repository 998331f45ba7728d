// Delivery into an mbox file (spec delivery.md 9).

import Bytes
import CShim
import System

/// Makes the text of a message fit for an mbox: no line of it can be taken for the start of another message.
///
/// A line of any number of `>` and then `From ` gets one more `>` (mboxrd), so that a reader can undo it.
struct MboxQuoter {
  /// What the present line has been so far.
  private enum State: Equatable {
    case lineStart
    /// Only `>`.
    case quoted
    /// Some `>` and then so many bytes of `From `, which are held back.
    case from(Int)
    case text
  }

  private static let from = Bytes("From ")
  private var state = State.lineStart

  /// Appends the next piece of the message to `out`.
  mutating func feed(_ piece: ArraySlice<UInt8>, into out: inout Bytes) {
    var rest = piece
    while let byte = rest.first {
      if state == .text {
        let end = rest.firstIndex(of: .lf).map { $0 + 1 } ?? rest.endIndex
        out.append(contentsOf: rest[..<end])
        if rest[end - 1] == .lf { state = .lineStart }
        rest = rest[end...]
      } else if !begin(with: byte, &out) {
        state = .text  // and look at the byte again, which may be the line's end
      } else {
        rest.removeFirst()
      }
    }
  }

  /// Takes a byte that keeps the line one that may need quoting. - Returns: false for any other, which is not taken.
  private mutating func begin(with byte: UInt8, _ out: inout Bytes) -> Bool {
    let held = if case .from(let count) = state { count } else { 0 }
    if held == 0 && byte == .ascii(">") {
      out.append(byte)
      state = .quoted
      return true
    }
    guard byte == MboxQuoter.from[held] else {
      out.append(contentsOf: MboxQuoter.from.prefix(held))
      return false
    }
    if held + 1 < MboxQuoter.from.count {
      state = .from(held + 1)
    } else {
      out.append(">From ")
      state = .text
    }
    return true
  }

  /// Ends the message: its last line gets a line feed if it has none, and an empty line follows.
  mutating func finish(into out: inout Bytes) {
    if case .from(let held) = state { out.append(contentsOf: MboxQuoter.from.prefix(held)) }
    if state != .lineStart { out.append(.lf) }
    out.append(.lf)
  }
}

/// Appends the message to an mbox file.
/// - Parameter head: the lines that go before it.
func deliver(_ message: borrowing Message, toMbox name: Bytes, head: Bytes) throws(Failure) {
  try rewind(message)
  let file = try openMbox(name)
  let isLocked = lock(file)

  var end: Int64 = 0
  do throws(SystemError) { end = try file.seek(to: 0, from: SEEK_END) } catch {
    throw .temporary("Unable to write ", name, error)
  }
  do throws(CopyFault) {
    try append(message, to: file, head: head)
    if end == 0 { try syncEntry(of: name) }
  } catch {
    if isLocked { try? file.truncate(to: end) }
    switch error {
    case .reading(let error): throw .temporary("Unable to read message", [], error)
    case .writing(let error): throw .temporary("Unable to write ", name, error)
    }
  }
}

private func openMbox(_ name: Bytes) throws(Failure) -> Descriptor {
  do throws(SystemError) {
    let file = try Descriptor.open(Path(name), O_WRONLY | O_NONBLOCK | O_APPEND | O_CREAT, mode: 0o600)
    if try file.status().isRegularFile { return file }
  } catch {
    throw .temporary("Unable to open ", name, error, code: "4.2.1")
  }
  throw .temporary(Bytes("Unable to open ") + name + Bytes(": not a regular file. (#4.2.1)"))
}

/// Takes both kinds of lock, as mail readers use one or the other. Where there are no locks we go on without.
/// - Returns: whether nobody else who locks can be writing.
private func lock(_ file: borrowing Descriptor) -> Bool {
  Signal.exit(
    on: Signal.alarm, status: Exit.temporary.rawValue,
    saying: Bytes("File has been locked for 30 seconds straight. (#4.3.0)\n"))
  Signal.alarm(seconds: 30)
  defer { Signal.alarm(seconds: 0) }
  do throws(SystemError) { try file.lock(waiting: true) } catch { return false }
  try? file.lockRecords(waiting: true)
  return true
}

private func append(_ message: borrowing Message, to file: borrowing Descriptor, head: Bytes) throws(CopyFault) {
  var quoter = MboxQuoter()
  var text = head
  try message.copy { piece throws(SystemError) in
    quoter.feed(piece, into: &text)
    try file.write(text)
    text.removeAll(keepingCapacity: true)
  }
  quoter.finish(into: &text)
  do throws(SystemError) {
    try file.write(text)
    try file.sync()
  } catch { throw .writing(error) }
}

/// A new file is safe only when its name is. Who may write into a directory but not read it cannot help that.
private func syncEntry(of name: Bytes) throws(CopyFault) {
  let slash = name.lastIndex(of: .ascii("/"))
  let directory = slash.map { Bytes(name[...$0]) } ?? Bytes(".")
  do throws(SystemError) { try Files.syncDirectory(Path(directory)) } catch {
    if error.code != EACCES { throw .writing(error) }
  }
}
