// lspawn: runs local for every recipient of this machine, with the recipient's rights and no others.
//
// `apus-lspawn defaultdelivery`, started as root: commands of send on descriptor 0, reports on 1 (spec pipes.md 3 and 4).
// For each delivery a child finds the recipient's account in users/cdb, or else asks getpw, drops every privilege and
// becomes local. In a rootless installation there is one user for everything and nothing to drop. Addresses come from
// strangers; getpw, which parses them, is no more trusted than its answer's form.

import Bytes
import CDB
import CShim
import Installation
import Spawner
import System

/// How this program ends; the same numbers are in lspawn(8).
enum Exit: Int32 {
  /// send closed the commands and the last delivery has ended.
  case done = 0
  case misuse = 100
  case temporary = 111
}

/// Exit status of a child that did not become local, and what send is told about it.
enum Refusal: Int32 {
  case bug = 112
  case root = 113
  /// getpw could not look at a home directory.
  case homeTrouble = 115
  case noAliasUser = 116
  case tableTrouble = 117
  case systemTrouble = 118
  case noMemory = 119
  case cannotRunLocalNow = 120
  case cannotRunGetpw = 121
  case cannotRunLocal = 126

  var report: StaticString {
    switch self {
    case .bug: "ZInternal qmail-lspawn bug.\n"
    case .root: "ZNot allowed to perform deliveries as root.\n"
    case .homeTrouble: "ZNFS failure in qmail-local.\n"
    case .noAliasUser: "ZUnable to find alias user!\n"
    case .tableTrouble: "ZTrouble reading users/cdb in qmail-lspawn.\n"
    case .systemTrouble: "ZTemporary failure in qmail-lspawn.\n"
    case .noMemory: "ZOut of memory in qmail-lspawn.\n"
    case .cannotRunLocalNow: "ZUnable to run qmail-local.\n"
    case .cannotRunGetpw: "ZUnable to run qmail-getpw.\n"
    case .cannotRunLocal: "DUnable to run qmail-local.\n"
    }
  }
}

/// Ends a child before it becomes local.
struct Stop: Error {
  let status: Int32

  init(_ refusal: Refusal) { status = refusal.rawValue }
  init(status: Int32) { self.status = status }
}

// Lookup, in the child, with home as the current directory

/// What users/cdb says. - Returns: nil if there is no such file or it does not assign the address.
func assigned(_ local: Bytes) throws(Stop) -> Assignment? {
  guard let table = try openTable() else { return nil }
  do throws(LookupFault) {
    return try assignment(of: local) { key throws(SystemError) in try table.value(for: key) }
  } catch { throw Stop(.tableTrouble) }
}

func openTable() throws(Stop) -> CDB? {
  do throws(SystemError) { return try CDB("users/cdb") } catch {
    if error.isAbsence { return nil }
    throw Stop(.tableTrouble)
  }
}

/// What the accounts of this machine say.
func askGetpw(_ local: Bytes) throws(Stop) -> Assignment {
  let answer: Bytes
  let status: ExitStatus
  do throws(SystemError) {
    let null = try Descriptor.open("/dev/null", O_RDWR)
    let pipe = try Pipe()
    let writing = pipe.writing.number
    // Neither the message nor the report is its business.
    let descriptors = [
      (from: null.number, to: Int32(0)), (from: writing, to: Int32(1)), (from: null.number, to: Int32(2)),
    ]
    let child = try Child.start { becomeGetpw(local, descriptors) }
    answer = try pipe.takeReading().readToEnd(limit: 65536)
    status = try Child.wait(child)
  } catch { throw Stop(.systemTrouble) }

  guard case .exited(let code) = status else { throw Stop(.systemTrouble) }
  guard code == 0 else { throw Stop(status: code) }
  guard let assignment = Assignment(answer) else { throw Stop(.bug) }
  return assignment
}

func becomeGetpw(_ local: Bytes, _ descriptors: [(from: Int32, to: Int32)]) -> Int32 {
  do throws(SystemError) {
    try Child.install(descriptors)
    if let users = Installation.users {
      try Process.become(uid: users.lookup, gid: users.nofiles, groups: [users.nofiles])
    }
  } catch { return Refusal.bug.rawValue }
  _ = Child.execute("bin/apus-getpw", [Bytes("bin/apus-getpw"), local])
  return Refusal.cannotRunGetpw.rawValue
}

// Delivery

/// Privileges are dropped for good: nothing of lspawn's is left when local starts.
func become(_ assignment: Assignment) throws(Stop) {
  guard Installation.users != nil else { return }
  do throws(SystemError) {
    try Process.become(uid: assignment.uid, gid: assignment.gid, groups: [assignment.gid])
  } catch { throw Stop(.bug) }
  if Process.uid == 0 { throw Stop(.root) }
}

/// - Parameter at: index of the last `@` in `recipient`.
/// - Returns: only if local could not be started.
func becomeLocal(sender: Bytes, recipient: Bytes, at: Int, defaultDelivery: Bytes) throws(Stop) -> SystemError {
  do throws(SystemError) { try Installation.changeToHome() } catch { throw Stop(.systemTrouble) }
  let local = Bytes(recipient[..<at])
  guard !local.isEmpty else { throw Stop(status: 0) }
  let known = try assigned(local)
  let assignment = if let known { known } else { try askGetpw(local) }
  try become(assignment)
  return Child.execute(
    "bin/apus-local",
    [
      Bytes("bin/apus-local"), Bytes("--"), assignment.user, assignment.home, local, assignment.dash, assignment.ext,
      Bytes(recipient[(at + 1)...]), sender, defaultDelivery,
    ])
}

/// The two halves of a delivery that Spawner leaves to us.
struct LocalDelivery: DeliveryPolicy {
  let defaultDelivery: Bytes
  let outputLimit: Int? = 3000

  func execute(sender: Bytes, recipient: Bytes, at: Int) -> Int32 {
    let error: SystemError
    do throws(Stop) {
      error = try becomeLocal(sender: sender, recipient: recipient, at: at, defaultDelivery: defaultDelivery)
    } catch { return error.status }
    return (error.isTemporary ? Refusal.cannotRunLocalNow : Refusal.cannotRunLocal).rawValue
  }

  func report(status: ExitStatus, output: Bytes) -> Bytes {
    guard case .exited(let code) = status else { return Bytes("Zqmail-local crashed.\n") }
    if let refusal = Refusal(rawValue: code) { return Bytes(refusal.report) }
    let text = output.prefix { $0 != 0 }
    switch code {
    case 0: return Bytes("K") + text
    case 111, 71, 74, 75: return Bytes("Z") + text
    default: return Bytes("D") + text
    }
  }
}

func run() -> Int32 {
  guard let defaultDelivery = Process.arguments.first else { return Exit.misuse.rawValue }
  return serve(LocalDelivery(defaultDelivery: defaultDelivery))
}

Process.exit(run())
