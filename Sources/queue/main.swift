// queue: takes one message, with its envelope, into the queue (spec pipes.md 1, queue.md 6).
//
// Reads the message on descriptor 0, then the envelope on descriptor 1. Exit 0 means: on stable storage. The only
// set-uid program: its caller chooses arguments, environment, directory, limits, signal mask and open
// descriptors, so it looks at none of them; where it works was written into it when it was installed.

import Bytes
import CShim
import Installation
import Mail
import QueueFormat
import System

/// How this program ends; the same numbers are in queue(8) and in spec pipes.md 1.3.
enum Exit: Int32, Error {
  case queued = 0
  case addressTooLong = 11
  case timeout = 52
  case write = 53
  case read = 54
  case home = 61
  case queueDirectory = 62
  case pid = 63
  case mess = 64
  case intd = 65
  case todo = 66
  case bug = 81
  case envelope = 91
  case user = 111
}

/// What a failed step leaves for its caller to clear away.
struct Made {
  var mess: MessageNumber?
  var intd: MessageNumber?
}

// Signals (queue.md 6, step 3)

func settleSignals() {
  Signal.unblockAll()
  for harmless in [SIGPIPE, SIGVTALRM, SIGPROF, SIGQUIT, SIGINT, SIGHUP, SIGXCPU, SIGXFSZ] { Signal.ignore(harmless) }
  Signal.exit(on: SIGALRM, status: Exit.timeout.rawValue)
  for bug in [SIGILL, SIGABRT, SIGFPE, SIGBUS, SIGSEGV, SIGSYS] { Signal.exit(on: bug, status: Exit.bug.rawValue) }
  Signal.alarm(seconds: QueueLimits.death)
}

/// `Received: (qmail 4711 invoked by uid 1000); 21 Nov 2026 05:23:28 -0000` (queue.md 4.1).
func receivedLine(at now: Int64) -> Bytes {
  var line = Bytes("Received: (qmail ")
  line.append(decimal: Process.pid)
  line.append(" invoked ")
  let uid = Process.uid
  let users = Installation.users
  if users != nil && uid == users!.alias {
    line.append("by alias")
  } else if users != nil && uid == users!.network {
    line.append("from network")
  } else if users != nil && uid == users!.send {
    line.append("for bounce")
  } else {
    line.append("by uid ")
    line.append(decimal: uid)
  }
  line.append("); ")
  line.append(contentsOf: UTCDate(now).header)
  line.append("\n")
  return line
}

/// A file nobody else has; its inode number becomes the message's (queue.md 3).
struct Newborn: ~Copyable {
  let file: Descriptor
  let path: Path
  let number: MessageNumber
}

func birth(at now: Int64) throws(Exit) -> Newborn {
  for sequence in 1...9 {
    let path: Path = "pid/\(Process.pid).\(now).\(sequence)"
    do throws(SystemError) {
      let file = try Descriptor.open(path, O_WRONLY | O_CREAT | O_EXCL, mode: 0o644)
      let number = try file.status().inode
      return Newborn(file: file, path: path, number: number)
    } catch {
      if error.code != EEXIST { throw .pid }
    }
  }
  throw .pid
}

/// S1 to S2: the file gets its name in mess/ and loses the one in pid/.
func enterMess(_ number: MessageNumber, from pid: Path, _ made: inout Made) throws(Exit) {
  do throws(SystemError) { try Files.link(pid, QueuePath.mess(number)) } catch { throw .mess }
  made.mess = number
  do throws(SystemError) { try Files.unlink(pid) } catch { throw .pid }
}

/// The text: our Received line, then descriptor 0 to its end; durable with its name (durability point A).
func writeMess(_ number: MessageNumber, _ file: borrowing Descriptor, at now: Int64) throws(Exit) {
  let message = Descriptor.standard(0)
  var block = receivedLine(at: now)
  var n = 1
  while n > 0 {
    do throws(SystemError) { n = try message.read(into: &block, limit: 65536) } catch { throw .read }
    do throws(SystemError) { try file.write(block) } catch { throw .write }
    block.removeAll(keepingCapacity: true)
  }
  do throws(SystemError) {
    try file.sync()
    try Files.syncDirectory(QueuePath.messDirectory(number))
  } catch { throw .write }
}

