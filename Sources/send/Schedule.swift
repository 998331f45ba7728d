// When messages are due.

import QueueFormat

/// A message and the second from which on it is due.
struct Appointment {
  var time: Int64
  let number: MessageNumber
}

/// Messages by time, earliest first: a binary heap of 16 bytes a message.
struct Schedule {
  private var heap: [Appointment] = []

  var isEmpty: Bool { heap.isEmpty }
  var count: Int { heap.count }
  var first: Appointment? { heap.first }
  /// All, in no defined order.
  var all: [Appointment] { heap }

  mutating func insert(_ number: MessageNumber, at time: Int64) {
    heap.append(Appointment(time: time, number: number))
    rise(heap.count - 1)
  }

  /// Makes a message due earlier than it was; nothing if it is not here. Looks at all of them.
  mutating func advance(_ number: MessageNumber, to time: Int64) {
    guard let index = heap.firstIndex(where: { $0.number == number && $0.time > time }) else { return }
    heap[index].time = time
    rise(index)
  }

  private mutating func rise(_ start: Int) {
    var child = start
    while child > 0 {
      let parent = (child - 1) / 2
      if heap[parent].time <= heap[child].time { return }
      heap.swapAt(parent, child)
      child = parent
    }
  }

  /// Takes the earliest if it is due.
  mutating func take(dueAt now: Int64) -> MessageNumber? {
    guard let earliest = heap.first, earliest.time <= now else { return nil }
    let last = heap.removeLast()
    if !heap.isEmpty {
      heap[0] = last
      sink()
    }
    return earliest.number
  }

  private mutating func sink() {
    var parent = 0
    while true {
      var child = 2 * parent + 1
      guard child < heap.count else { return }
      if child + 1 < heap.count && heap[child + 1].time < heap[child].time { child += 1 }
      if heap[parent].time <= heap[child].time { return }
      heap.swapAt(parent, child)
      parent = child
    }
  }

  /// Makes everything due, as SIGALRM asks.
  mutating func advanceAll(to now: Int64) {
    // Whatever is later becomes `now`; that keeps every parent before its children.
    for i in heap.indices where heap[i].time > now { heap[i].time = now }
  }
}

/// The retry schedule (spec send.md 5).
enum Retry {
  /// The time of the next pass, fixed when a pass starts.
  /// - Parameters:
  ///   - birth: mtime of the info file.
  ///   - now: when the pass starts.
  static func next(birth: Int64, now: Int64, _ channel: Channel) -> Int64 {
    let age = max(0, now - birth)
    let step = squareRoot(age) + (channel == .local ? 10 : 20)
    return birth + step * step
  }

  /// The integer part.
  static func squareRoot(_ number: Int64) -> Int64 {
    var root: Int64 = 0
    var bit: Int64 = 1 << 31
    while bit != 0 {
      let trial = root | bit
      if trial <= 3_037_000_499 && trial * trial <= number { root = trial }
      bit >>= 1
    }
    return root
  }
}
