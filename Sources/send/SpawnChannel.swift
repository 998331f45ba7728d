// One spawner as send sees it: its slots, the command on its way, the reports coming back (spec pipes.md 3).

import Bytes
import CShim
import QueueFormat
import System

/// A pass over a message: its recipients on one channel are read and tried once (spec send.md 4).
final class Job {
  let number: MessageNumber
  let id: MessageID
  let sender: Bytes
  /// When it is tried again, if recipients are left.
  let nextTry: Int64
  let isDying: Bool
  /// Where reading stands in the recipient file.
  var recipients: Input?
  var offset: Int64 = 0
  /// T records seen and neither marked nor about to vanish with the file.
  var remaining = 0
  /// Deliveries without a report.
  var running = 0
  /// Whether the file was read to its end, without trouble.
  var isComplete = false
  /// For D marks; opened by the first.
  var marks: Descriptor?
  /// A finished recipient whose mark is spared because the file goes at once.
  var unmarked: Int64?

  init(number: MessageNumber, id: MessageID, sender: Bytes, nextTry: Int64, isDying: Bool, recipients: consuming Input)
  {
    self.number = number
    self.id = id
    self.sender = sender
    self.nextTry = nextTry
    self.isDying = isDying
    self.recipients = consume recipients
  }
}

/// A recipient being tried.
struct Delivery {
  let job: Job
  let recipient: Bytes
  /// Offset of its record in the recipient file.
  let offset: Int64
  /// Counts from 1 in each run of send; stands in the log.
  let ordinal: Int
}

final class SpawnChannel {
  let channel: Channel
  private let commands: Descriptor
  private let reports: Descriptor
  private(set) var isAlive = true
  private(set) var concurrency: Int
  private var slots: [Delivery?] = []
  private(set) var running = 0
  private var pending = Bytes()
  private var parser = ReportParser()
  var schedule = Schedule()
  /// The pass whose recipient file is being read.
  var pass: Job?
  /// Whether the log says already that the spawner is gone.
  var isLossLogged = false

  init(_ channel: Channel, commands: consuming Descriptor, reports: consuming Descriptor, concurrency: Int) {
    self.channel = channel
    self.commands = commands
    self.reports = reports
    self.concurrency = concurrency
  }

  /// Waits for the spawner's first byte, its number of slots. - Returns: false if it is gone.
  func greet() -> Bool {
    var byte = Bytes()
    guard let n = try? reports.read(into: &byte, limit: 1), n == 1, (try? commands.setNonblocking()) != nil else {
      return false
    }
    concurrency = min(concurrency, Int(byte[0]))
    slots = Array(repeating: nil, count: concurrency)
    return true
  }

  var reportsNumber: Int32 { reports.number }
  var commandsNumber: Int32 { commands.number }
  var hasPendingCommand: Bool { !pending.isEmpty }
  /// Whether a delivery may start now.
  var hasRoom: Bool { isAlive && pending.isEmpty && running < concurrency }

  /// Gives the spawner a recipient. - Precondition: ``hasRoom``.
  func start(_ delivery: Delivery) {
    let slot = slots.firstIndex { $0 == nil }!
    slots[slot] = delivery
    running += 1
    delivery.job.running += 1
    let number = delivery.job.number
    pending.append(UInt8(slot))
    pending.append(contentsOf: "\(number % QueueLimits.split)/\(number)".utf8)
    pending.append(0)
    pending.append(contentsOf: VERP.expand(sender: delivery.job.sender, recipient: delivery.recipient))
    pending.append(0)
    pending.append(contentsOf: delivery.recipient)
    pending.append(0)
    flush()
  }

  /// Writes what the pipe takes of the pending command.
  func flush() {
    guard isAlive, !pending.isEmpty else { return }
    do throws(SystemError) {
      pending.removeFirst(try commands.writeSome(pending[...]))
    } catch {
      if error.code != EWOULDBLOCK { isAlive = false }
    }
  }

  /// Reads reports that are there.
  func readReports() -> [ReportParser.Report] {
    var bytes = Bytes()
    guard let n = try? reports.read(into: &bytes, limit: 8192), n > 0 else {
      isAlive = false
      return []
    }
    return bytes.compactMap { parser.feed($0) }
  }

  /// Frees the slot a report is about. - Returns: nil for one that is not in use.
  func conclude(_ report: ReportParser.Report) -> Delivery? {
    let slot = Int(report.delivery)
    guard slot < slots.count, let delivery = slots[slot] else { return nil }
    slots[slot] = nil
    running -= 1
    delivery.job.running -= 1
    return delivery
  }
}
