// remote: carries one message to one host by SMTP.
//
// Called as `remote host sender recipient ...` with the message on descriptor 0. Finds the host's mail exchangers, or
// the relay that control/smtproutes names, talks to the first that answers, and prints records, each ended by NUL: one
// for each recipient tried (r, s, h), then one for the message (K, Z, D). Runs as apusr and opens nothing but control
// files and lock/tcpto (spec smtp.md 8 to 12, pipes.md 5).

import Bytes
import CShim
import Control
import Installation
import System

/// How remote ends; the same number is in remote(8). What became of the message is in the records.
enum Exit: Int32 { case done = 0 }

/// What the control files say.
struct Settings {
  let ownName: Bytes
  let routes: ControlMap
  /// In milliseconds.
  let connectTimeout: Int64
  let dialogTimeout: Int64
  /// Whom to ask for names; none: as resolv.conf says.
  let nameServers: [(address: Bytes, port: UInt32)]

  /// Why remote refuses to work: a file that cannot be read or lacks what must be there.
  struct Fault: Error {}

  init() throws(Fault) {
    do throws(ControlError) {
      var control = try Control()
      guard let name = try control.line("control/helohost") ?? control.me, !name.isEmpty else {
        throw ControlError(file: "control/me", cause: SystemError("open", code: ENOENT))
      }
      // Goes out as a command's argument, which a stray CR of the file must not end; a name is ASCII.
      ownName = name.map { $0 <= 32 || $0 >= 127 ? .ascii("?") : $0 }
      routes = ControlMap(try control.list("control/smtproutes") ?? [])
      connectTimeout = Settings.milliseconds(try control.number("control/timeoutconnect", 60))
      dialogTimeout = Settings.milliseconds(try control.number("control/timeoutremote", 1200))
      let servers = try control.list("control/dnsservers") ?? []
      nameServers = servers.compactMap(nameServer)
      if nameServers.isEmpty && !servers.isEmpty {
        throw ControlError(file: "control/dnsservers", cause: SystemError("open", code: EINVAL))
      }
    } catch {
      throw Fault()
    }
  }

  private static func milliseconds(_ seconds: UInt64) -> Int64 { Int64(min(max(seconds, 1), 86400)) * 1000 }
}

/// Prints a record. A reader that has gone is no reason to stop: the server may have the message already.
func say(_ record: Bytes) {
  let output = Descriptor.standard(1)
  _ = try? output.write(record)
  _ = output.release()
}

/// The addresses to try for a host, best first, and their port.
func targets(for host: Bytes, _ settings: Settings) throws(Refusal) -> (targets: [Target], port: UInt32) {
  let route: Route
  do throws(Route.Fault) { route = try Route(to: host, routes: settings.routes) } catch { throw .controls }
  guard let resolver = Resolver(servers: settings.nameServers) else { throw .resources }
  let exchangers = MailExchangers(names: resolver, shuffle: shuffled)
  switch route {
  case .relay(let relay, let port):
    do throws(RoutingFailure) { return (try exchangers.targets(ofHost: relay), port) } catch {
      throw .routing(error, host: relay)
    }
  case .mailExchangers:
    let all: [Target]
    do throws(RoutingFailure) { all = try exchangers.targets(ofDomain: host) } catch {
      throw .routing(error, host: host)
    }
    var own: Set<Bytes> = []
    do throws(SystemError) {
      for target in all where try Socket.isOwn(target.address) { own.insert(target.address) }
    } catch { throw .resources }
    do throws(RoutingFailure) { return (try withoutOwn(all) { own.contains($0) }, Route.defaultPort) } catch {
      throw .routing(error, host: host)
    }
  }
}

/// Tries one address after the other until one of them was told about the message.
/// - Returns: the record of the message.
func deliver(_ envelope: Envelope, to targets: [Target], port: UInt32, _ settings: Settings) throws(Refusal) -> Bytes {
  let timeouts = Timeouts()
  let text = MessageFile(.standard(0))
  var unready: Bytes?
  for target in targets {
    let (isBlocked, isKnown) = timeouts.look(up: target.address)
    if isBlocked { continue }
    let socket: Descriptor
    do throws(SystemError) {
      socket = try Socket.connect(to: target.address, port: port, milliseconds: settings.connectTimeout)
    } catch {
      if error.code == ETIMEDOUT {
        timeouts.timedOut(target.address)
      } else if isKnown {
        timeouts.answered(target.address)
      }
      if [EMFILE, ENFILE, ENOBUFS, ENOMEM].contains(error.code) { throw .resources }
      continue
    }
    if isKnown { timeouts.answered(target.address) }
    var dialog = Dialog(
      with: target.address, over: Connection(socket, timeout: settings.dialogTimeout), as: settings.ownName,
      sending: text, envelope: envelope, report: say)
    switch dialog.run() {
    case .final(let record): return record
    case .elsewhere(let record): unready = unready ?? record
    }
  }
  return unready ?? Bytes("ZSorry, I wasn't able to establish an SMTP connection. (#4.4.1)\n")
}

/// All the work. - Returns: the record of the message.
func attempt() throws(Refusal) -> Bytes {
  let arguments = Process.arguments
  guard arguments.count >= 3 else { throw .usage }
  Signal.ignore(Signal.pipe)
  do throws(SystemError) { try Installation.changeToHome() } catch { throw .home }
  let settings: Settings
  do throws(Settings.Fault) { settings = try Settings() } catch { throw .controls }
  let envelope = Envelope(sender: arguments[1], recipients: Array(arguments[2...]))
  guard isSpeakable(envelope.sender) else { throw .sender }
  let (targets, port) = try targets(for: arguments[0], settings)
  return try deliver(envelope, to: targets, port: port, settings)
}

func run() -> Exit {
  let record: Bytes
  do throws(Refusal) { record = try attempt() } catch { record = error.record }
  say(record + [0])
  return .done
}

Process.exit(run().rawValue)
