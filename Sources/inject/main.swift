// inject: a message from a person or a script, made whole and put into the queue (apus-inject(8), spec inject.md).
//
// Reads an RFC 5322 message on descriptor 0, completes its addresses, adds the fields it lacks, takes sender and
// recipients from header, arguments and environment, and hands all to the queue program. Runs as the caller and has
// no other rights than the caller's, so what the caller says about himself is believed. The header is kept in
// memory up to HeaderParser.sizeLimit; the body only passes through.

import Bytes
import Control
import Injection
import Installation
import Mail
import System

/// How this program ends; the same numbers are in apus-inject(8).
enum Exit: Int32 {
  case done = 0
  case permanent = 100
  case temporary = 111
}

/// Why nothing was queued.
enum Failure: Error {
  case usage, headerTooLong, tooManyAddresses
  case unparsable(Bytes)
  case refused(Bytes)
  case home(SystemError)
  case controls(ControlError)
  case suffixes
  case reading(SystemError)
  case writing(SystemError)
  case noQueueProgram(SystemError)
  case deferred(Bytes)

  var exit: Exit {
    switch self {
    case .usage, .headerTooLong, .tooManyAddresses, .unparsable, .refused: return .permanent
    case .home, .controls, .suffixes, .reading, .writing, .noQueueProgram, .deferred: return .temporary
    }
  }

  var text: Bytes {
    switch self {
    case .usage: return Bytes("usage: apus-inject [-nNaAhH] [-f sender] [recip ...]")
    case .headerTooLong: return Bytes("fatal: header is longer than 16777216 bytes")
    case .tooManyAddresses: return Bytes("fatal: more than 1000000 addresses")
    case .unparsable(let line): return Bytes("fatal: unable to parse this line:\n") + printable(line)
    case .refused(let text), .deferred(let text): return Bytes("fatal: ") + text
    case .home(let error): return Bytes("fatal: unable to switch to home directory: ") + error.text
    case .controls(let error): return Bytes("fatal: unable to read ") + Bytes(error.file) + [58, 32] + error.cause.text
    case .suffixes: return Bytes("fatal: defaulthost, defaultdomain or plusdomain is no domain")
    case .reading(let error): return Bytes("fatal: read error: ") + error.text
    case .writing(let error): return Bytes("fatal: write error: ") + error.text
    case .noQueueProgram(let error): return Bytes("fatal: unable to run qmail-queue: ") + error.text
    }
  }
}

// Diagnostics -------------------------------------------------------------------

func say(_ text: Bytes) {
  let error = Descriptor.standard(2)
  try? error.write(Bytes("qmail-inject: ") + text + [.lf])
  _ = error.release()
}

/// Bytes of a message that may stand on a terminal; cut where it gets long.
func printable(_ bytes: Bytes) -> Bytes {
  var text = Bytes(bytes.prefix(1000).trimmedEnd)
  for i in text.indices where text[i] != .lf && text[i] != .tab && (text[i] < 32 || text[i] == 127) {
    text[i] = .ascii("?")
  }
  return text
}

// Command line and settings -----------------------------------------------------

/// The command line (spec inject.md 1).
struct CommandLine {
  /// Where the recipients come from.
  enum Recipients { case arguments, header, argumentsElseHeader, both }

  var recipients = Recipients.argumentsElseHeader
  var printsOnly = false
  var sender: Bytes?
  var addresses: [Bytes] = []

  /// nil if it is wrong.
  init?(_ arguments: [Bytes]) {
    var options = Options(arguments)
    while let letter = options.next() {
      switch letter {
      case .ascii("a"): recipients = .arguments
      case .ascii("A"): recipients = .argumentsElseHeader
      case .ascii("h"): recipients = .header
      case .ascii("H"): recipients = .both
      case .ascii("n"): printsOnly = true
      case .ascii("N"): printsOnly = false
      case .ascii("f"):
        guard let value = options.value() else { return nil }
        sender = value
      default: return nil
      }
    }
    addresses = options.operands
  }

  var usesHeader: Bool {
    switch recipients {
    case .header, .both: return true
    case .arguments: return false
    case .argumentsElseHeader: return addresses.isEmpty
    }
  }
  var usesArguments: Bool { recipients != .header }
}

/// The mailing lists of $QMAILMFTFILE, a path that is relative to where the program was started.
func mailingLists() -> ControlSet? {
  guard let name = Environment["QMAILMFTFILE"], let text = try? Files.contents(Path(name)) else { return nil }
  var lists: [Bytes] = []
  for line in text.split(separator: .lf) {
    let entry = line.trimmedEnd
    if !entry.isEmpty && entry.first != .ascii("#") { lists.append(Bytes(entry)) }
  }
  return ControlSet(lists)
}

/// The value of the variable; without it that of the control file.
func setting(
  _ variable: StaticString, _ file: StaticString, _ standIn: StaticString, _ control: inout Control
) throws(ControlError) -> Bytes {
  if let value = Environment[variable] { return value }
  return try control.lineOrMe(file, standIn)
}

/// Reads environment and control files. The present directory is home afterwards.
func surroundings() throws(Failure) -> Surroundings {
  let nanoseconds = Clock.nanoseconds()
  let lists = mailingLists()
  do throws(SystemError) { try Installation.changeToHome() } catch { throw .home(error) }

  let idHost: Bytes
  let rules: RewritingRules?
  do throws(ControlError) {
    var control = try Control()
    idHost = try setting("QMAILIDHOST", "control/idhost", "idhost", &control)
    let defaultHost = try setting("QMAILDEFAULTHOST", "control/defaulthost", "defaulthost", &control)
    let defaultDomain = try setting("QMAILDEFAULTDOMAIN", "control/defaultdomain", "defaultdomain", &control)
    let plusDomain = try setting("QMAILPLUSDOMAIN", "control/plusdomain", "plusdomain", &control)
    rules = RewritingRules(defaultHost: defaultHost, defaultDomain: defaultDomain, plusDomain: plusDomain)
    for warning in control.warnings { say(Bytes("warning: ") + warning) }
  } catch { throw .controls(error) }
  guard let rules else { throw .suffixes }

  return Surroundings(
    rules: rules, habits: Habits(Environment["QMAILINJECT"] ?? []), identity: Identity { Environment[$0] },
    idHost: idHost, mailingLists: lists, pid: Process.pid, nanoseconds: nanoseconds,
    random: randomBytes(4).reduce(0) { $0 << 8 | UInt32($1) })
}

