// smtpd: receives mail by SMTP on descriptors 0 and 1 and hands it to the queue program.
//
// Whoever accepted the connection (listen, tcpserver, s6-tcpserver, inetd) describes it in the environment (spec pipes.md
// 8); control files say what is accepted (smtpd(8)). One process is one conversation. It writes no file, and what it
// acknowledges is on stable storage, because it answers 250 only after the queue program's exit 0. Everything on
// descriptor 0 is chosen by strangers. The log goes to descriptor 2.

import Bytes
import CShim
import Control
import Injection
import Installation
import Mail
import QueueFormat
import SMTP
import System

/// How this program ends; the same numbers are in smtpd(8).
enum Exit: Int32 {
  /// The client said QUIT.
  case done = 0
  /// Anything else: the client went away or was sent away, or something is wrong here.
  case failed = 1
}

/// Why a conversation ends without a last word of its own.
enum Loss: Error {
  /// The client sent nothing for too long.
  case silence
  /// The conversation, or the text of a message, took too long as a whole.
  case overtime
  /// The connection is gone, or the client does not read.
  case gone
}

/// A moment after which something has taken too long.
struct Deadline {
  private let end: Int64?

  /// - Parameter seconds: from now; 0 for never.
  init(seconds: Int64) { end = seconds == 0 ? nil : Clock.monotonicMilliseconds() + seconds * 1000 }

  /// The milliseconds left, at most `most`.
  func left(atMost most: Int64) -> Int64 { end.map { max(0, min(most, $0 - Clock.monotonicMilliseconds())) } ?? most }
}

/// The connection: buffered, with a limit for each wait.
struct Wire: ~Copyable {
  private var input = Input(.standard(0))
  // Written by flush() alone, which knows how long a write may take.
  private var output = Output(.standard(1), capacity: .max)
  private var waiting = 0
  /// Longest wait for one read or write, in seconds.
  var timeout: Int64 = 60

  /// Replies are collected and go out before the next read that may have to wait, so that pipelining works.
  mutating func put(_ reply: Reply, extended: Bool) throws(Loss) {
    let bytes = reply.wire(extended: extended)
    do throws(SystemError) { try output.put(bytes) } catch { throw .gone }
    waiting += bytes.count
    if waiting >= 8192 { try flush() }
  }

  mutating func flush() throws(Loss) {
    waiting = 0
    // A client that does not read blocks the write; waiting with poll(2) would need a non-blocking descriptor, which
    // others may share. The alarm ends the process as a write error would: in silence.
    Signal.alarm(seconds: UInt32(timeout))
    defer { Signal.alarm(seconds: 0) }
    do throws(SystemError) { try output.flush() } catch { throw .gone }
  }

  mutating func command(before deadline: Deadline) throws(Loss) -> CommandReader.Event {
    var reader = CommandReader()
    while true {
      if input.buffered.isEmpty {
        try flush()
        input.timeout = deadline.left(atMost: timeout * 1000)
      }
      let byte: UInt8?
      do throws(SystemError) { byte = try input.next() } catch { throw loss(error, deadline) }
      guard let byte else { throw .gone }
      if let event = reader.feed(byte) { return event }
    }
  }

  /// The next piece of a message's text.
  mutating func text(before deadline: Deadline) throws(Loss) -> ArraySlice<UInt8> {
    input.timeout = deadline.left(atMost: timeout * 1000)
    let chunk: ArraySlice<UInt8>
    do throws(SystemError) { chunk = try input.chunk() } catch { throw loss(error, deadline) }
    guard !chunk.isEmpty else { throw .gone }
    return chunk
  }

  /// Gives back what follows the end of a message.
  mutating func putBack(_ count: Int) { input.putBack(count) }

  private func loss(_ error: SystemError, _ deadline: Deadline) -> Loss {
    guard error.code == ETIMEDOUT else { return .gone }
    return deadline.left(atMost: 1) == 0 ? .overtime : .silence
  }
}

