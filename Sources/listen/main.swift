// listen: accepts connections and starts one program for each.
//
// Binds the places that control/listen names, or takes the sockets that a service manager handed down, gives up root, and
// then only counts, looks rules up and starts programs, with the connection as descriptors 0 and 1 and its
// description in the environment (spec pipes.md 8). It never reads from a connection. HUP rereads rules and limits; TERM
// stops accepting and waits for the conversations to end; a second TERM does not wait. The log goes to descriptor 2.

import Bytes
import CShim
import Control
import Installation
import System

/// How this program ends; the same numbers are in listen(8).
enum Exit: Int32 {
  /// After TERM.
  case done = 0
  /// It takes no arguments.
  case misuse = 100
  /// It cannot start; the log says why.
  case failed = 111
}

/// Why it cannot start; already in the log.
struct Failure: Error {}

func log(_ event: StaticString, _ fill: (inout LogLine) -> Void = { _ in }) {
  var line = LogLine("listen")
  line.add("event", event)
  fill(&line)
  Log.write(line)
}

func failure(_ what: StaticString, _ error: SystemError) -> Failure {
  log("failed") {
    $0.add("what", what)
    $0.add("call", error.call)
    $0.add("error", error.text)
  }
  return Failure()
}

func failure(_ error: ControlError) -> Failure { failure(error.file, error.cause) }

func warn(_ text: Bytes) { log("warning") { $0.add("text", text) } }

/// A bound socket.
struct Listener {
  let socket: Int32
  let service: Service
}

// MARK: Start

/// What control/listen names; without it the customary place.
func places() throws(Failure) -> [Place] {
  let lines: [Bytes]?
  do throws(ControlError) {
    var control = try Control()
    lines = try control.list("control/listen")
    for warning in control.warnings { warn(warning) }
  } catch {
    throw failure(error)
  }
  guard let lines else {
    if Installation.users == nil { return [Place(service: .smtp, address: Bytes("127.0.0.1"), port: 2525)] }
    return [Place(service: .smtp, address: Bytes("0.0.0.0"), port: 25)]
  }
  var places: [Place] = []
  for line in lines {
    do throws(Place.Fault) {
      places.append(try Place(line))
    } catch {
      log("refused") {
        $0.add("file", "control/listen")
        $0.add("line", line)
        $0.add("reason", error.text)
      }
    }
  }
  return places
}

func bind(_ place: Place) throws(Failure) -> Listener {
  do throws(SystemError) {
    let socket = try Socket.listen(place.address, port: place.port, backlog: 128)
    log("ready") {
      $0.add("service", place.service.name)
      $0.add("address", place.address)
      $0.add("port", place.port)
    }
    return Listener(socket: socket.release(), service: place.service)
  } catch {
    log("failed") {
      $0.add("address", place.address)
      $0.add("port", place.port)
      $0.add("error", error.text)
    }
    throw Failure()
  }
}

/// The sockets a service manager handed down; a name that is no service's is taken for smtp's.
func handedDown() throws(Failure) -> [Listener] {
  let sockets = HandedDown.sockets(
    fds: Environment["LISTEN_FDS"], pid: Environment["LISTEN_PID"], names: Environment["LISTEN_FDNAMES"],
    process: Process.pid)
  Environment.unset("LISTEN_FDS")
  Environment.unset("LISTEN_PID")
  Environment.unset("LISTEN_FDNAMES")
  var listeners: [Listener] = []
  for (number, name) in sockets {
    var service = Service.smtp
    do throws(Service.Fault) {
      if let name { service = try Service(name[...]) }
    } catch .needsTLS {
      log("refused") {
        $0.add("socket", number)
        $0.add("reason", Place.Fault.service(.needsTLS).text)
      }
      continue
    } catch {}
    let socket = Descriptor(owning: number)
    do throws(SystemError) {
      try socket.setNonblocking()
      try socket.setCloseOnExec()
    } catch {
      throw failure("socket handed down", error)
    }
    listeners.append(Listener(socket: socket.release(), service: service))
    log("ready") {
      $0.add("service", service.name)
      $0.add("socket", number)
    }
  }
  return listeners
}

