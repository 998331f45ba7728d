// todo: preprocesses accepted messages (spec queue.md 7), so that injection never holds up delivery.
//
// Takes each message from S4 to S5: todo/N becomes info/N and the recipient files local/N and remote/N, with every
// address routed. Then `clean` removes todo/N, and `send` is told. Descriptors: 0 from send, 1 to send, 2 to its own
// clean, 3 from it (spec pipes.md 9).

import Bytes
import CShim
import Control
import Installation
import QueueFormat
import Routing
import System

/// How this program ends; the same numbers are in todo(8).
enum Exit: Int32 {
  case done = 0
  case temporary = 111
}

/// How many messages share their directory syncs.
let largestBatch = 64
/// todo/ is scanned at least this often, in milliseconds.
let longestRest: Int64 = 1_500_000
/// Scans begin at least this far apart, in milliseconds; a trigger pulled meanwhile is kept.
let shortestRest: Int64 = 20

/// A message whose files are written and synced, except for their directories.
struct Preprocessed {
  let number: MessageNumber
  let hasLocal: Bool
  let hasRemote: Bool
}

/// What kept a message in S4; it is seen again at the next scan.
struct Setback: Error {
  let text: Bytes

  init(_ what: StaticString, _ path: Path) {
    text = Bytes("warning: ") + Bytes(what) + Bytes(" ") + path.bytes
  }
}

/// Messages to send, each ended by NUL.
struct SendPipe: ~Copyable {
  private var output = Output(Descriptor.standard(1), capacity: 65536)
  private(set) var isBroken = false

  mutating func log(_ line: Bytes) { put(Bytes("L") + line) }

  mutating func queued(_ message: Preprocessed) {
    let letter: StaticString =
      switch (message.hasLocal, message.hasRemote) {
      case (true, true): "DB"
      case (true, false): "DL"
      case (false, true): "DR"
      case (false, false): "DN"
      }
    put(Bytes(letter) + Bytes(decimal: message.number))
  }

  mutating func ready() { put(Bytes("R")) }

  mutating func scanDone() { put(Bytes("S")) }

  private mutating func put(_ message: Bytes) {
    do throws(SystemError) { try output.put(message + [0]) } catch { isBroken = true }
  }

  mutating func flush() {
    do throws(SystemError) { try output.flush() } catch { isBroken = true }
  }
}

/// The recipient file of one channel, made when its first recipient comes.
struct RecipientFile: ~Copyable {
  private let path: Path
  private var output: Output?

  init(_ number: MessageNumber, _ channel: Channel) { path = QueuePath.recipients(number, channel) }

  var isUsed: Bool { output != nil }

  mutating func add(_ address: Bytes) throws(Setback) {
    if output == nil {
      do throws(SystemError) {
        output = Output(try Descriptor.open(path, O_WRONLY | O_CREAT | O_EXCL, mode: 0o644))
      } catch { throw Setback("unable to create", path) }
    }
    do throws(SystemError) { try output?.put([RecipientMark.todo] + address + [0]) } catch {
      throw Setback("trouble writing to", path)
    }
  }

  mutating func sync() throws(Setback) {
    do throws(SystemError) { try output?.flush() } catch { throw Setback("trouble writing to", path) }
    do throws(SystemError) { try output?.descriptor.sync() } catch { throw Setback("trouble fsyncing", path) }
  }
}

struct Preprocessor: ~Copyable {
  var routing: Routing
  let rootless: Bool
  var send = SendPipe()
  /// Messages whose entry in todo/ was perhaps removed, but not durably; clean is asked again at the next scan.
  private var unconfirmed: [Preprocessed] = []
  private let toClean = Descriptor.standard(2)
  private let fromClean = Descriptor.standard(3)

  init(routing: Routing, rootless: Bool) {
    self.routing = routing
    self.rootless = rootless
  }

