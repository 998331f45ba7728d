// The daemon: everything send knows, and one turn of its loop.

import Bytes
import CShim
import Control
import Installation
import Mail
import QueueFormat
import Routing
import System

/// What the control files say.
struct Settings {
  let bounce: BounceSettings
  let concurrency: [Int]
  let lifetime: Int64
  let rootless: Bool
}

/// Times in seconds (spec send.md 2) and sizes.
enum Pace {
  static let longestSleep: Int64 = 86400
  static let slop: Int64 = 1
  static let systemFailure: Int64 = 123
  static let betweenCleanups: Int64 = 76431
  /// Recipient records read, and directory entries looked at, in one turn.
  static let recordsPerTurn = 1000
  static let entriesPerTurn = 50
  /// Notices under way at once.
  static let bounceInjections = 4
  /// Finished messages that share their directory syncs, and how long the first waits, in milliseconds.
  static let largestFarewell = 64
  static let farewellWait: Int64 = 40
}

final class Daemon {
  let settings: Settings
  var routing: Routing
  var log = Log()
  let channels: [SpawnChannel]
  let cleaner: Cleaner
  let todo: TodoLink
  let signals: SignalQueue

  /// Messages without recipients left, and messages whose files could not be looked at.
  var finished = Schedule()
  var troubled = Schedule()
  var bounceInjections: [BounceInjection] = []
  var farewell = Farewell()
  var startScan: StartScan? = StartScan()
  var cleanup: CleanupPass?
  var nextCleanup: Int64 = 0
  var isExiting = false
  var deliveries = 0
  /// Jobs with marks that are not durable yet.
  private var dirtyJobs: [Job] = []
  private var isCleanerLossLogged = false
  /// Whether the last turn left work that could go on at once.
  private var hasMore = false

  init(
    settings: Settings, routing: Routing, channels: [SpawnChannel], signals: consuming SignalQueue
  ) {
    self.settings = settings
    self.routing = routing
    self.channels = channels
    self.signals = signals
    cleaner = Cleaner()
    todo = TodoLink()
  }

  // The loop

  func run() {
    logStatus()
    var wait = Wait()
    while !isDone {
      hasMore = false
      takeSignals()
      startDeliveries()
      if !isExiting {
        retryTroubled()
        finishMessages()
        continueStartScan()
        continueCleanup()
      }
      sayFarewell()
      syncMarks()
      noticeLosses()
      log.flush()

      wait.reset()
      let signal = wait.read(signals.number)
      let fromTodo = todo.isAlive ? wait.read(todo.readingNumber) : nil
      let answers = cleaner.isAwaiting ? wait.read(cleaner.readingNumber) : nil
      let reports = channels.map { $0.isAlive ? wait.read($0.reportsNumber) : nil }
      let commands = channels.map { $0.isAlive && $0.hasPendingCommand ? wait.write($0.commandsNumber) : nil }
      let notices = bounceInjections.map { wait.read($0.waitNumber) }
      do throws(SystemError) { try wait.wait(milliseconds: sleepTime()) } catch {
        log.line("warning: trouble in select")
        log.flush()
        Clock.sleep(milliseconds: 1000)
        continue
      }
      if wait.isReady(signal) { takeSignals() }
      for (channel, index) in zip(channels, commands) {
        if let index, wait.isReady(index) { channel.flush() }
      }
      for (channel, index) in zip(channels, reports) {
        if let index, wait.isReady(index) { takeReports(channel) }
      }
      if let answers, wait.isReady(answers) { takeCleanAnswers() }
      if let fromTodo, wait.isReady(fromTodo) { takeTodoMessages() }
      for index in notices.indices.reversed() where wait.isReady(notices[index]) {
        concludeNotice(bounceInjections.remove(at: index))
      }
      noticeLosses()
    }
    conclude()
  }

  /// Milliseconds until something is due.
  private func sleepTime() -> Int64 {
    if hasMore { return 0 }
    let now = Clock.now()
    var wake = now + Pace.longestSleep
    if !isExiting {
      for channel in channels where channel.hasRoom && channel.pass == nil {
        if let first = channel.schedule.first { wake = min(wake, first.time) }
      }
      if let first = troubled.first { wake = min(wake, first.time) }
      if let first = finished.first, bounceInjections.count < Pace.bounceInjections { wake = min(wake, first.time) }
      if cleanup == nil { wake = min(wake, nextCleanup) }
      if let nextLook = startScan?.nextLook { wake = min(wake, nextLook) }
    }
    var milliseconds = wake <= now ? 0 : (wake - now + Pace.slop) * 1000
    if let rest = farewell.rest { milliseconds = min(milliseconds, rest) }
    return milliseconds
  }