/// S2 to S3. The number is ours, so a file of that name can only be a dead message's leftover.
func createIntd(_ number: MessageNumber, _ made: inout Made) throws(Exit) -> Descriptor {
  let path = QueuePath.intd(number)
  for _ in 1...2 {
    do throws(SystemError) {
      let file = try Descriptor.open(path, O_WRONLY | O_CREAT | O_EXCL, mode: 0o644)
      made.intd = number
      return file
    } catch {
      guard error.code == EEXIST, (try? Files.unlink(path)) != nil else { throw .intd }
    }
  }
  throw .intd
}

/// Copies the envelope of descriptor 1: `F` sender NUL, then `T` recipient NUL any number of times, then NUL.
func writeEnvelope(_ file: consuming Descriptor) throws(Exit) {
  var envelope = Input(Descriptor.standard(1))
  var intd = Output(file, capacity: 16384)

  func next() throws(Exit) -> UInt8 {
    do throws(SystemError) {
      if let byte = try envelope.next() { return byte }
    } catch {}
    throw .read
  }
  func put(_ bytes: Bytes) throws(Exit) {
    do throws(SystemError) { try intd.put(bytes) } catch { throw .write }
  }
  func copyAddress(after letter: UInt8) throws(Exit) {
    var record = [letter]
    while true {
      let byte = try next()
      record.append(byte)
      if byte == 0 { return try put(record) }
      if record.count - 1 > QueueLimits.address { throw .addressTooLong }
    }
  }

  try put(TodoRecord.uid(UInt64(Process.uid)).bytes + TodoRecord.pid(UInt64(Process.pid)).bytes)
  guard try next() == .ascii("F") else { throw .envelope }
  try copyAddress(after: .ascii("F"))
  while true {
    let letter = try next()
    if letter == 0 { break }
    guard letter == .ascii("T") else { throw .envelope }
    try copyAddress(after: letter)
  }
  do throws(SystemError) {
    try intd.flush()
    try intd.descriptor.sync()
  } catch { throw .write }
}

/// S3 to S4: the message is accepted once this name is durable (point B).
func enterTodo(_ number: MessageNumber) throws(Exit) {
  do throws(SystemError) {
    try Files.link(QueuePath.intd(number), QueuePath.todo(number))
    try Files.syncDirectory("todo")
  } catch { throw .todo }
}

/// Wakes the daemon; without one the message waits (queue.md 11).
func pullTrigger() {
  guard let trigger = try? Descriptor.open("lock/trigger", O_WRONLY | O_NONBLOCK) else { return }
  try? trigger.write([0])
}

/// Takes back what a failed run made, the envelope first; if that cannot go, the text stays for the 36-hour cleaner.
func clearAway(_ made: Made) {
  if let number = made.intd {
    truncate(QueuePath.intd(number))
    guard (try? Files.unlink(QueuePath.intd(number))) != nil else { return }
  }
  if let number = made.mess {
    truncate(QueuePath.mess(number))
    try? Files.unlink(QueuePath.mess(number))
  }
}

/// Gives the space back even while somebody still holds the file open.
func truncate(_ path: Path) {
  guard let file = try? Descriptor.open(path, O_WRONLY) else { return }
  try? file.truncate(to: 0)
}

func enqueue(_ made: inout Made) throws(Exit) {
  let now = Clock.now()
  let newborn = try birth(at: now)
  let number = newborn.number
  try enterMess(number, from: newborn.path, &made)
  try writeMess(number, newborn.file, at: now)
  try writeEnvelope(try createIntd(number, &made))
  try enterTodo(number)
}

func run() -> Exit {
  settleSignals()
  Process.setUmask(0o033)
  guard sys_is_open(0) != 0, sys_is_open(1) != 0 else { return .read }
  do throws(SystemError) { try Installation.changeToHome() } catch { return .home }
  do throws(SystemError) { try Files.changeDirectory("queue") } catch { return .queueDirectory }
  guard Process.effectiveUid == Installation.queueOwner else { return .user }
  var made = Made()
  do throws(Exit) { try enqueue(&made) } catch {
    // After the link in todo/ the message may be running already: twice is better than never. Before, pid/ has a
    // cleaner of its own.
    switch error {
    case .todo, .mess, .pid: break
    default: clearAway(made)
    }
    return error
  }
  pullTrigger()
  return .queued
}

Process.exit(run().rawValue)