  /// Steps 1 to 6 of queue.md 7.
  mutating func preprocess(_ number: MessageNumber) throws(Setback) -> Preprocessed {
    let todoPath = QueuePath.todo(number)
    let file: Descriptor
    do throws(SystemError) { file = try Descriptor.open(todoPath, O_RDONLY | O_NONBLOCK) } catch {
      throw Setback("unable to open", todoPath)
    }
    let mess: MessFile
    do throws(SystemError) { mess = try MessFile(number, rootless: rootless) } catch {
      throw Setback("unable to stat", QueuePath.mess(number))
    }
    let infoPath = QueuePath.info(number)
    for stale in [QueuePath.recipients(number, .local), QueuePath.recipients(number, .remote), infoPath] {
      do throws(SystemError) { try Files.unlinkIfPresent(stale) } catch { throw Setback("unable to unlink", stale) }
    }
    let info: Descriptor
    do throws(SystemError) { info = try Descriptor.open(infoPath, O_WRONLY | O_CREAT | O_EXCL, mode: 0o644) } catch {
      throw Setback("unable to create", infoPath)
    }
    send.log(Bytes("new msg \(number)".utf8))

    var uid: UInt64?
    var pid: UInt64?
    var sender: Bytes?
    var recipients = 0
    var local = RecipientFile(number, .local)
    var remote = RecipientFile(number, .remote)
    var records = Input(file)
    while let record = try next(&records, todoPath) {
      switch TodoRecord(record) {
      case nil: throw Setback("unknown record type in", todoPath)
      case .uid(let value): uid = value
      case .pid(let value): pid = value
      case .sender(let address):
        sender = address
        do throws(SystemError) { try info.write(InfoRecord.bytes(sender: address)) } catch {
          throw Setback("trouble writing to", infoPath)
        }
        var line = Bytes("info msg \(number): bytes \(mess.size) from <".utf8)
        line.append(contentsOf: address.logSafe)
        line.append(contentsOf: "> qp \(pid ?? 0) uid \(uid ?? 0)".utf8)
        send.log(line)
      case .recipient(let address):
        recipients += 1
        switch routing.route(address) {
        case .local(let rewritten): try local.add(rewritten)
        case .remote(let rewritten): try remote.add(rewritten)
        }
      }
    }
    // A file without a sender cannot have come from queue.
    guard sender != nil else { throw Setback("unknown record type in", todoPath) }
    do throws(SystemError) { try info.sync() } catch { throw Setback("trouble fsyncing", infoPath) }
    try local.sync()
    try remote.sync()

    var fact = LogLine("todo")
    fact.add("id", mess.id.bytes)
    fact.add("msg", number)
    fact.add("event", "new")
    fact.add("bytes", mess.size)
    fact.add("recipients", recipients)
    fact.add("qp", pid ?? 0)
    fact.add("uid", uid ?? 0)
    send.log(fact.bytes)
    return Preprocessed(number: number, hasLocal: local.isUsed, hasRemote: remote.isUsed)
  }

  /// The next record without its NUL; a last one that lacks it does not count.
  private func next(_ records: inout Input, _ path: Path) throws(Setback) -> Bytes? {
    do throws(SystemError) {
      guard let record = try records.text(through: 0, limit: 4 * QueueLimits.address) else { return nil }
      if record.last == 0 { return Bytes(record.dropLast()) }
      if record.count < 4 * QueueLimits.address { return nil }
    } catch { throw Setback("trouble reading", path) }
    throw Setback("unknown record type in", path)
  }

  /// Makes the names of a batch durable (point C), has its todo files removed (point D) and tells send.
  /// - Returns: false if clean is gone.
  mutating func conclude(_ batch: [Preprocessed]) -> Bool {
    var durable = batch
    var synced: [Bytes] = []
    for message in batch {
      var directories = [QueuePath.infoDirectory(message.number)]
      if message.hasLocal { directories.append(QueuePath.recipientsDirectory(message.number, .local)) }
      if message.hasRemote { directories.append(QueuePath.recipientsDirectory(message.number, .remote)) }
      for directory in directories where !synced.contains(directory.bytes) {
        do throws(SystemError) {
          try Files.syncDirectory(directory)
          synced.append(directory.bytes)
        } catch {
          send.log(Setback("trouble fsyncing", directory).text)
          durable.removeAll { $0.number == message.number }
        }
      }
    }
    guard let answers = askClean(durable) else { return false }
    for (message, answer) in zip(durable, answers) {
      if answer == .ascii("+") {
        send.queued(message)
      } else {
        send.log(Setback("qmail-clean unable to clean up", QueuePath.todo(message.number)).text)
        unconfirmed.append(message)
      }
    }
    send.flush()
    return true
  }

  /// Messages to be concluded again: those whose entry is still there come by themselves.
  mutating func takeUnconfirmed() -> [Preprocessed] {
    let all = unconfirmed
    unconfirmed = []
    return all.filter { message in
      do throws(SystemError) { return try !Files.exists(QueuePath.todo(message.number)) } catch {
        unconfirmed.append(message)
        return false
      }
    }
  }

  /// - Returns: an answer for each message of the batch; nil if clean is gone.
  private func askClean(_ batch: [Preprocessed]) -> Bytes? {
    var requests = Bytes()
    for message in batch {
      requests.append(contentsOf: QueuePath.todo(message.number).bytes)
      requests.append(0)
    }
    guard (try? toClean.write(requests)) != nil else { return nil }
    var answers = Bytes()
    while answers.count < batch.count {
      guard let n = try? fromClean.read(into: &answers, limit: batch.count - answers.count), n > 0 else { return nil }
    }
    return answers
  }
}

/// What send has to say.
struct Orders {
  var reread = false
  var exit = false
  var scanDone = false

  /// - Returns: nil when send is gone.
  static func read(_ fromSend: borrowing Descriptor) -> Orders? {
    var bytes = Bytes()
    guard let n = try? fromSend.read(into: &bytes, limit: 64), n > 0 else { return nil }
    return Orders(
      reread: bytes.contains(.ascii("H")), exit: bytes.contains(.ascii("X")), scanDone: bytes.contains(.ascii("S")))
  }
}