  /// The present turn stops in the middle of something: the next one follows at once.
  func workIsLeft() { hasMore = true }

  // Signals and partners

  private func takeSignals() {
    while let signal = (try? signals.next()) ?? nil {
      switch signal {
      case Signal.terminate: beginExit()
      case Signal.alarm:
        let now = Clock.now()
        for channel in channels { channel.schedule.advanceAll(to: now) }
        startScan?.isHurried = true
      case Signal.hangup: reread()
      default: break
      }
    }
  }

  func beginExit() {
    guard !isExiting else { return }
    isExiting = true
    hasMore = true  // perhaps there is nothing to wait for
    todo.order(.exit)
    logStatus()
  }

  private var isDone: Bool {
    isExiting && !todo.isAlive && bounceInjections.isEmpty && farewell.isEmpty && !cleaner.isAwaiting
      && channels.allSatisfy { !$0.isAlive || $0.running == 0 && !$0.hasPendingCommand }
  }

  /// A partner is lost when it closes its end, or when it does not take what we write: that may be seen anywhere in a
  /// turn, and is dealt with here.
  private func noticeLosses() {
    for channel in channels where !channel.isAlive && !channel.isLossLogged {
      channel.isLossLogged = true
      log.alert("oh no! lost spawn connection! dying...")
      beginExit()
    }
    if !cleaner.isAlive && !isCleanerLossLogged {
      isCleanerLossLogged = true
      log.alert("oh no! lost qmail-clean connection! dying...")
      beginExit()
    }
    if !todo.isAlive && !isExiting {
      log.alert("oh no! lost todo connection! dying...")
      beginExit()
    }
  }

  private func reread() {
    todo.order(.reread)
    do throws(SystemError) { try Installation.changeToHome() } catch {
      log.alert("unable to reread controls: unable to switch to home directory")
      return
    }
    do throws(ControlError) {
      var control = try Control()
      try routing.reread(&control)
    } catch {
      // todo reads the same file and says so; here only notices are concerned, which keep the old data.
    }
    while (try? Files.changeDirectory("queue")) == nil {
      log.alert("unable to switch back to queue directory; HELP! sleeping...")
      Clock.sleep(milliseconds: 10_000)
    }
  }

  private func takeTodoMessages() {
    for message in todo.read() {
      switch message {
      case .log(let line): log.line("", line)
      case .queued(let number, let local, let remote):
        let now = Clock.now()
        if let startScan, !startScan.claim(number) {
          // Met already. But what was met may be a leftover of this number, which waits for a mess file that was missing.
          for channel in channels { channel.schedule.advance(number, to: now) }
          continue
        }
        if local { channels[Channel.local.rawValue].schedule.insert(number, at: now) }
        if remote { channels[Channel.remote.rawValue].schedule.insert(number, at: now) }
        if !local && !remote { finished.insert(number, at: now) }
      case .ready: startScan?.isWalking = true
      case .scanDone: settleStartScan()
      }
    }
  }

  private func takeCleanAnswers() {
    for (number, answer) in cleaner.readAnswers() where answer != .ascii("+") {
      log.line("warning: qmail-clean unable to clean up foop/\(number)")
    }
  }

  func logStatus() {
    let parts = channels.map { "\($0.running)/\($0.concurrency)" }
    log.line("status: local \(parts[0]) remote \(parts[1])\(isExiting ? " exitasap" : "")")
  }

  /// Writes the times of the next tries where the next run reads them.
  private func conclude() {
    for channel in channels {
      for appointment in channel.schedule.all {
        let path = QueuePath.recipients(appointment.number, channel.channel)
        if (try? Files.setTimes(path, to: appointment.time)) == nil {
          log.warning("unable to utime", path, "; message will be retried too soon")
        }
      }
    }
    log.line("status: exiting")
    log.flush()
  }

  // Passes and deliveries (spec send.md 4)

  private func startDeliveries() {
    guard !isExiting else { return }
    for channel in channels {
      var budget = Pace.recordsPerTurn
      while channel.hasRoom && budget > 0 {
        if channel.pass == nil {
          guard let number = channel.schedule.take(dueAt: Clock.now()) else { break }
          channel.pass = openPass(number, channel.channel)
        }
        guard let job = channel.pass else { continue }
        budget -= 1
        readRecord(job, channel)
      }
      if budget == 0 { hasMore = true }
    }
  }