// From descriptor 0 to the queue ------------------------------------------------

/// Takes a message's bytes.
protocol MessageSink: ~Copyable {
  mutating func put(_ bytes: ArraySlice<UInt8>) throws(SystemError)
}
extension Output: MessageSink {}
extension Injection: MessageSink {}

/// Reads up to the end of the header. - Returns: the first bytes of the body, as far as they were read.
func readHeader(_ parser: inout HeaderParser, _ input: inout Input) throws(Failure) -> Bytes {
  while true {
    let chunk: ArraySlice<UInt8>
    do throws(SystemError) { chunk = try input.chunk() } catch { throw .reading(error) }
    if chunk.isEmpty {
      parser.finish()
      return []
    }
    let rest: ArraySlice<UInt8>
    do throws(HeaderParser.TooLong) { rest = try parser.feed(chunk) } catch { throw .headerTooLong }
    if parser.end != nil { return Bytes(rest) }
  }
}

/// Writes header and body; a last line without LF gets one.
func copyMessage<Sink: MessageSink & ~Copyable>(
  _ head: Bytes, _ bodyStart: Bytes, _ input: inout Input, to sink: inout Sink
) throws(Failure) {
  var last = UInt8.lf
  var chunk = (head + bodyStart)[...]
  while !chunk.isEmpty {
    last = chunk[chunk.endIndex - 1]
    do throws(SystemError) { try sink.put(chunk) } catch { throw .writing(error) }
    do throws(SystemError) { chunk = try input.chunk() } catch { throw .reading(error) }
  }
  if last != .lf {
    do throws(SystemError) { try sink.put([.lf]) } catch { throw .writing(error) }
  }
}

func printMessage(_ head: Bytes, _ bodyStart: Bytes, _ input: inout Input, sender: Bytes) throws(Failure) {
  var output = Output(.standard(1))
  let returnPath = Bytes("Return-Path: <") + Mailbox(sender).quoted + Bytes(">\n")
  try copyMessage(returnPath + head, bodyStart, &input, to: &output)
  do throws(SystemError) { try output.flush() } catch { throw .writing(error) }
}

func queueMessage(
  _ head: Bytes, _ bodyStart: Bytes, _ input: inout Input, sender: Bytes, recipients: [Bytes]
) throws(Failure) {
  var injection: Injection
  do throws(SystemError) { injection = try Injection() } catch { throw .noQueueProgram(error) }
  do throws(Failure) { try copyMessage(head, bodyStart, &input, to: &injection) } catch {
    injection.abort()
    throw error
  }
  injection.beginEnvelope(sender: sender)
  for recipient in recipients { injection.add(recipient: recipient) }
  switch injection.finish() {
  case .queued: return
  case .refused(let text): throw .refused(text)
  case .deferred(let text): throw .deferred(text)
  }
}

func inject(_ commandLine: CommandLine) throws(Failure) {
  let around = try surroundings()

  /// Addresses of the command line are raw: what needs quotes gets them.
  func complete(_ raw: Bytes) throws(Failure) -> Bytes {
    guard let address = around.rules.complete(quoted: Mailbox(raw).quoted) else { throw .unparsable(raw) }
    return address
  }
  let givenSender: Bytes? = if let raw = commandLine.sender { try complete(raw) } else { nil }
  var recipients = RecipientList()
  if commandLine.usesArguments {
    for raw in commandLine.addresses {
      guard !raw.isEmpty else { throw .unparsable(raw) }
      recipients.add(try complete(raw))
    }
  }

  var input = Input(.standard(0))
  var parser = HeaderParser()
  let rest = try readHeader(&parser, &input)

  var message = Message(around)
  var head: Bytes
  let sender: Bytes
  do throws(MessageFault) {
    for field in parser.fields { try message.add(field) }
    head = try message.header()
    sender = if let givenSender { givenSender } else { try message.sender() }
  } catch {
    switch error {
    case .unparsable(let line): throw .unparsable(line)
    case .tooManyAddresses: throw .tooManyAddresses
    }
  }
  for field in message.unparsable { say(Bytes("warning: unable to parse this line:\n") + printable(field.bytes)) }
  if commandLine.usesHeader { for address in message.recipients { recipients.add(address) } }

  switch parser.end {
  case .emptyLine: head.append(.lf)
  case .line(let start): head += [.lf] + start
  case .endOfMessage, nil: break
  }
  if commandLine.printsOnly {
    try printMessage(head, rest, &input, sender: sender)
  } else {
    if recipients.addresses.isEmpty { say(Bytes("warning: no recipients, the message goes nowhere")) }
    try queueMessage(head, rest, &input, sender: sender, recipients: recipients.addresses)
  }
}

func run() -> Exit {
  Signal.ignore(Signal.pipe)
  guard let commandLine = CommandLine(Process.arguments) else {
    say(Failure.usage.text)
    return .permanent
  }
  do throws(Failure) {
    try inject(commandLine)
    return .done
  } catch {
    say(error.text)
    return error.exit
  }
}

Process.exit(run().rawValue)
