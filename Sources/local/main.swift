// local: delivers one message as its recipient wishes.
//
// `apus-local [-nN] user home local dash ext domain sender defaultdelivery`, message on descriptor 0. lspawn starts it
// with the recipient's rights. It looks for the .qmail file that decides about the address and does what its lines say,
// in order; forward addresses are collected and served last, together. What it prints is the delivery report (spec
// delivery.md 4 to 11). Message, address and sender come from strangers, the .qmail file from the recipient.

import Bytes
import CShim
import Injection
import Installation
import System

/// How this program ends; the same numbers are in local(8).
enum Exit: Int32 {
  /// Everything the instructions ask for is done and durable.
  case done = 0
  /// The message bounces; also misuse of the command line.
  case permanent = 100
  /// To be tried again. What was delivered before the failure will be delivered again.
  case temporary = 111
}

/// Why a delivery ends without success.
struct Failure: Error {
  let exit: Exit
  /// A line for the report; empty if a program of the recipient has said what there is to say.
  let text: Bytes

  static func temporary(_ text: Bytes) -> Failure { Failure(exit: .temporary, text: text) }
  static func temporary(_ text: StaticString) -> Failure { .temporary(Bytes(text)) }
  static func permanent(_ text: StaticString) -> Failure { Failure(exit: .permanent, text: Bytes(text)) }

  /// `Unable to open ./Mailbox: Permission denied. (#4.2.1)`
  static func temporary(
    _ what: StaticString, _ name: Bytes, _ error: SystemError, code: StaticString = "4.3.0"
  ) -> Failure {
    .temporary(Bytes(what) + name + Bytes(": ") + error.text + Bytes(". (#") + Bytes(code) + Bytes(")"))
  }
}

func rewind(_ message: borrowing Message) throws(Failure) {
  do throws(SystemError) { try message.rewind() } catch { throw .temporary("Unable to rewind message. (#4.3.0)") }
}

// Home

/// Bits of a file's mode that mean something here.
enum Mode {
  static let otherMayWrite: UInt32 = 0o002
  static let ownerMayExecute: UInt32 = 0o100
  static let sticky: UInt32 = 0o1000
}

func enterHome(of job: Job) throws(Failure) {
  do throws(SystemError) { try Files.changeDirectory(Path(job.home)) } catch {
    throw .temporary("Unable to switch to ", job.home, error)
  }
  let mode: UInt32
  do throws(SystemError) { mode = try Files.status(".").mode } catch {
    throw .temporary("Unable to stat home directory", [], error)
  }
  if mode & Mode.otherMayWrite != 0 { throw .temporary("Uh-oh: home directory is writable. (#4.7.0)") }
  guard mode & Mode.sticky != 0 else { return }
  guard job.isRehearsal else {
    throw .temporary("Home directory is sticky: user is editing his .qmail file. (#4.2.1)")
  }
  complain(Bytes("Warning: home directory is sticky."))
}

/// A message that has been here carries our own Delivered-To line.
func refuseLoop(_ message: borrowing Message, _ job: Job) throws(Failure) {
  try rewind(message)
  var check = LoopCheck(job.deliveredTo)
  var answer = LoopCheck.Answer.undecided
  do throws(SystemError) {
    try message.read { piece in
      answer = check.feed(piece)
      return answer == .undecided
    }
  } catch { throw .temporary("Unable to read message", [], error) }
  if answer == .looping {
    throw .permanent("This message is looping: it already has my Delivered-To line. (#5.4.6)")
  }
}

/// What programs may want to know; all of it chosen by strangers (spec delivery.md 8).
func setEnvironment(_ job: Job, now: Int64) {
  let hosts = job.shorterHosts
  let exts = job.shorterExtensions
  Environment.set("HOST", job.domain)
  Environment.set("HOST2", hosts[0])
  Environment.set("HOST3", hosts[1])
  Environment.set("HOST4", hosts[2])
  Environment.set("EXT", job.ext)
  Environment.set("EXT2", exts[0])
  Environment.set("EXT3", exts[1])
  Environment.set("EXT4", exts[2])
  Environment.set("HOME", job.home)
  Environment.set("USER", job.user)
  Environment.set("LOCAL", job.local)
  Environment.set("RECIPIENT", job.recipient)
  Environment.set("SENDER", job.sender)
  Environment.set("DTLINE", job.deliveredTo)
  Environment.set("RPLINE", job.returnPath)
  Environment.set("UFLINE", job.fromLine(at: now))
  Environment.unset("DEFAULT")
}

// Instructions

/// What decides about an address.
struct Decision {
  var text: Bytes
  /// The file's execute bit is set: only forward lines are allowed.
  var isForwardOnly: Bool
}