  private func openPass(_ number: MessageNumber, _ channel: Channel) -> Job? {
    let now = Clock.now()
    var trouble = QueuePath.recipients(number, channel)
    do throws(SystemError) {
      let recipients = try Descriptor.open(trouble, O_RDONLY | O_NONBLOCK)
      trouble = QueuePath.info(number)
      let info = try Descriptor.open(trouble, O_RDONLY | O_NONBLOCK)
      let birth = try info.status().modified
      let sender = InfoRecord.sender(in: try info.readToEnd(limit: 65536))
      guard let sender else { throw SystemError("read", code: EPROTO) }
      trouble = QueuePath.mess(number)
      let mess = try MessFile(number, rootless: settings.rootless)
      return Job(
        number: number, id: mess.id, sender: sender, nextTry: Retry.next(birth: birth, now: now, channel),
        isDying: now > birth + settings.lifetime, recipients: Input(recipients))
    } catch {
      log.warning("trouble opening", trouble, "; will try again later")
      channels[channel.rawValue].schedule.insert(number, at: now + Pace.systemFailure)
      return nil
    }
  }

  /// One record of the pass: a delivery, or nothing for a recipient that is done, or the end.
  private func readRecord(_ job: Job, _ channel: SpawnChannel) {
    let record: Bytes?
    do throws(SystemError) { record = try job.recipients?.text(through: 0, limit: 65536) ?? nil } catch {
      log.warning("trouble reading", path(of: job, channel), "; will try again later")
      return endPass(job, channel, complete: false)
    }
    guard let record else { return endPass(job, channel, complete: true) }
    // Cut off, or longer than any address: nobody knows for whom, but the file must not end for it.
    guard record.last == 0 else {
      log.warning("unknown record type in", path(of: job, channel), "!")
      return endPass(job, channel, complete: false)
    }
    let offset = job.offset
    job.offset += Int64(record.count)
    switch record[0] {
    case RecipientMark.done: return
    case RecipientMark.todo: break
    default:
      log.warning("unknown record type in", path(of: job, channel), "!")
      return endPass(job, channel, complete: false)
    }
    let recipient = Bytes(record[1..<(record.count - 1)])
    deliveries += 1
    job.remaining += 1
    log.line(
      "starting delivery \(deliveries): msg \(job.number) to ",
      Bytes(channel.channel.name) + [.space] + recipient.logSafe)
    channel.start(Delivery(job: job, recipient: recipient, offset: offset, ordinal: deliveries))
    logStatus()
  }

  private func path(of job: Job, _ channel: SpawnChannel) -> Path {
    QueuePath.recipients(job.number, channel.channel)
  }

  private func endPass(_ job: Job, _ channel: SpawnChannel, complete: Bool) {
    job.isComplete = complete
    job.recipients = nil
    channel.pass = nil
    closeIfIdle(job, channel)
  }

  private func takeReports(_ channel: SpawnChannel) {
    for report in channel.readReports() {
      guard let delivery = channel.conclude(report) else {
        log.line("warning: internal error: delivery report out of range")
        continue
      }
      let job = delivery.job
      switch Outcome(report.body, isDying: job.isDying) {
      case .success(let text):
        log.line("delivery \(delivery.ordinal): success: ", text.logSafe)
        logFact(delivery, channel, "success")
        mark(delivery, channel)
      case .failure(let text):
        log.line("delivery \(delivery.ordinal): failure: ", text.logSafe)
        logFact(delivery, channel, "failure")
        appendToBounce(delivery, text)
        mark(delivery, channel)
      case .deferral(let text):
        log.line("delivery \(delivery.ordinal): deferral: ", text.logSafe)
        logFact(delivery, channel, "deferral", next: job.nextTry)
      case .mangled:
        log.line("delivery \(delivery.ordinal): report mangled, will defer")
        logFact(delivery, channel, "deferral", next: job.nextTry)
      }
      logStatus()
      closeIfIdle(job, channel)
    }
  }

  /// - Parameter next: when the recipient is tried again.
  private func logFact(_ delivery: Delivery, _ channel: SpawnChannel, _ event: StaticString, next: Int64? = nil) {
    logFact(delivery.job.id, delivery.job.number, event) { fact in
      fact.add("delivery", delivery.ordinal)
      fact.add("channel", channel.channel.name)
      if let next { fact.add("next", next) }
    }
  }