/// From root to the network's user, for good.
func giveUpRoot() throws(Failure) {
  guard let users = Installation.users, Process.effectiveUid != users.network else { return }
  do throws(SystemError) {
    try Process.become(uid: users.network, gid: users.nofiles, groups: [users.nofiles])
  } catch {
    throw failure("giving up root", error)
  }
}

/// What HUP rereads.
struct Policy {
  let rules: Rules
  let limit: Int
  let limitPerAddress: Int
  /// `control/me`: what this server calls itself in Received lines.
  let ownName: Bytes?

  init() throws(Failure) {
    let lines: [Bytes]
    do throws(ControlError) {
      var control = try Control()
      ownName = control.me
      lines = try control.list(Service.smtp.rules) ?? []
      limit = Int(min(try control.number("control/concurrencyincoming", 20), 100_000))
      limitPerAddress = Int(min(try control.number("control/concurrencyperip", 0), 100_000))
      for warning in control.warnings { warn(warning) }
    } catch {
      throw failure(error)
    }
    do throws(Rules.Fault) {
      rules = try Rules(lines)
    } catch {
      log("failed") {
        $0.add("file", Service.smtp.rules)
        $0.add("line", error.line)
        $0.add("reason", error.what)
      }
      throw Failure()
    }
    for line in rules.idle { warn(Bytes(Service.smtp.rules) + Bytes(": can never fit: ") + line) }
  }
}

// MARK: Connections

/// Runs in the child: the connection's description, then the program. - Returns: only if that failed.
func serve(
  _ connection: Int32, _ ends: Endpoints, _ rule: Rules.Rule, _ service: Service, _ ownName: Bytes?
) -> Int32 {
  do throws(SystemError) { try Child.install([(connection, 0), (connection, 1)]) } catch {
    _ = failure("connection", error)
    return Exit.failed.rawValue
  }
  Environment.set("PROTO", Bytes(Socket.family(of: ends.peer) == 6 ? "TCP6" : "TCP"))
  Environment.set("TCPREMOTEIP", ends.peer)
  Environment.set("TCPREMOTEPORT", Bytes(decimal: ends.peerPort))
  Environment.set("TCPLOCALIP", ends.local)
  Environment.set("TCPLOCALPORT", Bytes(decimal: ends.localPort))
  // No name is looked up; what our own caller had there is about something else.
  Environment.unset("TCPREMOTEHOST")
  Environment.unset("TCPREMOTEINFO")
  if let ownName { Environment.set("TCPLOCALHOST", ownName) } else { Environment.unset("TCPLOCALHOST") }
  for variable in rule.variables {
    _ = variable.name.withCString { name in variable.value.withCString { shim_setenv(name, $0) } }
  }
  let program = Installation.path(service.program)
  let error = Child.execute(program, [program.bytes])
  _ = failure(service.program, error)
  return Exit.failed.rawValue
}

/// The listening sockets, and what came through them.
struct House {
  private let listeners: [Listener]
  private var policy: Policy
  private var crowd: Crowd
  private var isClosing = false
  /// Monotonic milliseconds: no connection is accepted before, because the machine has no room.
  private var pausedUntil: Int64 = 0

  /// How long to wait when descriptors, processes or memory have run out.
  private static let pause: Int64 = 1000
  /// Most connections taken from one socket before signals are looked at again.
  private static let batch = 64

  init(_ listeners: [Listener], _ policy: Policy) {
    self.listeners = listeners
    self.policy = policy
    crowd = Crowd(limit: policy.limit, limitPerAddress: policy.limitPerAddress)
  }

  /// Until TERM has come and nobody is left.
  mutating func run(_ signals: borrowing SignalQueue) throws(SystemError) {
    var wait = Wait()
    while !(isClosing && crowd.count == 0) {
      let now = Clock.monotonicMilliseconds()
      let isOpen = !isClosing && !crowd.isFull && now >= pausedUntil
      wait.reset()
      let signal = wait.read(signals.number)
      if isOpen { for listener in listeners { wait.read(listener.socket) } }
      try wait.wait(milliseconds: pausedUntil > now ? pausedUntil - now : nil)
      if wait.isReady(signal) {
        while let number = try signals.next() { if try handle(number) == .leave { return } }
      }
      guard isOpen, !isClosing else { continue }
      for (index, listener) in listeners.enumerated() where wait.isReady(signal + 1 + index) {
        try accept(from: listener)
      }
    }
  }

