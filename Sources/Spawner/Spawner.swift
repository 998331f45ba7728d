// Spawner: the half that lspawn and rspawn share (spec pipes.md 3).
//
// Reads commands of send, opens the message, starts a child for each delivery, collects what the child says, and answers
// with one report per delivery. What the child does, and how its end becomes a report, is the program's `DeliveryPolicy`.
// For these two programs only. Addresses and the children's output are chosen by strangers; send is trusted to be send,
// but a broken one gets documented answers and bounded memory.

import Bytes
import CShim
import Installation
import System

/// What a spawner does for one delivery.
public protocol DeliveryPolicy {
  /// Most bytes of output that the report may use, the rest is cut with a line that says so; nil for as much as
  /// ``Spawner/outputBudget``.
  var outputLimit: Int? { get }

  /// Runs in the child: the message at its start on descriptor 0, the output pipe on 1 and 2, still in queue/mess,
  /// SIGPIPE at its default. Ends in an exec.
  ///
  /// - Parameter at: index of the last `@` in `recipient`.
  /// - Returns: the child's exit status if there was no exec; ``report(status:output:)`` gets to see it.
  func execute(sender: Bytes, recipient: Bytes, at: Int) -> Int32

  /// Turns the child's end and its output into status letter (K, Z or D) and text. Anything from a NUL on is dropped.
  func report(status: ExitStatus, output: Bytes) -> Bytes
}

/// The process between send and its deliveries.
public struct Spawner<Policy: DeliveryPolicy>: ~Copyable {
  /// Output of a child that is kept at most; the rest is read and dropped.
  public static var outputBudget: Int { 1 << 20 }
  /// With so many bytes of reports unread by send, no further command is read.
  private static var reportBudget: Int { 256 << 10 }

  /// A delivery under way. Its slot is free again when the child has died *and* its output ended: whatever
  /// background process keeps the pipe open holds the slot, as in qmail.
  private final class Delivery {
    let pid: Int32
    let output: Descriptor
    var collected = Bytes()
    var isCut = false
    var outputEnded = false
    var status: ExitStatus?

    init(pid: Int32, output: consuming Descriptor) {
      self.pid = pid
      self.output = output
    }
  }

  private let policy: Policy
  private let commands: Descriptor
  private var commandsEnded = false
  private let reports: Descriptor
  private let signals: SignalQueue
  private var parser = DeliveryCommandParser()
  private var slots: [Delivery?]
  private var running = 0
  private var unsent = Bytes()
  private var isSending = true

  /// - Parameters:
  ///   - commands: where send writes.
  ///   - reports: where send reads; becomes non-blocking, so that a slow send holds up nothing here.
  ///   - slots: how many deliveries at once, 1 to 255; the byte that send reads first.
  public init(_ policy: Policy, commands: consuming Descriptor, reports: consuming Descriptor, slots: Int = 120)
    throws(SystemError)
  {
    precondition(slots >= 1 && slots <= 255)
    Signal.ignore(Signal.pipe)
    Signal.restoreDefault(Signal.child)  // a caller that ignores it would let children vanish unwaited
    let signals = try SignalQueue([Signal.child])
    try reports.setNonblocking()
    try commands.setCloseOnExec()
    try reports.setCloseOnExec()
    self.policy = policy
    self.signals = signals
    self.commands = commands
    self.reports = reports
    self.slots = [Delivery?](repeating: nil, count: slots)
    unsent = [UInt8(slots)]
  }

  /// Serves until send closes the commands and the last delivery has ended. The current directory is queue/mess.
  public mutating func run() throws(SystemError) {
    var wait = Wait()
    while !commandsEnded || running > 0 || !unsent.isEmpty {
      wait.reset()
      let signalled = wait.read(signals.number)
      let commanded = !commandsEnded && unsent.count < Self.reportBudget ? wait.read(commands.number) : nil
      let writable = unsent.isEmpty ? nil : wait.write(reports.number)
      var outputs: [(slot: Int, index: Int)] = []
      for slot in slots.indices {
        if let delivery = slots[slot], !delivery.outputEnded {
          outputs.append((slot, wait.read(delivery.output.number)))
        }
      }
      guard try wait.wait(milliseconds: nil) else { continue }
      if wait.isReady(signalled) { try reap() }
      for (slot, index) in outputs where wait.isReady(index) { collect(slot) }
      if let writable, wait.isReady(writable) { sendReports() }
      if let commanded, wait.isReady(commanded) { readCommands() }
    }
  }

  // Commands

  private mutating func readCommands() {
    var bytes = Bytes()
    let count: Int
    do throws(SystemError) { count = try commands.read(into: &bytes, limit: 4096) } catch {
      if error.code == EWOULDBLOCK { return }
      count = 0
    }
    if count == 0 { commandsEnded = true }
    for byte in bytes {
      if let command = parser.feed(byte), let refusal = start(command) {
        report(slot: command.slot, Bytes(refusal))
      }
    }
  }