/// What the conversation must ask.
struct Host: Judge, ~Copyable {
  /// nil when RELAYCLIENT makes the question superfluous.
  let accepted: RecipientHosts?

  func isLocalHost(_ keys: [Bytes]) throws(SystemError) -> Bool {
    switch accepted {
    case .none: return false
    case .some(let hosts): return try hosts.contains(keys)
    }
  }

  func isOwnAddress(_ address: Bytes) throws(SystemError) -> Bool { try Socket.isOwn(address) }
}

/// One conversation and its connection.
struct Session: ~Copyable {
  private var wire = Wire()
  private var conversation: Conversation
  private let host: Host
  private let peer: Peer
  /// Whether todo and send will find the id in our Received line (INTERNALS.md, "One id per message").
  private let givesIds = Installation.users.map { $0.network == Process.uid } ?? true
  private let settings: Settings

  /// A queue program that takes longer for one step, in seconds, must not hold us for ever: the alarm ends this
  /// process, nothing is acknowledged.
  private static let queueTime: UInt32 = 3600

  init(settings: Settings, host: consuming Host, peer: Peer) {
    self.settings = settings
    self.host = host
    self.peer = peer
    conversation = Conversation(settings: settings)
    wire.timeout = settings.timeout
  }

  /// From greeting to QUIT.
  mutating func run() -> Exit {
    do throws(Loss) {
      return try converse()
    } catch {
      conclude(error)
      return .failed
    }
  }

  private mutating func converse() throws(Loss) -> Exit {
    let deadline = Deadline(seconds: settings.sessionTime)
    try wire.put(conversation.greeting, extended: false)
    while true {
      let event = try wire.command(before: deadline)
      switch conversation.step(event, asking: host) {
      case .answer(let reply):
        if reply.isRefusal { log(refusal: reply, of: event) }
        try say(reply)
      case .receive(let transaction):
        try receive(transaction)
      case .quit(let reply):
        try say(reply)
        try wire.flush()
        return .done
      case .abandon(let reply):
        log(refusal: reply, of: event)
        try say(reply)
        try wire.flush()
        return .failed
      }
    }
  }

  private mutating func say(_ reply: Reply) throws(Loss) {
    let wait = conversation.count(reply)
    if wait > 0 { Clock.sleep(milliseconds: wait * 1000) }
    try wire.put(reply, extended: conversation.isExtended)
  }

  // MARK: A message

  private mutating func receive(_ transaction: consuming Transaction) throws(Loss) {
    let id = givesIds ? MessageID(nanoseconds: Clock.nanoseconds(), random: randomBytes(10)).bytes : []
    var injection: Injection?
    do throws(SystemError) { injection = try Injection() } catch {
      return try say(Reply(451, "qqt failure (#4.3.0)"))
    }
    injection!.put(
      peer.received(
        helo: conversation.heloName, isExtended: conversation.isExtended, id: id, at: UTCDate(Clock.now())))
    try say(Reply(plain: 354, [Bytes("go ahead")]))
    try wire.flush()

    var text = TextMeter(databytes: settings.databytes)
    do throws(Loss) {
      try take(into: &injection, metering: &text)
    } catch {
      Session.giveUp(&injection)
      throw error
    }
    let verdict: Verdict?
    let reply: Reply
    if let refusal = text.refusal {
      verdict = nil
      reply = refusal
    } else {
      let given = Session.hand(injection.take()!, transaction)
      verdict = given
      reply = Session.reply(to: given, id)
    }
    log(message: reply, verdict, id, transaction, text.bytes)
    if !reply.isRefusal { conversation.forgetErrors() }
    try say(reply)
  }

