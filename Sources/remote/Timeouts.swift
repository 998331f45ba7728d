// What is known about addresses that do not answer: queue/lock/tcpto (spec smtp.md 12).

import Bytes
import CShim
import QueueFormat
import System

/// What all runs of remote share. A file that is missing or cannot be read or locked means: nothing is known.
struct Timeouts {
  private static var path: Path { "queue/lock/tcpto" }

  /// Whether the address shall be passed over now, and whether there is a record of it.
  func look(up address: Bytes) -> (isBlocked: Bool, isKnown: Bool) {
    guard let ipv4 = ipv4Bytes(address) else { return (false, false) }
    do throws(SystemError) {
      let lock = try Descriptor.open(Timeouts.path, O_WRONLY)
      try lock.lock(waiting: true)
      let table = try Timeouts.table()
      return (table.isBlocked(ipv4, now: Clock.now(), pid: Process.pid), table.knows(ipv4))
    } catch {
      return (false, false)
    }
  }

  /// The address answered, if only with a refusal.
  func answered(_ address: Bytes) { change(address) { table, ipv4 in table.answered(ipv4) } }

  /// A connection to the address timed out.
  func timedOut(_ address: Bytes) { change(address) { table, ipv4 in table.timedOut(ipv4, now: Clock.now()) } }

  private func change(_ address: Bytes, _ decide: (TimeoutTable, Bytes) -> TimeoutTable.Change?) {
    guard let ipv4 = ipv4Bytes(address) else { return }
    do throws(SystemError) {
      let file = try Descriptor.open(Timeouts.path, O_WRONLY)
      try file.lock(waiting: true)
      if let change = decide(try Timeouts.table(), ipv4) { try file.write(change.record, at: change.offset) }
    } catch {}
  }

  private static func table() throws(SystemError) -> TimeoutTable {
    TimeoutTable(try Descriptor.open(path, O_RDONLY).read(at: 0, limit: TimeoutTable.size))
  }
}