  /// Starts a delivery. - Returns: the report, if it could not be started.
  private mutating func start(_ command: DeliveryCommand) -> StaticString? {
    let at: Int
    do throws(DeliveryCommand.Fault) {
      at = try command.checked(slots: slots.count) { slots[$0] != nil }
    } catch { return error.report }

    let message: Descriptor
    do throws(SystemError) { message = try Descriptor.open(Path(command.message), O_RDONLY | O_NONBLOCK) } catch {
      return "Zqmail-spawn unable to open message. (#4.3.0)\n"
    }
    let status: FileStatus
    do throws(SystemError) { status = try message.status() } catch {
      return "Zqmail-spawn unable to fstat message. (#4.3.0)\n"
    }
    if !status.isRegularFile { return "ZSorry, message has wrong type. (#4.3.5)\n" }
    if status.uid != Installation.queueOwner { return "ZSorry, message has wrong owner. (#4.3.5)\n" }

    let pipe: Pipe
    do throws(SystemError) { pipe = try Pipe() } catch { return "Zqmail-spawn unable to create pipe. (#4.3.0)\n" }
    let descriptors = [
      (from: message.number, to: Int32(0)), (from: pipe.writing.number, to: Int32(1)),
      (from: pipe.writing.number, to: Int32(2)),
    ]
    let policy = policy
    let pid: Int32
    do throws(SystemError) {
      pid = try Child.start {
        do throws(SystemError) { try Child.install(descriptors) } catch { return 111 }
        return policy.execute(sender: command.sender, recipient: command.recipient, at: at)
      }
    } catch { return "Zqmail-spawn unable to fork. (#4.3.0)\n" }
    slots[command.slot] = Delivery(pid: pid, output: pipe.takeReading())
    running += 1
    return nil
  }

  // Children

  private mutating func reap() throws(SystemError) {
    while try signals.next() != nil {}
    while let (pid, status) = Child.reap() {
      for slot in slots.indices {
        if let delivery = slots[slot], delivery.pid == pid, delivery.status == nil {
          delivery.status = status
          concludeIfOver(slot)
          break
        }
      }
    }
  }

  private mutating func collect(_ slot: Int) {
    guard let delivery = slots[slot] else { return }
    let room = (policy.outputLimit ?? Self.outputBudget) - delivery.collected.count
    var bytes = Bytes()
    let count: Int
    do throws(SystemError) { count = try delivery.output.read(into: &bytes, limit: 4096) } catch { count = 0 }
    if count > room { delivery.isCut = true }
    delivery.collected.append(contentsOf: bytes.prefix(room))
    if count == 0 {
      delivery.outputEnded = true
      concludeIfOver(slot)
    }
  }

  private mutating func concludeIfOver(_ slot: Int) {
    guard let delivery = slots[slot], delivery.outputEnded, let status = delivery.status else { return }
    slots[slot] = nil
    running -= 1
    var output = delivery.collected
    if let limit = policy.outputLimit, delivery.isCut { output = cutOutput(output, limit: limit) }
    report(slot: slot, policy.report(status: status, output: output))
  }

  // Reports

  private mutating func report(slot: Int, _ text: Bytes) {
    guard isSending else { return }
    unsent.append(UInt8(slot))
    unsent.append(contentsOf: text.prefix { $0 != 0 })
    unsent.append(0)
  }

  /// Writes what send will take now. When it takes nothing any more, deliveries are still brought to their end.
  private mutating func sendReports() {
    do throws(SystemError) {
      let taken = try reports.writeSome(unsent[...])
      unsent.removeFirst(taken)
    } catch {
      if error.code == EWOULDBLOCK { return }
      isSending = false
      unsent = []
    }
  }
}

/// The start of an output that was longer than `limit`, and a line that says so; together at most `limit` bytes.
func cutOutput(_ output: Bytes, limit: Int) -> Bytes {
  let notice = Bytes("\nError report too long, sorry.\n")
  return Bytes(output.prefix(max(0, limit - notice.count))) + notice
}

/// The whole of a spawner program: commands on descriptor 0, reports on 1, nothing on 2.
///
/// - Parameter slots: how many deliveries at once, 1 to 255.
/// - Returns: the exit status: 0 after the end of the commands, 111 if the spawner could not start or go on.
public func serve<Policy: DeliveryPolicy>(_ policy: Policy, slots: Int = 120) -> Int32 {
  do throws(SystemError) {
    try closeStandardError()
    try Files.changeDirectory(Installation.path("queue/mess"))
    var spawner = try Spawner(policy, commands: .standard(0), reports: .standard(1), slots: slots)
    try spawner.run()
    return 0
  } catch {
    return 111
  }
}

/// Nothing a spawner or a library prints by accident may reach whatever file would get the number 2.
private func closeStandardError() throws(SystemError) {
  let null = try Descriptor.open("/dev/null", O_RDWR)
  if null.number == 2 {
    _ = null.release()
  } else {
    try Child.install([(from: null.number, to: 2)])
  }
}