  /// Reads the text to its end, whatever it holds. As soon as it must be refused the queue program is let go.
  private mutating func take(into injection: inout Injection?, metering text: inout TextMeter) throws(Loss) {
    let deadline = Deadline(seconds: settings.sessionTime)
    var decoder = DotDecoder()
    var decoded = Bytes()
    while true {
      let chunk = try wire.text(before: deadline)
      decoded.removeAll(keepingCapacity: true)
      let after = decoder.feed(chunk, into: &decoded)
      text.note(decoded[...], from: decoder)
      if text.refusal != nil {
        Session.giveUp(&injection)
      } else if injection != nil {
        Signal.alarm(seconds: Session.queueTime)
        injection!.put(decoded[...])
        Signal.alarm(seconds: 0)
      }
      guard let after else { continue }
      wire.putBack(after)
      return
    }
  }

  /// Gives envelope and message to the queue program.
  private static func hand(_ injection: consuming Injection, _ transaction: borrowing Transaction) -> Verdict {
    Signal.alarm(seconds: queueTime)
    defer { Signal.alarm(seconds: 0) }
    injection.beginEnvelope(sender: transaction.sender)
    for recipient in transaction.recipients { injection.add(recipient: recipient) }
    return injection.finish()
  }

  private static func giveUp(_ injection: inout Injection?) {
    Signal.alarm(seconds: queueTime)
    injection.take()?.abort()
    Signal.alarm(seconds: 0)
  }

  private static func reply(to verdict: Verdict, _ id: Bytes) -> Reply {
    switch verdict {
    case .queued(let pid):
      var text = Bytes("ok ")
      text.append(decimal: Clock.now())
      text.append(" qp ")
      text.append(decimal: pid)
      if !id.isEmpty { text += Bytes(" id ") + id }
      return Reply(250, text, status: "2.0.0")
    case .refused(let text): return Reply(554, text)
    case .deferred(let text): return Reply(451, text)
    }
  }

  // MARK: The log

  private func line(_ id: Bytes, _ event: StaticString) -> LogLine {
    var line = LogLine("smtpd")
    if !id.isEmpty { line.add("id", id) }
    line.add("event", event)
    line.add("pid", Process.pid)
    line.add("peer", peer.address ?? Bytes("unknown"))
    return line
  }

  private func log(
    message reply: Reply, _ verdict: Verdict?, _ id: Bytes, _ transaction: borrowing Transaction, _ bytes: UInt64
  ) {
    var line = line(id, reply.isRefusal ? "refused" : "queued")
    if case .queued(let pid)? = verdict { line.add("qp", pid) }
    line.add("from", Bytes("<") + transaction.sender + Bytes(">"))
    line.add("recipients", transaction.recipients.count)
    line.add("bytes", bytes)
    line.add("helo", conversation.heloName ?? [])
    if reply.isRefusal {
      line.add("code", reply.code)
      line.add("text", reply.lines[0])
    }
    Log.write(line)
  }

  private func log(refusal reply: Reply, of event: CommandReader.Event) {
    var line = line([], "refused")
    line.add("code", reply.code)
    if case .line(let command) = event { line.add("command", command) }
    line.add("text", reply.lines[0])
    Log.write(line)
  }

  /// The last word to a client that was too slow; none to one that is gone.
  private mutating func conclude(_ loss: Loss) {
    var line = line([], "lost")
    switch loss {
    case .gone:
      line.add("reason", "gone")
    case .silence:
      line.add("reason", "timeout")
      try? wire.put(Reply(451, "timeout (#4.4.2)"), extended: conversation.isExtended)
    case .overtime:
      line.add("reason", "overtime")
      try? wire.put(Reply(421, "you took too long (#4.4.2)"), extended: conversation.isExtended)
    }
    Log.write(line)
    if loss != .gone { try? wire.flush() }
  }
}

/// What makes a text unacceptable, found while it passes by.
struct TextMeter {
  /// Bytes as stored, so far.
  private(set) var bytes: UInt64 = 0
  private let databytes: UInt64
  private var header = HopCounter()
  private var hasBareLF = false
  private var hasBareCR = false

