// clean: removes the files of finished messages, as asked on descriptor 0 (spec pipes.md 6).
//
// `foop/N` NUL removes intd/N and mess/s/N; `todo/N` NUL removes intd/N and todo/N. The answer is one byte on
// descriptor 1: `+` done, `!` an unlink or sync failed, `x` malformed request, nothing touched. Requests may come in
// company; then they share their directory syncs, and no answer is given before those (durability point D).

import Bytes
import CShim
import Installation
import QueueFormat
import System

/// How this program ends; the same numbers are in clean(8).
enum Exit: Int32 {
  case done = 0
  case cannotAnswer = 100
  case temporary = 111
}

enum Answer {
  static let done = UInt8(ascii: "+")
  static let failed = UInt8(ascii: "!")
  static let malformed = UInt8(ascii: "x")
}

/// Longest request, in bytes with its NUL; the shortest has seven.
let longestRequest = 100
/// Requests between two looks into pid/.
let requestsBetweenPidCleanups = 31

enum Request {
  case foop(MessageNumber)
  case todo(MessageNumber)

  init?(_ line: Bytes) {
    guard line.count >= 6, line.count < longestRequest, let number = Bytes(line.dropFirst(5)).decimal else {
      return nil
    }
    if line.hasPrefix("foop/") {
      self = .foop(number)
    } else if line.hasPrefix("todo/") {
      self = .todo(number)
    } else {
      return nil
    }
  }
}

/// Removes leftovers of queue processes that died between making and renaming their file (queue.md 10).
func cleanPid(now: Int64) {
  guard let directory = try? Directory("pid") else { return }
  while let name = (try? directory.next()) ?? nil {
    let path = Path(Bytes("pid/") + name)
    guard let status = try? Files.linkStatus(path) else { continue }
    // Not atime: noatime mounts and scanners falsify it.
    if now >= max(status.modified, status.changed) + QueueLimits.ossified { try? Files.unlink(path) }
  }
}

/// Serves requests that came together.
/// - Returns: one answer for each, in order.
func serve(_ requests: [Request?]) -> Bytes {
  var answers = Bytes(repeating: Answer.done, count: requests.count)
  var touchedIntd = false
  var touchedTodo = false
  // Envelopes first, everywhere: no other file of a number may outlive its mess file (queue.md 3).
  for (index, request) in requests.enumerated() {
    switch request {
    case nil: answers[index] = Answer.malformed
    case .foop(let number), .todo(let number):
      do throws(SystemError) {
        if try Files.unlinkIfPresent(QueuePath.intd(number)) { touchedIntd = true }
      } catch { answers[index] = Answer.failed }
    }
  }
  if touchedIntd && !isSynced("intd") { failAll(&answers) }
  for (index, request) in requests.enumerated() where answers[index] == Answer.done {
    do throws(SystemError) {
      switch request! {
      case .foop(let number): try Files.unlinkIfPresent(QueuePath.mess(number))
      case .todo(let number):
        // Absent: asked again after a sync that failed.
        try Files.unlinkIfPresent(QueuePath.todo(number))
        touchedTodo = true
      }
    } catch { answers[index] = Answer.failed }
  }
  if touchedTodo && !isSynced("todo") {
    for (index, request) in requests.enumerated() {
      if case .todo = request, answers[index] == Answer.done { answers[index] = Answer.failed }
    }
  }
  return answers
}

func isSynced(_ directory: Path) -> Bool { (try? Files.syncDirectory(directory)) != nil }

func failAll(_ answers: inout Bytes) {
  for index in answers.indices where answers[index] == Answer.done { answers[index] = Answer.failed }
}

/// Takes requests apart, however the pipe cuts them. A text that never ends is one malformed request.
struct RequestReader {
  private var line = Bytes()
  private var overlong = false

  mutating func feed(_ byte: UInt8) -> Request?? {
    guard byte == 0 else {
      if line.count < longestRequest { line.append(byte) } else { overlong = true }
      return nil
    }
    defer {
      line.removeAll(keepingCapacity: true)
      overlong = false
    }
    return .some(overlong ? nil : Request(line))
  }
}

func run() -> Exit {
  Signal.ignore(Signal.pipe)
  Process.setUmask(0o033)
  do throws(SystemError) {
    try Installation.changeToHome()
    try Files.changeDirectory("queue")
  } catch { return .temporary }

  var requests = Input(Descriptor.standard(0))
  let answers = Descriptor.standard(1)
  var reader = RequestReader()
  var untilPidCleanup = 0
  while true {
    if untilPidCleanup <= 0 {
      cleanPid(now: Clock.now())
      untilPidCleanup = requestsBetweenPidCleanups
    }
    guard let chunk = try? requests.chunk(), !chunk.isEmpty else { return .done }
    var company: [Request?] = []
    for byte in chunk {
      if let request = reader.feed(byte) { company.append(request) }
    }
    guard (try? answers.write(serve(company))) != nil else { return .cannotAnswer }
    untilPidCleanup -= company.count
  }
}

Process.exit(run().rawValue)