/// Opens a .qmail file. - Returns: nil if there is none of that name.
func openQmailFile(_ name: Bytes) throws(Failure) -> Descriptor? {
  do throws(SystemError) { return try Descriptor.open(Path(name), O_RDONLY | O_NONBLOCK) } catch {
    let isTrouble = error.isTemporary || error.code == EPERM || error.code == EACCES
    if isTrouble { throw .temporary("Unable to open ", name, error) }
    return nil
  }
}

/// What a .qmail file says. - Returns: nil if there is none of that name.
func decision(in name: Bytes) throws(Failure) -> Decision? {
  guard let file = try openQmailFile(name) else { return nil }
  let status: FileStatus
  do throws(SystemError) { status = try file.status() } catch { throw .temporary("Unable to open ", name, error) }
  guard status.isRegularFile else { return nil }
  if status.mode & Mode.otherMayWrite != 0 { throw .temporary("Uh-oh: .qmail file is writable. (#4.7.0)") }

  let tooLong = Failure.temporary("Uh-oh: .qmail file is longer than 4 megabytes. (#4.7.0)")
  if status.size > Int64(QmailFile.sizeLimit) { throw tooLong }
  do throws(SystemError) {
    let text = try file.readToEnd(limit: QmailFile.sizeLimit)
    return Decision(text: text, isForwardOnly: status.mode & Mode.ownerMayExecute != 0)
  } catch {
    if error.code == EFBIG { throw tooLong }
    throw .temporary("Unable to read ", name, error)
  }
}

/// Finds who decides about the address, and sets $DEFAULT.
func decide(_ job: Job) throws(Failure) -> Decision {
  let nobody = Decision(text: job.defaultInstructions, isForwardOnly: false)
  for candidate in Candidates(dash: job.dash, ext: job.ext) {
    if let decision = try decision(in: candidate.name) {
      if let value = candidate.matchedByDefault { Environment.set("DEFAULT", value) }
      return decision.text.isEmpty ? nobody : decision
    }
  }
  guard job.dash.isEmpty else { throw .permanent("Sorry, no mailbox here by that name. (#5.1.1)") }
  return nobody
}

/// The sender of what is forwarded: the list's owner, if the address is a list.
func newSender(_ job: Job) throws(Failure) -> Bytes {
  if job.isFromMailer { return job.sender }
  let owner = Bytes(".qmail") + job.dash + QmailFile.safe(job.ext) + Bytes("-owner")
  let hasOwner = try exists(owner)
  let hasOwnerDefault = hasOwner ? try exists(owner + Bytes("-default")) : false
  return job.newSender(hasOwner: hasOwner, hasOwnerDefault: hasOwnerDefault)
}

private func exists(_ name: Bytes) throws(Failure) -> Bool {
  do throws(SystemError) {
    _ = try Files.status(Path(name))
    return true
  } catch {
    if error.isTemporary { throw .temporary("Unable to open ", name, error) }
    return false
  }
}

// Deliveries

/// Runs a shell command on the message. - Returns: false if no further line shall be looked at.
func runProgram(_ command: Bytes, on message: borrowing Message) throws(Failure) -> Bool {
  try rewind(message)
  let status: ExitStatus
  do throws(SystemError) {
    let child = try Child.start {
      Signal.restoreDefault(Signal.fileSize)
      let error = Child.execute("/bin/sh", [Bytes("/bin/sh"), Bytes("-c"), command])
      complain(Failure.temporary("Unable to run /bin/sh", [], error).text)
      return Exit.temporary.rawValue
    }
    status = try Child.wait(child)
  } catch { throw .temporary("Unable to fork", [], error) }

  switch status {
  case .signalled: throw .temporary("Aack, child crashed. (#4.3.0)")
  case .exited(0): return true
  case .exited(99): return false
  case .exited(100), .exited(64), .exited(65), .exited(70), .exited(76), .exited(77), .exited(78), .exited(112):
    throw Failure(exit: .permanent, text: [])
  case .exited: throw .temporary(Bytes())
  }
}

/// Sends the message on to all of these at once. - Returns: the pid of the queue program, "qp".
func forward(
  _ message: borrowing Message, to recipients: some Sequence<Bytes>, sender: Bytes, head: Bytes
) throws(Failure) -> Int32 {
  try rewind(message)
  var injection: Injection
  do throws(SystemError) { injection = try Injection() } catch { throw .temporary("Unable to fork", [], error) }
  injection.put(head)
  var failure: SystemError?
  do throws(SystemError) {
    try message.read { piece in
      injection.put(piece)
      return true
    }
  } catch { failure = error }
  if let failure {
    injection.abort()
    throw .temporary("Unable to read message", [], failure)
  }
  injection.beginEnvelope(sender: sender)
  for recipient in recipients { injection.add(recipient: recipient) }

  let text: Bytes
  let exit: Exit
  switch injection.finish() {
  case .queued(let pid): return pid
  case .refused(let why): (exit, text) = (.permanent, why)
  case .deferred(let why): (exit, text) = (.temporary, why)
  }
  throw Failure(exit: exit, text: Bytes("Unable to forward message: ") + text + Bytes("."))
}

