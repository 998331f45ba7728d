// The other two partners of send: its clean, and todo (spec pipes.md 6 and 9).

import Bytes
import CShim
import QueueFormat
import System

/// Requests to clean. They are not waited for one by one; the answers come in the same order.
final class Cleaner {
  private let requests = Descriptor.standard(5)
  private let answers = Descriptor.standard(6)
  private var awaited: [MessageNumber] = []
  private(set) var isAlive = true

  /// So many unanswered requests fit into the pipe for sure.
  private static let limit = 1000

  var isAwaiting: Bool { isAlive && !awaited.isEmpty }
  var readingNumber: Int32 { answers.number }

  /// Asks for intd/N and mess/s/N to be removed.
  func request(_ number: MessageNumber) {
    guard isAlive else { return }
    do throws(SystemError) {
      try requests.write(Bytes("foop/\(number)".utf8) + [0])
      awaited.append(number)
    } catch { isAlive = false }
  }

  /// Whether more may be asked for now.
  var hasRoom: Bool { awaited.count < Cleaner.limit }

  /// Answers that are there; waits for at least one.
  func readAnswers() -> [(MessageNumber, UInt8)] {
    guard isAlive else { return [] }
    var bytes = Bytes()
    guard let n = try? answers.read(into: &bytes, limit: 4096), n > 0, n <= awaited.count else {
      isAlive = false
      return []
    }
    let answered = zip(awaited, bytes).map { ($0, $1) }
    awaited.removeFirst(n)
    return answered
  }
}

/// The link to todo.
final class TodoLink {
  enum Order: UInt8 {
    case reread = 72  // H
    case exit = 88  // X
    /// Messages found at the start are scheduled; todo answers with the same letter.
    case scanDone = 83  // S
  }

  enum Message {
    case log(Bytes)
    case queued(MessageNumber, local: Bool, remote: Bool)
    /// Nobody else preprocesses any more, not even the todo of a send that was killed: what is in info/ and not in
    /// todo/ now, this todo will not report.
    case ready
    case scanDone
  }

  private let orders = Descriptor.standard(7)
  private let messages = Descriptor.standard(8)
  private var partial = Bytes()
  private(set) var isAlive = true

  var readingNumber: Int32 { messages.number }

  func order(_ order: Order) {
    guard isAlive else { return }
    if (try? orders.write([order.rawValue])) == nil { isAlive = false }
  }

  /// Messages that are there; at the end of the stream ``isAlive`` becomes false.
  func read() -> [Message] {
    guard let n = try? messages.read(into: &partial, limit: 65536), n > 0 else {
      isAlive = false
      return []
    }
    var found: [Message] = []
    var start = 0
    while let end = partial[start...].firstIndex(of: 0) {
      if let message = TodoLink.parse(partial[start..<end]) { found.append(message) }
      start = end + 1
    }
    partial.removeFirst(start)
    return found
  }

  static func parse(_ text: ArraySlice<UInt8>) -> Message? {
    switch text.first {
    case UInt8(ascii: "L"): return .log(Bytes(text.dropFirst()))
    case UInt8(ascii: "R"): return .ready
    case UInt8(ascii: "S"): return .scanDone
    case UInt8(ascii: "D"):
      guard text.count > 2, let number = text.dropFirst(2).decimal else { return nil }
      switch text[text.startIndex + 1] {
      case UInt8(ascii: "L"): return .queued(number, local: true, remote: false)
      case UInt8(ascii: "R"): return .queued(number, local: false, remote: true)
      case UInt8(ascii: "B"): return .queued(number, local: true, remote: true)
      case UInt8(ascii: "N"): return .queued(number, local: false, remote: false)
      default: return nil
      }
    default: return nil
    }
  }
}
