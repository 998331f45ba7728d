import Bytes
import Testing

@testable import QueueFormat

/// The file after a change.
private func applying(_ change: TimeoutTable.Change?, to file: Bytes) -> Bytes {
  guard let change else { return file }
  var file = file
  file.replaceSubrange(Int(change.offset)..<Int(change.offset) + 16, with: change.record)
  return file
}

@Suite struct TimeoutTableTests {
  private let empty = Bytes(repeating: 0, count: 1024)
  private let address: Bytes = [192, 0, 2, 1]

  @Test("a record as qmail writes it")
  func bytes() {
    let change = TimeoutTable(empty).timedOut(address, now: 0x1234_5678)
    #expect(change?.offset == 0)
    #expect(change?.record == [192, 0, 2, 1, 1, 0, 0, 0, 0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0])
  }

  @Test("blocked from the second time-out on, for an hour and a little that depends on the pid")
  func blocking() {
    var file = applying(TimeoutTable(empty).timedOut(address, now: 1000), to: empty)
    #expect(TimeoutTable(file).knows(address))
    #expect(!TimeoutTable(file).isBlocked(address, now: 1001, pid: 0))
    file = applying(TimeoutTable(file).timedOut(address, now: 1120), to: file)
    for (pid, seconds) in [(Int32(0), Int64(3840)), (31, 5824), (32, 3840), (63, 5824)] {
      #expect(TimeoutTable(file).isBlocked(address, now: 1120 + seconds - 1, pid: pid))
      #expect(!TimeoutTable(file).isBlocked(address, now: 1120 + seconds, pid: pid))
    }
    #expect(!TimeoutTable(file).isBlocked([192, 0, 2, 2], now: 1121, pid: 0))
  }

  @Test("time-outs within 120 seconds count once, and ten is the most")
  func counting() {
    var file = applying(TimeoutTable(empty).timedOut(address, now: 1000), to: empty)
    #expect(TimeoutTable(file).timedOut(address, now: 1119) == nil)
    for i in 1...20 { file = applying(TimeoutTable(file).timedOut(address, now: 1000 + Int64(i) * 120), to: file) }
    #expect(file[4] == 10)
  }

  @Test("an answer clears the count, and nothing is written for the unknown")
  func answers() {
    #expect(TimeoutTable(empty).answered(address) == nil)
    let file = applying(TimeoutTable(empty).timedOut(address, now: 1000), to: empty)
    let change = TimeoutTable(file).answered(address)
    #expect(change?.record.prefix(5) == [192, 0, 2, 1, 0])
    let cleared = applying(change, to: file)
    #expect(TimeoutTable(cleared).answered(address) == nil)
    // Its record is used again, for the same address at once.
    #expect(TimeoutTable(cleared).timedOut(address, now: 1001)?.offset == 0)
  }

  @Test("a full table gives up the record with the smallest time + 1024 × count")
  func replacing() {
    var file = empty
    for i in 0..<64 {
      file = applying(TimeoutTable(file).timedOut([10, 0, 0, UInt8(i)], now: 5000 + Int64(i)), to: file)
    }
    // The first, the oldest, counts twice and so outweighs the others.
    file = applying(TimeoutTable(file).timedOut([10, 0, 0, 0], now: 5200), to: file)
    let change = TimeoutTable(file).timedOut(address, now: 6000)
    #expect(change?.offset == 16)
    #expect(change?.record.prefix(5) == [192, 0, 2, 1, 1])
  }

  @Test("files of any length are read, and never written beyond their end", arguments: 0...33)
  func length(count: Int) {
    let table = TimeoutTable(Bytes(repeating: 0, count: count))
    let change = table.timedOut(address, now: 1000)
    #expect((change == nil) == (count < 16))
    #expect(!table.isBlocked(address, now: 1000, pid: 0))
  }
}