/// What was done, or in a rehearsal would have been.
struct Tally {
  var files = 0
  var forwards = 0
  var programs = 0

  /// `did files+forwards+programs`, without a line feed.
  var line: Bytes {
    var text = Bytes("did ")
    text.append(decimal: files)
    text.append("+")
    text.append(decimal: forwards)
    text.append("+")
    text.append(decimal: programs)
    return text
  }
}

/// Does what the instructions say, or in a rehearsal says it.
func carryOut(
  _ decision: Decision, _ message: borrowing Message, _ job: Job, newSender: Bytes, now: Int64, _ report: inout Output
) throws(Failure) {
  let instructions = Instructions(text: decision.text)
  let head = job.returnPath + job.deliveredTo
  var isForwardOnly = decision.isForwardOnly
  var tally = Tally()
  var linesDone = 0

  lines: for instruction in instructions {
    linesDone += 1
    switch instruction {
    case .nothing: break
    case .blankStart: throw .temporary("Uh-oh: first line of .qmail file is blank. (#4.2.1)")
    case .forwardOnly: isForwardOnly = true
    case .mbox where isForwardOnly, .maildir where isForwardOnly:
      throw .temporary("Uh-oh: .qmail has file delivery but has x bit set. (#4.7.0)")
    case .program where isForwardOnly:
      throw .temporary("Uh-oh: .qmail has prog delivery but has x bit set. (#4.7.0)")
    case .mbox(let name):
      tally.files += 1
      if job.isRehearsal {
        say("mbox ", name, &report)
      } else {
        try deliver(message, toMbox: Bytes(name), head: job.fromLine(at: now) + head)
      }
    case .maildir(let name):
      tally.files += 1
      if job.isRehearsal {
        say("maildir ", name, &report)
      } else {
        try deliver(message, toMaildir: Bytes(name), head: head, counter: tally.files)
      }
    case .program(let command):
      tally.programs += 1
      if job.isRehearsal {
        say("program ", command, &report)
      } else {
        guard try runProgram(Bytes(command), on: message) else { break lines }
      }
    case .forward(let address):
      tally.forwards += 1
      if job.isRehearsal { say("forward ", address, &report) }
    }
  }

  var qp: Int32?
  if tally.forwards > 0, !job.isRehearsal {
    // Addresses are read once more rather than kept: a list may have very many.
    let recipients = instructions.lazy.prefix(linesDone).compactMap { instruction -> Bytes? in
      if case .forward(let address) = instruction { Bytes(address) } else { nil }
    }
    qp = try forward(message, to: recipients, sender: newSender, head: job.deliveredTo)
  }
  say("", tally.line[...], &report)
  if let qp { say("qp ", Bytes(decimal: qp)[...], &report) }
}

/// Adds a line to the report. Nobody is there to hear that a report cannot be written.
func say(_ what: StaticString, _ text: ArraySlice<UInt8>, _ report: inout Output) {
  do throws(SystemError) {
    try report.put(what)
    try report.put(text)
    try report.put(.lf)
  } catch {}
}

/// Says at once what went wrong, on descriptor 2.
func complain(_ text: Bytes) {
  let error = Descriptor.standard(2)
  try? error.write(text + [.lf])
  _ = error.release()
}

func deliver(_ job: Job, _ report: inout Output) throws(Failure) {
  let message = Message(.standard(0))
  let now = Clock.now()
  try enterHome(of: job)
  if !job.isRehearsal { try refuseLoop(message, job) }
  setEnvironment(job, now: now)
  let decision = try decide(job)
  let newSender = try newSender(job)
  Environment.set("NEWSENDER", newSender)
  try carryOut(decision, message, job, newSender: newSender, now: now, &report)
}

func run() -> Exit {
  Process.setUmask(0o077)
  Signal.unblockAll()
  Signal.ignore(Signal.pipe)
  Signal.ignore(Signal.fileSize)  // the write fails instead, and a mailbox can be repaired
  Signal.restoreDefault(Signal.child)
  guard let job = Job(arguments: Process.arguments) else {
    complain(Bytes("apus-local: usage: apus-local [ -nN ] user homedir local dash ext domain sender defaultdelivery"))
    return .permanent
  }
  var report = Output(.standard(1))
  var failure: Failure?
  do throws(Failure) { try deliver(job, &report) } catch { failure = error }
  try? report.flush()
  if let failure, !failure.text.isEmpty { complain(failure.text) }
  return failure?.exit ?? .done
}

Process.exit(run().rawValue)
