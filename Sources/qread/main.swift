// qread: lists the messages that are in the queue (apus-qread(8), spec programs.md 6).
//
// Reads the queue while it lives: what disappears between two looks was delivered and is left out. Changes nothing.
// Senders and recipients were chosen by strangers; bytes that could trouble a terminal are printed as `_`.

import Bytes
import CShim
import Installation
import Mail
import QueueFormat
import System

/// How this program ends; the same numbers are in apus-qread(8).
enum Exit: Int32 {
  case done = 0
  case temporary = 111
}

/// Longest record of a recipient file that is kept in memory; an address has at most QueueLimits.address bytes.
let recordLimit = 65536

func say(_ text: StaticString, _ detail: Bytes) {
  let error = Descriptor.standard(2)
  try? error.write(Bytes("qread: ") + Bytes(text) + detail + [.lf])
  _ = error.release()
}

func printable(_ bytes: ArraySlice<UInt8>) -> Bytes { bytes.map { $0 >= 32 && $0 <= 126 ? $0 : .ascii("_") } }

/// `21 Nov 2026 05:23:28 GMT  #N  SIZE  <SENDER> `, and ` bouncing`.
func messageLine(_ id: MessageNumber, queued: Int64, size: Int64, sender: Bytes, isBouncing: Bool) -> Bytes {
  var line = Bytes(UTCDate(queued).header.dropLast(6))  // without ` -0000`
  line.append(" GMT  #")
  line.append(decimal: id)
  line.append("  ")
  line.append(decimal: size)
  line.append("  <")
  line += printable(sender[...])
  line.append("> ")
  if isBouncing { line.append(" bouncing") }
  line.append(.lf)
  return line
}

/// `TAB remote TAB address`, with `  done` before it if nothing is left to do; empty for a record that is none.
func recipientLine(_ record: Bytes, _ channel: Channel) -> Bytes {
  guard record.last == 0, record[0] == RecipientMark.done || record[0] == RecipientMark.todo else { return [] }
  var line = record[0] == RecipientMark.done ? Bytes("  done") : []
  line.append("\t")
  line.append(channel.name)
  line.append("\t")
  line += printable(record.dropFirst().dropLast())
  line.append(.lf)
  return line
}

/// Opens a file of the queue; nil if it is gone.
func opened(_ path: Path) throws(SystemError) -> Descriptor? {
  do throws(SystemError) { return try Descriptor.open(path, O_RDONLY) } catch {
    if error.isAbsence { return nil }
    throw error
  }
}

/// The size of a file of the queue in bytes; nil if it is gone.
func size(_ path: Path) throws(SystemError) -> Int64? {
  do throws(SystemError) { return try Files.status(path).size } catch {
    if error.isAbsence { return nil }
    throw error
  }
}

/// Prints one message. A message that is gone before its first line is not printed.
/// - Throws: ``SystemError`` of a file that is there and cannot be read, or of the output.
func list(_ id: MessageNumber, to output: inout Output) throws(SystemError) {
  guard let info = try opened(QueuePath.info(id)), let size = try size(QueuePath.mess(id)) else { return }
  let queued = try info.status().modified
  // An info file in the making is empty: the message is still being preprocessed.
  guard let sender = InfoRecord.sender(in: try info.readToEnd(limit: recordLimit)) else { return }
  let isBouncing = try Files.exists(QueuePath.bounce(id))
  try output.put(messageLine(id, queued: queued, size: size, sender: sender, isBouncing: isBouncing))
  for channel in Channel.allCases {
    guard let file = try opened(QueuePath.recipients(id, channel)) else { continue }
    var records = Input(file)
    while let record = try records.text(through: 0, limit: recordLimit) {
      try output.put(recipientLine(record, channel))
    }
  }
}

/// The messages with an info file in one of the split directories, by number.
func messages(in part: UInt64) throws(SystemError) -> [MessageNumber] {
  let directory = try Directory(QueuePath.infoDirectory(part))
  var found: [MessageNumber] = []
  while let name = try directory.next() {
    if let id = QueuePath.number(of: name) { found.append(id) }
  }
  return found.sorted()
}

func run() -> Exit {
  do throws(SystemError) {
    try Installation.changeToHome()
    try Files.changeDirectory("queue")
  } catch {
    say("fatal: unable to switch to the queue directory: ", error.text)
    return .temporary
  }
  var output = Output(.standard(1))
  var exit = Exit.done
  for part in 0..<QueueLimits.split {
    let ids: [MessageNumber]
    do throws(SystemError) { ids = try messages(in: part) } catch {
      say("fatal: unable to read a directory of the queue: ", error.text)
      return .temporary
    }
    for id in ids {
      do throws(SystemError) { try list(id, to: &output) } catch {
        say("warning: trouble with #", Bytes(decimal: id) + [58, 32] + error.text)
        exit = .temporary
      }
    }
  }
  do throws(SystemError) { try output.flush() } catch {
    say("fatal: unable to write: ", error.text)
    return .temporary
  }
  return exit
}

Process.exit(run().rawValue)