  /// The line by which a message is found under its id.
  func logFact(
    _ id: MessageID, _ number: MessageNumber, _ event: StaticString, _ fill: (inout LogLine) -> Void = { _ in }
  ) {
    var fact = LogLine("send")
    fact.add("id", id.bytes)
    fact.add("msg", number)
    fact.add("event", event)
    fill(&fact)
    log.line("", fact.bytes)
  }

  /// The failure must be on disk before the recipient is marked (durability point E).
  private func appendToBounce(_ delivery: Delivery, _ text: Bytes) {
    let path = QueuePath.bounce(delivery.job.number)
    let paragraph = BounceParagraph.bytes(recipient: routing.withoutVirtualPrefix(delivery.recipient), report: text)
    var size: Int64?
    while true {
      do throws(SystemError) {
        let file = try Descriptor.open(path, O_WRONLY | O_APPEND | O_CREAT, mode: 0o600)
        // A second try begins where the first did.
        if let size { try file.truncate(to: size) } else { size = try file.status().size }
        try file.write(paragraph)
        try file.sync()
        if size == 0 { try Files.syncDirectory("bounce") }
        return
      } catch {
        log.alert("unable to append to bounce message; HELP! sleeping...")
        Clock.sleep(milliseconds: 10_000)
      }
    }
  }

  /// T becomes D. The last recipient of a file is not marked: the file goes at once.
  private func mark(_ delivery: Delivery, _ channel: SpawnChannel) {
    let job = delivery.job
    job.remaining -= 1
    if job.isComplete && job.remaining == 0 && job.running == 0 {
      job.unmarked = delivery.offset
    } else {
      writeMark(job, delivery.offset, channel)
    }
  }

  private func writeMark(_ job: Job, _ offset: Int64, _ channel: SpawnChannel) {
    let path = path(of: job, channel)
    do throws(SystemError) {
      if job.marks == nil {
        job.marks = try Descriptor.open(path, O_WRONLY)
      }
      try job.marks?.write([RecipientMark.done], at: offset)
      if !dirtyJobs.contains(where: { $0 === job }) { dirtyJobs.append(job) }
    } catch {
      log.warning("trouble marking", path, "; message will be delivered twice!")
    }
  }

  /// Marks of one turn become durable together. A lost one means a second delivery, never a lost one.
  private func syncMarks() {
    for job in dirtyJobs { try? job.marks?.syncData() }
    dirtyJobs.removeAll(keepingCapacity: true)
  }

  /// Ends a pass when its file is read and its last delivery reported.
  private func closeIfIdle(_ job: Job, _ channel: SpawnChannel) {
    guard job.running == 0, channel.pass !== job else { return }
    let now = Clock.now()
    guard job.isComplete else {
      return channel.schedule.insert(job.number, at: now + Pace.systemFailure)
    }
    guard job.remaining == 0 else { return channel.schedule.insert(job.number, at: job.nextTry) }
    let path = path(of: job, channel)
    do throws(SystemError) { try Files.unlink(path) } catch {
      log.warning("unable to unlink", path, "; will try again later")
      if let offset = job.unmarked { writeMark(job, offset, channel) }
      return channel.schedule.insert(job.number, at: now + Pace.systemFailure)
    }
    farewell.touched(channel.channel, job.number)
    let other = QueuePath.recipients(job.number, channel.channel == .local ? .remote : .local)
    do throws(SystemError) {
      if try !Files.exists(other) { finished.insert(job.number, at: now) }
    } catch {
      // Whether the other channel is done is seen when the message is looked at again.
      troubled.insert(job.number, at: now + Pace.systemFailure)
    }
  }

  // Messages whose files could not be looked at

  private func retryTroubled() {
    let now = Clock.now()
    while let number = troubled.take(dueAt: now) { schedule(number) }
  }

  /// Finds out from the disk what is to be done with a message in S5.
  func schedule(_ number: MessageNumber) {
    do throws(SystemError) {
      var isFinished = true
      for channel in channels {
        let path = QueuePath.recipients(number, channel.channel)
        if try Files.exists(path) {
          let due = try Files.status(path).modified
          channel.schedule.insert(number, at: startScan?.isHurried == true ? min(due, Clock.now()) : due)
          isFinished = false
        }
      }
      if isFinished { finished.insert(number, at: Clock.now()) }
    } catch {
      log.line("warning: unable to stat files of msg \(number); will try again later")
      troubled.insert(number, at: Clock.now() + Pace.systemFailure)
    }
  }
}