/// The read end of lock/trigger, opened anew before each scan so that nothing pulled later is missed (queue.md 11).
struct Trigger: ~Copyable {
  private var reading: Descriptor?
  private var writing: Descriptor?

  /// To wait on; nil without a FIFO.
  private(set) var number: Int32?

  mutating func reset() {
    reading = nil
    writing = nil
    number = nil
    guard let opened = try? Descriptor.open("lock/trigger", O_RDONLY | O_NONBLOCK) else { return }
    number = opened.number
    reading = consume opened
    // With a writer always there, a closed one does not look like a pulled trigger.
    writing = try? Descriptor.open("lock/trigger", O_WRONLY | O_NONBLOCK)
  }
}

func reread(_ routing: inout Routing, _ send: inout SendPipe) {
  do throws(SystemError) {
    try Installation.changeToHome()
  } catch {
    send.log(Bytes("alert: unable to reread controls: unable to switch to home directory"))
    return
  }
  do throws(ControlError) {
    var control = try Control()
    try routing.reread(&control)
    for warning in control.warnings { send.log(Bytes("warning: ") + warning) }
  } catch {
    send.log(Bytes("alert: unable to reread ") + Bytes(error.file))
  }
  while (try? Files.changeDirectory("queue")) == nil {
    send.log(Bytes("alert: unable to switch back to queue directory; HELP! sleeping..."))
    send.flush()
    Clock.sleep(milliseconds: 10_000)
  }
}

/// One scan of todo/.
/// - Returns: false if clean is gone.
func scan(_ preprocessor: inout Preprocessor) -> Bool {
  guard preprocessor.conclude(preprocessor.takeUnconfirmed()) else { return false }
  let directory: Directory
  do throws(SystemError) { directory = try Directory("todo") } catch {
    preprocessor.send.log(Setback("unable to opendir", "todo").text)
    return true
  }
  var batch: [Preprocessed] = []
  while let name = (try? directory.next()) ?? nil {
    guard let number = QueuePath.number(of: name) else { continue }
    do throws(Setback) { batch.append(try preprocessor.preprocess(number)) } catch {
      preprocessor.send.log(error.text)
    }
    if batch.count == largestBatch {
      guard preprocessor.conclude(batch) else { return false }
      batch = []
    }
  }
  return preprocessor.conclude(batch)
}

func run() -> Exit {
  Signal.ignore(Signal.pipe)
  Process.setUmask(0o077)
  let routing: Routing
  var warnings: [Bytes] = []
  do throws(SystemError) { try Installation.changeToHome() } catch { return .temporary }
  do throws(ControlError) {
    var control = try Control()
    do throws(Routing.Fault) { routing = try Routing(reading: &control) } catch { return .temporary }
    warnings = control.warnings
  } catch { return .temporary }
  do throws(SystemError) {
    try Files.changeDirectory("queue")
    // When send was killed, the todo it leaves behind may still be at work on what we would begin with.
    let mutex = try Descriptor.open("todo", O_RDONLY | O_DIRECTORY)
    try mutex.lock(waiting: true)
    _ = mutex.release()  // held until this process ends
  } catch { return .temporary }

  var preprocessor = Preprocessor(routing: routing, rootless: Installation.users == nil)
  preprocessor.send.ready()
  for warning in warnings { preprocessor.send.log(Bytes("warning: ") + warning) }
  preprocessor.send.flush()
  let fromSend = Descriptor.standard(0)
  var trigger = Trigger()
  var wait = Wait()
  var isDue = true
  var lastScan: Int64 = 0
  while true {
    let now = Clock.monotonicMilliseconds()
    if isDue && now - lastScan >= shortestRest {
      trigger.reset()
      if trigger.number == nil { preprocessor.send.log(Setback("unable to open", "lock/trigger").text) }
      isDue = false
      lastScan = now
      guard scan(&preprocessor) else {
        preprocessor.send.log(Bytes("alert: oh no! lost qmail-clean connection! dying..."))
        preprocessor.send.flush()
        return .temporary
      }
    }
    preprocessor.send.flush()
    if preprocessor.send.isBroken { return .temporary }
    wait.reset()
    let orders = wait.read(fromSend.number)
    let pulled = isDue ? nil : trigger.number.map { wait.read($0) }
    let rest = isDue ? shortestRest : longestRest
    let sinceScan = Clock.monotonicMilliseconds() - lastScan
    let ready = (try? wait.wait(milliseconds: max(0, rest - sinceScan))) ?? false
    if Clock.monotonicMilliseconds() - lastScan >= longestRest { isDue = true }
    guard ready else { continue }
    if let pulled, wait.isReady(pulled) { isDue = true }
    guard wait.isReady(orders) else { continue }
    guard let order = Orders.read(fromSend), !order.exit else { return .done }
    if order.reread { reread(&preprocessor.routing, &preprocessor.send) }
    if order.scanDone { preprocessor.send.scanDone() }
  }
}

Process.exit(run().rawValue)
