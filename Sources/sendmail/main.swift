// sendmail: the command that programs expect under this name, in front of inject (apus-sendmail(8), spec inject.md 8).
//
// Understands sendmail's options as far as they mean something here, sets inject's environment accordingly and becomes
// inject; for `-bs` it becomes smtpd, for `-bp` and under the name `mailq` it becomes qread. Reads no mail itself.

import Bytes
import Installation
import System

/// How this program ends when it does not become another one.
enum Exit: Int32 {
  case done = 0
  case permanent = 100
  case temporary = 111
}

/// What the command line asks for.
struct CommandLine {
  enum Mode { case send, listQueue, smtp, newAliases }

  var mode = Mode.send
  var readsHeader = false
  /// From `-f` or `-r`, without angle brackets.
  var sender: Bytes?
  /// From `-F`.
  var name: Bytes?
  /// `-q` or `-C`, which ask for something that does not exist here.
  var ignored: [UInt8] = []
  var recipients: [Bytes] = []

  /// nil if it is wrong.
  init?(name program: Bytes, _ arguments: [Bytes]) {
    let base = program.split(separator: .ascii("/")).last ?? []
    if base.equals("mailq") { mode = .listQueue }
    if base.equals("newaliases") { mode = .newAliases }

    var options = Options(arguments)
    while let letter = options.next() {
      switch letter {
      case .ascii("t"): readsHeader = true
      case .ascii("f"), .ascii("r"):
        guard let value = options.value() else { return nil }
        sender = CommandLine.withoutBrackets(value)
      case .ascii("F"):
        guard let value = options.value() else { return nil }
        name = value
      case .ascii("b"):
        guard let value = options.value(), setMode(value) else { return nil }
      // Options that change nothing here. First those with a value, then those without, then those that swallow the
      // rest of their word.
      case .ascii("B"), .ascii("p"), .ascii("o"), .ascii("e"), .ascii("N"), .ascii("R"), .ascii("V"), .ascii("O"),
        .ascii("L"):
        guard options.value() != nil else { return nil }
      case .ascii("C"):
        guard options.value() != nil else { return nil }
        ignored.append(letter)
      case .ascii("i"), .ascii("m"), .ascii("v"), .ascii("x"), .ascii("U"), .ascii("G"): break
      case .ascii("E"), .ascii("J"): _ = options.attachedValue()
      case .ascii("q"):
        _ = options.attachedValue()
        ignored.append(letter)
      default: return nil
      }
    }
    recipients = options.operands
  }

  private mutating func setMode(_ value: Bytes) -> Bool {
    switch value.first {
    case .ascii("m"): return true
    case .ascii("p"): mode = .listQueue
    case .ascii("s"): mode = .smtp
    case .ascii("i"): mode = .newAliases
    default: return false
    }
    return true
  }

  /// `<>` is how others write the empty sender, and `<a@b>` is `a@b`.
  private static func withoutBrackets(_ address: Bytes) -> Bytes {
    guard address.first == .ascii("<"), address.last == .ascii(">") else { return address }
    return Bytes(address.dropFirst().dropLast())
  }

  /// Whether only the queue shall be run, which needs no command here.
  var onlyRunsQueue: Bool { ignored.contains(.ascii("q")) && !readsHeader && recipients.isEmpty && mode == .send }

  /// What inject is called with.
  var injectArguments: [Bytes] {
    var arguments = [Bytes("bin/apus-inject"), Bytes(readsHeader ? "-H" : "-a")]
    if let sender { arguments += [Bytes("-f"), sender] }
    return arguments + [Bytes("--")] + recipients
  }
}

func say(_ text: StaticString) {
  let error = Descriptor.standard(2)
  try? error.write(Bytes("sendmail: ") + Bytes(text) + [.lf])
  _ = error.release()
}

/// The sender named on the command line is also the author of a new From.
func setAuthor(_ commandLine: CommandLine) {
  if let sender = commandLine.sender {
    Environment.unset("QMAILNAME")
    Environment.unset("MAILNAME")
    Environment.unset("NAME")
    Environment.unset("QMAILHOST")
    Environment.unset("MAILHOST")
    let at = sender.lastIndex(of: .ascii("@"))
    // An empty sender has no name that an author could be given; the caller's stays.
    if !sender.isEmpty { Environment.set("QMAILUSER", Bytes(sender[..<(at ?? sender.endIndex)])) }
    if let at { Environment.set("QMAILHOST", Bytes(sender[(at + 1)...])) }
  }
  if let name = commandLine.name { Environment.set("MAILNAME", name) }
}

/// What tcpserver would say of a connection from this machine; the client may send anywhere.
func setConnection() {
  guard Environment["PROTO"] == nil else { return }
  Environment.set("RELAYCLIENT", [])
  Environment.set("DATABYTES", Bytes("0"))
  Environment.set("PROTO", Bytes("TCP"))
  Environment.set("TCPLOCALIP", Bytes("127.0.0.1"))
  Environment.set("TCPLOCALHOST", Bytes("localhost"))
  Environment.set("TCPREMOTEIP", Bytes("127.0.0.1"))
  Environment.set("TCPREMOTEHOST", Bytes("localhost"))
  Environment.set("TCPREMOTEINFO", Bytes("sendmail-bs"))
}

/// Becomes another program of this installation. - Returns: only if that failed.
func become(_ arguments: [Bytes]) -> Exit {
  _ = Child.execute(Path(arguments[0]), arguments)
  say("fatal: unable to run the program that does the work")
  return .temporary
}

func run() -> Exit {
  guard let commandLine = CommandLine(name: Process.name, Process.arguments) else {
    say("usage: sendmail [-t] [-f sender] [-F name] [-bp] [-bs] [recip ...]")
    return .permanent
  }
  do throws(SystemError) { try Installation.changeToHome() } catch {
    say("fatal: unable to switch to home directory")
    return .temporary
  }
  for letter in commandLine.ignored {
    say(letter == .ascii("q") ? "warning: -q ignored: the queue runs by itself" : "warning: -C ignored")
  }
  if commandLine.onlyRunsQueue { return .done }

  switch commandLine.mode {
  case .newAliases:
    say("fatal: no aliases database to rebuild: local addresses are defined by .qmail files")
    return .permanent
  case .listQueue: return become([Bytes("bin/apus-qread")])
  case .smtp:
    setConnection()
    return become([Bytes("bin/apus-smtpd")])
  case .send:
    setAuthor(commandLine)
    return become(commandLine.injectArguments)
  }
}

Process.exit(run().rawValue)
