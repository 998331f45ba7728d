// start: builds the process tree of a running Apus and becomes send (spec pipes.md 2).
//
// `start [defaultdelivery [logger argument ...]]`, as root, or rootless as the one user of all programs. Makes the
// pipes, gives each daemon its user and just the descriptors that are its own, and parses nothing.

import Bytes
import CShim
import Installation
import System

/// How this program ends when it cannot become send; the same number is in start(8).
enum Exit: Int32 { case failed = 111 }

/// One daemon: its words, who it runs as, and its descriptors from 0 on.
struct Daemon {
  let words: [Bytes]
  let uid: UInt32
  let descriptors: [Int32]
}

/// Two pipes, one in each direction, between send or todo and a daemon.
struct Link: ~Copyable {
  let there: Pipe
  let back: Pipe

  init() throws(SystemError) {
    let one = try Pipe()
    let other = try Pipe()
    there = one
    back = other
  }
}

/// Runs in the process that becomes the daemon.
/// - Returns: only if that failed.
func become(_ daemon: Daemon) -> SystemError {
  var pairs: [(from: Int32, to: Int32)] = []
  for (target, number) in daemon.descriptors.enumerated() { pairs.append((from: number, to: Int32(target))) }
  do throws(SystemError) {
    try Child.install(pairs)
    if let users = Installation.users {
      try Process.become(uid: daemon.uid, gid: users.group, groups: [users.group])
    }
  } catch { return error }
  return Child.executeByName(daemon.words)
}

func launch(_ daemon: Daemon) throws(SystemError) {
  _ = try Child.start {
    _ = become(daemon)
    return Exit.failed.rawValue
  }
}

/// Starts the logger and returns the pipe it reads from.
func launchLogger(_ words: [Bytes]) throws(SystemError) -> Descriptor {
  let pipe = try Pipe()
  let reading = pipe.reading.number
  _ = try Child.start {
    do throws(SystemError) {
      try Child.install([(from: reading, to: 0)])
      for number in Int32(3)...6 { _ = sys_close(number) }
      if let users = Installation.users {
        try Process.become(uid: users.log, gid: users.nofiles, groups: [users.nofiles])
      }
    } catch { return Exit.failed.rawValue }
    _ = Child.executeByName(words)
    return Exit.failed.rawValue
  }
  return pipe.takeWriting()
}

func start() throws(SystemError) {
  try Files.changeDirectory("/")
  Process.setUmask(0o077)
  // With 0, 1 and 2 taken no pipe below can get one of these numbers.
  while true {
    let null = try Descriptor.open("/dev/null", O_RDWR)
    if null.number > 2 { break }
    try null.setCloseOnExec(false)
    _ = null.release()
  }
  let nothing = try Descriptor.open("/dev/null", O_RDWR)
  let arguments = Process.arguments
  let delivery = arguments.first ?? Bytes("./Maildir/")
  let users = Installation.users

  let log = arguments.count > 1 ? try launchLogger(Array(arguments[1...])) : Descriptor.standard(1)
  let lspawn = try Link()
  let rspawn = try Link()
  let clean = try Link()
  let todo = try Link()
  let todoClean = try Link()

  try launch(
    Daemon(
      words: [Bytes("apus-lspawn"), delivery], uid: 0,
      descriptors: [lspawn.there.reading.number, lspawn.back.writing.number, nothing.number]))
  try launch(
    Daemon(
      words: [Bytes("apus-rspawn")], uid: users?.remote ?? 0,
      descriptors: [rspawn.there.reading.number, rspawn.back.writing.number, nothing.number]))
  try launch(
    Daemon(
      words: [Bytes("apus-clean")], uid: users?.queue ?? 0,
      descriptors: [clean.there.reading.number, clean.back.writing.number, nothing.number]))
  try launch(
    Daemon(
      words: [Bytes("apus-clean")], uid: users?.queue ?? 0,
      descriptors: [todoClean.there.reading.number, todoClean.back.writing.number, nothing.number]))
  try launch(
    Daemon(
      words: [Bytes("apus-todo")], uid: users?.send ?? 0,
      descriptors: [
        todo.there.reading.number, todo.back.writing.number, todoClean.there.writing.number,
        todoClean.back.reading.number,
      ]))
  throw become(
    Daemon(
      words: [Bytes("apus-send")], uid: users?.send ?? 0,
      descriptors: [
        log.number, lspawn.there.writing.number, lspawn.back.reading.number, rspawn.there.writing.number,
        rspawn.back.reading.number, clean.there.writing.number, clean.back.reading.number,
        todo.there.writing.number, todo.back.reading.number,
      ]))
}

func run() -> Exit {
  do throws(SystemError) { try start() } catch { return .failed }
  return .failed
}

Process.exit(run().rawValue)