  private enum Next { case stay, leave }

  private mutating func handle(_ signal: Int32) throws(SystemError) -> Next {
    switch signal {
    case Signal.child:
      while let (pid, status) = Child.reap() { end(pid, status) }
    case Signal.hangup:
      do throws(Failure) {
        policy = try Policy()
        crowd.limit = policy.limit
        crowd.limitPerAddress = policy.limitPerAddress
        log("reread")
      } catch {
        log("kept") { $0.add("reason", "the old rules and limits stand") }
      }
    case Signal.terminate:
      if isClosing { return .leave }
      isClosing = true
      for listener in listeners { _ = Descriptor(owning: listener.socket) }  // closed at once
      log("closing") { $0.add("connections", crowd.count) }
    default: break
    }
    return .stay
  }

  private mutating func accept(from listener: Listener) throws(SystemError) {
    for _ in 0..<House.batch where !crowd.isFull {
      do throws(SystemError) {
        guard let (number, ends) = try Socket.accept(listener.socket) else { return }
        try receive(Descriptor(owning: number), ends, listener.service)
      } catch {
        if error.code == EBADF || error.code == ENOTSOCK || error.code == EINVAL { throw error }
        // EMFILE and its kin leave the connection waiting: asking again at once would only burn time. All else is one
        // connection's trouble (accept(2), "Error handling").
        pausedUntil = Clock.monotonicMilliseconds() + House.pause
        log("paused") {
          $0.add("call", error.call)
          $0.add("error", error.text)
        }
        return
      }
    }
  }

  private mutating func receive(_ socket: consuming Descriptor, _ ends: Endpoints, _ service: Service)
    throws(SystemError)
  {
    let rule = policy.rules.rule(for: ends.peer)
    guard rule.allows else {
      log("denied") { $0.add("peer", ends.peer) }
      return
    }
    guard crowd.hasRoom(for: ends.peer) else {
      // A new connection has room for one line; if it has not, we do not wait.
      try? socket.setNonblocking()
      _ = try? socket.writeSome(Bytes("421 too many connections from your address (#4.7.0)\r\n")[...])
      log("crowded") { $0.add("peer", ends.peer) }
      return
    }
    let number = socket.number
    let ownName = policy.ownName
    let pid = try Child.start { serve(number, ends, rule, service, ownName) }
    crowd.enter(pid, Connection(peer: ends.peer, start: Clock.monotonicMilliseconds()))
    log("start") {
      $0.add("pid", pid)
      $0.add("service", service.name)
      $0.add("peer", ends.peer)
      $0.add("port", ends.peerPort)
      $0.add("local", ends.local)
      $0.add("localport", ends.localPort)
      $0.add("connections", crowd.count)
      $0.add("limit", crowd.limit)
    }
  }

  private mutating func end(_ pid: Int32, _ status: ExitStatus) {
    guard let connection = crowd.leave(pid) else { return }
    log("end") {
      $0.add("pid", pid)
      $0.add("peer", connection.peer)
      switch status {
      case .exited(let code): $0.add("status", code)
      case .signalled(let number): $0.add("signal", number)
      }
      $0.add("milliseconds", Clock.monotonicMilliseconds() - connection.start)
      $0.add("connections", crowd.count)
    }
  }
}

/// Everything before the first connection.
func open() throws(Failure) -> House {
  do throws(SystemError) { try Installation.changeToHome() } catch { throw failure("home", error) }
  var listeners = try handedDown()
  if listeners.isEmpty {
    for place in try places() { listeners.append(try bind(place)) }
  }
  if listeners.isEmpty {
    log("failed") { $0.add("reason", "there is no place to listen at") }
    throw Failure()
  }
  try giveUpRoot()
  return House(listeners, try Policy())
}

func run() -> Exit {
  guard Process.arguments.isEmpty else { return .misuse }
  Signal.ignore(Signal.pipe)
  Signal.restoreDefault(Signal.child)
  do throws(Failure) {
    var house = try open()
    do throws(SystemError) {
      let signals = try SignalQueue([Signal.child, Signal.hangup, Signal.terminate])
      try house.run(signals)
    } catch {
      throw failure("running", error)
    }
    return .done
  } catch {
    return .failed
  }
}

Process.exit(run().rawValue)
