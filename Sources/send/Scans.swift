// Walks over the queue's directories, a few entries a turn, so that they never hold up delivery.

import Bytes
import CShim
import QueueFormat
import System

/// The names in the split directories below `mess` or `info`, one after the other.
struct SplitWalk: ~Copyable {
  private let base: StaticString
  private var split: UInt64 = 0
  private var directory: Directory?

  init(_ base: StaticString) { self.base = base }

  enum Step {
    case message(MessageNumber)
    /// A name that is no number.
    case nothing
    case trouble(Path)
    case end
  }

  mutating func next() -> Step {
    guard split < QueueLimits.split else { return .end }
    let path = Path(Bytes(base) + Bytes("/\(split)".utf8))
    if directory == nil {
      do throws(SystemError) { directory = try Directory(path) } catch { return .trouble(path) }
    }
    do throws(SystemError) {
      if let name = try directory?.next() ?? nil {
        return QueuePath.number(of: name).map { .message($0) } ?? .nothing
      }
    } catch {
      directory = nil
      return .trouble(path)
    }
    directory = nil
    split += 1
    return split < QueueLimits.split ? .nothing : .end
  }
}

/// Finds the messages that were in S5 when send started, while todo is at work already.
///
/// The walk begins when todo says that it is alone: until then the todo of a killed send may make S5 of messages that
/// neither of the new two would hear of. A message may be seen here and be reported by todo as well; whoever comes first
/// claims its number. One that still has its todo/ entry is left to todo, and looked at once more at the end, because the
/// entry may be gone by the hand of a clean that was left behind. The claims are kept until todo has confirmed that
/// nothing it sent during the walk is still in the pipe, and all that was left to it is settled.
final class StartScan {
  private var walk = SplitWalk("info")
  private var claimed: Set<MessageNumber> = []
  private var left: [MessageNumber] = []
  var isWalking = false
  /// When what was left to todo is looked at again; nil until todo has confirmed.
  private(set) var nextLook: Int64?

  /// - Returns: false if the number is claimed already.
  func claim(_ number: MessageNumber) -> Bool { claimed.insert(number).inserted }

  /// The message is gone, its number may come again.
  func forget(_ number: MessageNumber) { claimed.remove(number) }

  func next() -> SplitWalk.Step { walk.next() }

  /// A message in info/: claims it if it is in S5.
  func meet(_ number: MessageNumber) -> Bool {
    // todo/ first: once its name is gone the info file is final.
    guard let isQueued = try? Files.exists(QueuePath.todo(number)), !isQueued else {
      left.append(number)
      return false
    }
    guard let isThere = try? Files.exists(QueuePath.info(number)), isThere else { return false }
    return claim(number)
  }

  /// Looks again at what was left to todo, and has not been reported since.
  /// - Returns: what is to be scheduled now. When nothing stays ``isSettled``.
  func lookAgain(at now: Int64) -> [MessageNumber] {
    nextLook = now + Pace.systemFailure
    let unreported = left.filter { !claimed.contains($0) }
    left = []
    return unreported.filter { meet($0) }
  }

  var isSettled: Bool { left.isEmpty }
}

/// A walk over mess/ for what died in S2 or S3 (spec queue.md 10).
final class CleanupPass {
  private var walk = SplitWalk("mess")

  func next() -> SplitWalk.Step { walk.next() }

  /// Whether the message is old, and neither queued nor preprocessed.
  static func isLeftover(_ number: MessageNumber, now: Int64) -> Bool {
    guard let status = try? Files.status(QueuePath.mess(number)),
      // Not atime: noatime mounts and scanners falsify it.
      max(status.modified, status.changed) + QueueLimits.ossified < now,
      let hasInfo = try? Files.exists(QueuePath.info(number)), !hasInfo,
      let hasTodo = try? Files.exists(QueuePath.todo(number)), !hasTodo
    else { return false }
    return true
  }
}

extension Daemon {
  func continueStartScan() {
    guard let scan = startScan else { return }
    if let nextLook = scan.nextLook, Clock.now() >= nextLook { settleStartScan() }
    guard scan.isWalking else { return }
    for _ in 0..<Pace.entriesPerTurn {
      switch scan.next() {
      case .nothing: continue
      case .message(let number):
        if scan.meet(number) { schedule(number) }
      case .trouble(let directory):
        log.line("alert: unable to opendir ", directory.bytes + Bytes(", sleeping..."))
        log.flush()
        Clock.sleep(milliseconds: 10_000)
        return workIsLeft()
      case .end:
        scan.isWalking = false
        todo.order(.scanDone)
        return
      }
    }
    workIsLeft()
  }

  /// todo has confirmed that the walk is over, or it is time for another look.
  func settleStartScan() {
    guard let scan = startScan else { return }
    for number in scan.lookAgain(at: Clock.now()) { schedule(number) }
    if scan.isSettled { startScan = nil }
  }

  func continueCleanup() {
    let now = Clock.now()
    if cleanup == nil {
      guard now >= nextCleanup else { return }
      cleanup = CleanupPass()
    }
    for _ in 0..<Pace.entriesPerTurn where cleaner.hasRoom {
      switch cleanup!.next() {
      case .nothing: continue
      case .message(let number):
        if CleanupPass.isLeftover(number, now: now) { cleaner.request(number) }
      case .trouble, .end:
        cleanup = nil
        nextCleanup = now + Pace.betweenCleanups
        return
      }
    }
    workIsLeft()
  }
}