  /// - Parameter databytes: most bytes of a text; 0 for no limit.
  init(databytes: UInt64) { self.databytes = databytes }

  mutating func note(_ text: ArraySlice<UInt8>, from decoder: DotDecoder) {
    bytes += UInt64(text.count)
    header.feed(text)
    hasBareLF = decoder.hasBareLF
    hasBareCR = decoder.hasBareCR
  }

  /// What to answer at the end of the text; nil if nothing is wrong with it.
  var refusal: Reply? {
    if hasBareLF { return Reply(451, "See https://cr.yp.to/docs/smtplf.html.") }
    if hasBareCR { return Reply(554, "sorry, I can't accept a CR without LF in a message (#5.6.0)") }
    if header.hops >= HopCounter.limit { return Reply(554, "too many hops, this message is looping (#5.4.6)") }
    if databytes > 0 && bytes > databytes { return Conversation.tooBig }
    return nil
  }
}

/// Keeps the log away from the client: inetd gives the connection as descriptor 2 too, and a descriptor 2 that is not
/// open would become whatever is opened next.
func secureLog() {
  if sys_is_open(2) != 0 {
    var one = shim_stat()
    var two = shim_stat()
    let isShared =
      sys_fstat(1, &one) == 0 && sys_fstat(2, &two) == 0 && two.mode & 0o170000 == 0o140000
      && one.inode == two.inode && one.device == two.device
    guard isShared else { return }
  }
  guard let null = try? Descriptor.open("/dev/null", O_WRONLY) else { return }
  let number = null.release()
  if number == 2 { _ = sys_close_on_exec(2, 0) } else { _ = sys_dup2(number, 2) }
}

/// Answers 421 before any greeting.
func refuse(_ reply: Reply, because reason: Bytes) -> Exit {
  var line = LogLine("smtpd")
  line.add("event", "broken")
  line.add("pid", Process.pid)
  line.add("reason", reason)
  Log.write(line)
  var wire = Wire()
  try? wire.put(reply, extended: false)
  try? wire.flush()
  return .failed
}

func refuse(_ fault: Settings.Fault) -> Exit {
  switch fault {
  case .noName: return refuse(Conversation.noControls, because: Bytes("control/me is missing"))
  case .openRelay:
    return refuse(Conversation.noControls, because: Bytes("control/rcpthosts is missing: would relay for the world"))
  case .unreadable(let error):
    return refuse(Conversation.noControls, because: Bytes(error.file) + Bytes(": ") + error.cause.text)
  }
}

/// Most warnings about control files that are logged at the start of each connection.
let warningLimit = 5

func start() throws(Settings.Fault) -> Session {
  var control: Control
  do throws(ControlError) { control = try Control() } catch { throw .unreadable(error) }
  let settings = try Settings(from: &control)
  let accepted = settings.relayClient == nil ? try RecipientHosts.read(from: &control) : nil
  for warning in control.warnings.prefix(warningLimit) {
    var line = LogLine("smtpd")
    line.add("event", "warning")
    line.add("text", warning)
    Log.write(line)
  }
  let peer = Peer(
    host: Environment["TCPREMOTEHOST"], info: Environment["TCPREMOTEINFO"], address: Environment["TCPREMOTEIP"],
    local: Environment["TCPLOCALHOST"] ?? Environment["TCPLOCALIP"])
  return Session(settings: settings, host: Host(accepted: accepted), peer: peer)
}

func run() -> Exit {
  secureLog()
  Signal.ignore(Signal.pipe)
  Signal.exit(on: Signal.alarm, status: Exit.failed.rawValue)
  do throws(SystemError) { try Installation.changeToHome() } catch {
    return refuse(Conversation.noControls, because: Bytes("home: ") + error.text)
  }
  do throws(Settings.Fault) {
    var session = try start()
    return session.run()
  } catch {
    return refuse(error)
  }
}

Process.exit(run().rawValue)
