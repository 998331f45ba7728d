// rspawn: hands each remote delivery to a process of remote of its own.
//
// Between send and remote (spec pipes.md 3 and 5). Runs as apusr. What remote printed is reduced to one report.

import Bytes
import CShim
import Installation
import QueueFormat
import Spawner
import System

/// What rspawn does for one delivery.
struct RemoteDelivery: DeliveryPolicy {
  /// Arguments before host, sender and recipient: the program.
  let program: Bytes

  // remote limits itself.
  var outputLimit: Int? { nil }

  func execute(sender: Bytes, recipient: Bytes, at: Int) -> Int32 {
    let error = Child.executeByName([program, Bytes(recipient[(at + 1)...]), sender, recipient])
    return error.isTemporary ? 111 : 100
  }

  func report(status: ExitStatus, output: Bytes) -> Bytes {
    switch status {
    case .signalled: Bytes("Zqmail-remote crashed.\n")
    case .exited(0): remoteReport(output)
    case .exited(111): Bytes("ZUnable to run qmail-remote.\n")
    case .exited: Bytes("DUnable to run qmail-remote.\n")
    }
  }
}

/// Forgets which addresses did not answer: after a start every host deserves a try.
func clearTimeouts() throws(SystemError) {
  let file = try Descriptor.open(Installation.path("queue/lock/tcpto"), O_WRONLY)
  try file.lock(waiting: true)
  try file.write(Bytes(repeating: 0, count: TimeoutTable.size))
}

/// How rspawn ends; the same numbers are in rspawn(8).
enum Exit: Int32 {
  case done = 0
  case temporary = 111
}

func run() -> Exit {
  // Without the file remote works as well, it only waits more often.
  _ = try? clearTimeouts()
  let delivery = RemoteDelivery(program: Environment["QMAILREMOTE"] ?? Bytes("apus-remote"))
  return serve(delivery) == 0 ? .done : .temporary
}

Process.exit(run().rawValue)
