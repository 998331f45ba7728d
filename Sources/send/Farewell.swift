// The end of a message: its notice, then its files (spec queue.md 9).

import Bytes
import CShim
import QueueFormat
import System

/// Finished messages whose files go together, so that they share their directory syncs.
struct Farewell {
  struct Leaving {
    let number: MessageNumber
    let id: MessageID?
  }

  private(set) var messages: [Leaving] = []
  /// Directories with unlinked names, by their paths.
  private var touchedRecipients: [Bytes] = []
  var touchedBounce = false
  private var since: Int64 = 0

  var isEmpty: Bool { messages.isEmpty }

  /// Milliseconds until the first has waited long enough; nil when there is none.
  var rest: Int64? {
    messages.isEmpty ? nil : max(0, since + Pace.farewellWait - Clock.monotonicMilliseconds())
  }

  mutating func add(_ message: Leaving) {
    if messages.isEmpty { since = Clock.monotonicMilliseconds() }
    messages.append(message)
  }

  /// A recipient file of the message was unlinked.
  mutating func touched(_ channel: Channel, _ number: MessageNumber) {
    let directory = QueuePath.recipientsDirectory(number, channel).bytes
    if !touchedRecipients.contains(directory) { touchedRecipients.append(directory) }
  }

  /// Takes all there is to do.
  mutating func take() -> (messages: [Leaving], directories: [Path]) {
    var directories = touchedRecipients.map { Path($0) }
    if touchedBounce { directories.append("bounce") }
    defer {
      messages = []
      touchedRecipients = []
      touchedBounce = false
    }
    return (messages, directories)
  }
}

extension Daemon {
  /// Takes messages without recipients: sends their notice if they need one, else says farewell.
  func finishMessages() {
    let now = Clock.now()
    while bounceInjections.count < Pace.bounceInjections, let number = finished.take(dueAt: now) {
      do throws(SystemError) {
        // Gone already, not preprocessed, or not finished after all: not ours to end.
        guard try Files.exists(QueuePath.info(number)), try !Files.exists(QueuePath.todo(number)),
          try !Files.exists(QueuePath.recipients(number, .local)),
          try !Files.exists(QueuePath.recipients(number, .remote))
        else { continue }
        if try Files.exists(QueuePath.bounce(number)) {
          try startNotice(number)
        } else {
          leave(number)
        }
      } catch {
        log.line("warning: unable to stat files of msg \(number); will try again later")
        finished.insert(number, at: now + Pace.systemFailure)
      }
    }
  }

  private func leave(_ number: MessageNumber) {
    let id = (try? MessFile(number, rootless: settings.rootless))?.id
    farewell.add(Farewell.Leaving(number: number, id: id))
  }

  private func startNotice(_ number: MessageNumber) throws(SystemError) {
    guard let sender = InfoRecord.sender(in: try Files.contents(QueuePath.info(number), limit: 65536)) else {
      throw SystemError("read", code: EPROTO)
    }
    guard let notice = Notice(number, sender: sender, settings.bounce) else {
      log.line("triple bounce: discarding bounce/\(number)")
      if let id = (try? MessFile(number, rootless: settings.rootless))?.id {
        logFact(id, number, "triple_bounce_discarded")
      }
      return removeBounce(number)
    }
    do throws(SystemError) {
      bounceInjections.append(try BounceInjection(notice, settings.bounce))
    } catch {
      log.line("warning: unable to start qmail-queue, will try later")
      finished.insert(number, at: Clock.now() + Pace.systemFailure)
    }
  }

  /// A notice's child has ended.
  func concludeNotice(_ injection: BounceInjection) {
    let number = injection.notice.number
    switch injection.conclude() {
    case .queued(let pid):
      log.line("bounce msg \(number) qp \(pid)")
      if let id = (try? MessFile(number, rootless: settings.rootless))?.id {
        logFact(id, number, "bounce") { $0.add("qp", pid) }
      }
      removeBounce(number)
    case .trouble:
      log.line("warning: trouble injecting bounce message, will try later")
      finished.insert(number, at: Clock.now() + Pace.systemFailure)
    case .cannotStart:
      log.line("warning: unable to start qmail-queue, will try later")
      finished.insert(number, at: Clock.now() + Pace.systemFailure)
    }
  }

  private func removeBounce(_ number: MessageNumber) {
    do throws(SystemError) { try Files.unlink(QueuePath.bounce(number)) } catch {
      log.warning("unable to unlink", QueuePath.bounce(number), "; will try again later")
      return finished.insert(number, at: Clock.now() + Pace.systemFailure)
    }
    farewell.touchedBounce = true
    leave(number)
  }

  /// Removes finished messages. Each step is durable before the next begins (points H and F, then G), and the mess file
  /// goes last: while it is there nobody else gets its number.
  func sayFarewell() {
    guard let rest = farewell.rest else { return }
    let isQuiet = channels.allSatisfy { $0.running == 0 }
    guard rest == 0 || isQuiet || isExiting || farewell.messages.count >= Pace.largestFarewell else { return }
    let (messages, directories) = farewell.take()
    for directory in directories where !sync(directory) {
      for message in messages { finished.insert(message.number, at: Clock.now() + Pace.systemFailure) }
      return
    }
    var unlinked: [MessageNumber] = []
    for message in messages {
      log.line("end msg \(message.number)")
      if let id = message.id { logFact(id, message.number, "end") }
      let path = QueuePath.info(message.number)
      do throws(SystemError) {
        try Files.unlinkIfPresent(path)
        unlinked.append(message.number)
      } catch {
        log.warning("unable to unlink", path, "; will try again later")
        finished.insert(message.number, at: Clock.now() + Pace.systemFailure)
      }
    }
    var synced: [Bytes: Bool] = [:]
    for number in unlinked {
      let directory = QueuePath.infoDirectory(number)
      let isSafe = synced[directory.bytes] ?? sync(directory)
      synced[directory.bytes] = isSafe
      // Unsafe: the text stays, and the 36-hour cleaner removes it when the unlink is durable by itself.
      if isSafe { eliminate(number) }
    }
  }

  private func sync(_ directory: Path) -> Bool {
    do throws(SystemError) {
      try Files.syncDirectory(directory)
      return true
    } catch {
      log.warning("trouble fsyncing", directory)
      return false
    }
  }

  /// Has clean remove the text: from here on the number is free.
  func eliminate(_ number: MessageNumber) {
    startScan?.forget(number)
    cleaner.request(number)
  }
}
