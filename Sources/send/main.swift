// send: schedules deliveries and speaks about them (spec send.md).
//
// Knows every message in the queue by its number and the time it is due; hands recipients to lspawn and rspawn, marks
// what they report, sends notices of failure, ends messages. Descriptors: 0 log, 1 and 2 to and from lspawn, 3 and 4
// rspawn, 5 and 6 clean, 7 and 8 todo (spec pipes.md 2). Opens no socket, runs no user's program.

import Bytes
import CShim
import Control
import Installation
import QueueFormat
import Routing
import System

/// How this program ends; the same numbers are in send(8).
enum Exit: Int32 {
  case done = 0
  case cannotStart = 111
}

/// What has to be known before the queue is touched.
struct Configuration {
  let settings: Settings
  let routing: Routing
  let warnings: [Bytes]

  /// - Returns: nil if a control file cannot be read, or nothing says what is local.
  static func read() -> Configuration? {
    do throws(ControlError) {
      var control = try Control()
      var routingFiles = control  // what is odd about these, todo says
      guard let routing = try? Routing(reading: &routingFiles) else { return nil }
      let bounceLimit = try control.number("control/bouncemaxbytes", 0)
      let doubleTo = try control.line("control/doublebounceto") ?? Bytes("postmaster")
      let doubleHost = try control.lineOrMe("control/doublebouncehost", "doublebouncehost")
      let bounce = BounceSettings(
        from: try control.line("control/bouncefrom") ?? Bytes("MAILER-DAEMON"),
        host: try control.lineOrMe("control/bouncehost", "bouncehost"),
        doubleBounceRecipient: doubleTo + Bytes("@") + doubleHost,
        limit: bounceLimit == 0 ? nil : Int64(clamping: bounceLimit))
      let local = try control.number("control/concurrencylocal", 10)
      let remote = try control.number("control/concurrencyremote", 20)
      let lifetime = try control.number("control/queuelifetime", 604800)
      let settings = Settings(
        bounce: bounce, concurrency: [Int(clamping: local), Int(clamping: remote)],
        lifetime: Int64(clamping: min(lifetime, 1 << 40)), rootless: Installation.users == nil)
      return Configuration(settings: settings, routing: routing, warnings: control.warnings)
    } catch { return nil }
  }
}

/// Says why there is nothing to be done, at once.
func refuse(_ why: StaticString) -> Exit {
  var log = Log()
  log.alert(why)
  return .cannotStart
}

func run() -> Exit {
  Signal.ignore(Signal.pipe)
  do throws(SystemError) { try Installation.changeToHome() } catch {
    return refuse("cannot start: unable to switch to home directory")
  }
  guard let configuration = Configuration.read() else { return refuse("cannot start: unable to read controls") }
  do throws(SystemError) { try Files.changeDirectory("queue") } catch {
    return refuse("cannot start: unable to switch to queue directory")
  }
  guard let signals = try? SignalQueue([Signal.terminate, Signal.alarm, Signal.hangup]) else {
    return refuse("cannot start: unable to catch signals")
  }
  Signal.restoreDefault(Signal.child)
  Process.setUmask(0o077)

  guard let mutex = try? Descriptor.open("lock/sendmutex", O_WRONLY) else {
    return refuse("cannot start: unable to open mutex")
  }
  do throws(SystemError) { try mutex.lock(waiting: false) } catch {
    return refuse("cannot start: qmail-send is already running")
  }
  _ = mutex.release()  // held until this process ends

  // None of them is meant for the programs that carry notices.
  for number in Int32(0)...8 { _ = sys_close_on_exec(number, 1) }
  let settings = configuration.settings
  let channels = [
    SpawnChannel(
      .local, commands: Descriptor.standard(1), reports: Descriptor.standard(2), concurrency: settings.concurrency[0]),
    SpawnChannel(
      .remote, commands: Descriptor.standard(3), reports: Descriptor.standard(4), concurrency: settings.concurrency[1]),
  ]
  for channel in channels where !channel.greet() {
    return refuse("cannot start: hath the daemon spawn no fire?")
  }
  let daemon = Daemon(settings: settings, routing: configuration.routing, channels: channels, signals: signals)
  for warning in configuration.warnings { daemon.log.line("warning: ", warning) }
  daemon.run()
  return .done
}

Process.exit(run().rawValue)
