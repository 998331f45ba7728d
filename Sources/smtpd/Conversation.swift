// What the server answers: the state of one conversation, without I/O.

import Bytes
import SMTP
import System

/// One mail transaction (RFC 5321, 3.3): made by MAIL, given away by DATA, dropped by everything that ends it otherwise.
/// There is no other place where a sender or recipient is kept.
struct Transaction: ~Copyable {
  let sender: Bytes
  /// The sender is in badmailfrom; said at RCPT, as people have grown used to.
  let isRefused: Bool
  var recipients: [Bytes] = []
}

/// What must be asked outside of the conversation.
protocol Judge: ~Copyable {
  /// Whether one of these names stands in rcpthosts.
  func isLocalHost(_ keys: [Bytes]) throws(SystemError) -> Bool
  /// Whether this IP address, as text, is one of this machine's.
  func isOwnAddress(_ address: Bytes) throws(SystemError) -> Bool
}

/// What to do after a command.
enum Step: ~Copyable {
  case answer(Reply)
  /// Start the queue program, then 354 and the text of the message.
  case receive(Transaction)
  /// Answer and end well.
  case quit(Reply)
  /// Answer and end: something is wrong here, or with the client.
  case abandon(Reply)
}

struct Conversation: ~Copyable {
  let settings: Settings
  private var transaction: Transaction?
  /// What the client calls itself: the argument of HELO or EHLO; nil before.
  private(set) var heloName: Bytes?
  /// Whether the client said EHLO.
  private(set) var isExtended = false
  /// Refusals since the start or the last message that was queued.
  private var errors: UInt64 = 0

  /// Longest name in HELO and EHLO; a domain has at most 255 bytes (RFC 5321, 4.5.3.1.2).
  static let heloLimit = 255

  init(settings: Settings) { self.settings = settings }

  var greeting: Reply { Reply(plain: 220, [settings.greeting + Bytes(" ESMTP")]) }

  mutating func step<J: Judge & ~Copyable>(_ event: CommandReader.Event, asking judge: borrowing J) -> Step {
    if settings.hardErrors > 0 && errors >= settings.hardErrors {
      return .abandon(Reply(421, "too many errors (#4.7.0)"))
    }
    switch event {
    case .tooLong: return .answer(Reply(500, "line too long (#5.5.2)"))
    case .badByte: return .answer(Reply(500, "stray NUL or CR in line (#5.5.2)"))
    case .line(let line): return step(Command(line), asking: judge)
    }
  }

  private mutating func step<J: Judge & ~Copyable>(_ command: Command, asking judge: borrowing J) -> Step {
    switch command.verb {
    case .helo, .ehlo: return .answer(hello(command))
    case .mail: return mail(command.argument, asking: judge)
    case .rcpt: return rcpt(command.argument, asking: judge)
    case .data: return data()
    case .rset:
      transaction = nil
      return .answer(Reply(250, "flushed", status: "2.0.0"))
    case .noop: return .answer(Reply(250, "ok", status: "2.0.0"))
    case .vrfy: return .answer(Reply(252, "send some mail, i'll try my best", status: "2.0.0"))
    case .help: return .answer(Reply(214, "this is apus-smtpd; see RFC 5321", status: "2.0.0"))
    case .quit: return .quit(Reply(221, settings.greeting, status: "2.0.0"))
    // STARTTLS will hand the socket to tlsd, forget this conversation and the input already read, and begin anew;
    // AUTH will ask a checkpassword program and set what RELAYCLIENT sets now. Until then they are unknown.
    case .unknown: return .answer(Reply(502, "unimplemented (#5.5.1)"))
    }
  }

  private mutating func hello(_ command: Command) -> Reply {
    transaction = nil
    guard command.argument.count <= Conversation.heloLimit else { return Reply(501, "name too long (#5.5.4)") }
    heloName = Bytes(command.argument)
    isExtended = command.verb == .ehlo
    guard isExtended else { return Reply(plain: 250, [settings.greeting]) }
    return Reply(
      plain: 250,
      [
        settings.greeting, Bytes("PIPELINING"), Bytes("SIZE ") + Bytes(decimal: settings.databytes), Bytes("8BITMIME"),
        Bytes("ENHANCEDSTATUSCODES"),
      ])
  }

  private static let syntax = Reply(555, "syntax error (#5.5.4)")
  private static let noAddress = Reply(501, "address missing (#5.5.4)")
  private static let unknownParameter = Reply(555, "parameter not recognized (#5.5.4)")

  /// Why a command does not do what it should.
  private enum Fault: Error {
    case refused(Reply)
    case broken(Reply)

    var step: Step {
      switch self {
      case .refused(let reply): return .answer(reply)
      case .broken(let reply): return .abandon(reply)
      }
    }
  }

  /// The address of MAIL or RCPT with its parameters. An address literal that is this machine becomes its name.
  private func address<J: Judge & ~Copyable>(
    _ text: ArraySlice<UInt8>, asking judge: borrowing J
  ) throws(Fault) -> PathArgument {
    var argument: PathArgument
    do throws(PathArgument.Fault) {
      argument = try PathArgument(text)
    } catch {
      switch error {
      case .missing: throw .refused(Conversation.noAddress)
      case .syntax: throw .refused(Conversation.syntax)
      }
    }
    guard let name = settings.localName, let literal = argument.addressLiteral else { return argument }
    do throws(SystemError) {
      if try judge.isOwnAddress(literal) { argument.replaceDomain(name) }
    } catch {
      throw .broken(Reply(421, "unable to figure out my IP addresses (#4.3.0)"))
    }
    return argument
  }

  private mutating func mail<J: Judge & ~Copyable>(_ text: ArraySlice<UInt8>, asking judge: borrowing J) -> Step {
    transaction = nil
    let argument: PathArgument
    do throws(Fault) { argument = try address(text, asking: judge) } catch { return error.step }
    if isExtended {  // after HELO nothing was offered, and what stands there is ignored as it always was
      let parameters: MailParameters
      do throws(MailParameters.Fault) {
        parameters = try MailParameters(argument.parameters)
      } catch {
        switch error {
        case .unknown: return .answer(Conversation.unknownParameter)
        case .malformed: return .answer(Reply(501, "malformed parameter (#5.5.4)"))
        }
      }
      if settings.databytes > 0, let size = parameters.size, size > settings.databytes {
        return .answer(Conversation.tooBig)
      }
    }
    transaction = Transaction(sender: argument.address, isRefused: settings.isBadSender(argument.address))
    return .answer(Reply(250, "ok", status: "2.1.0"))
  }

  static let tooBig = Reply(552, "sorry, that message size exceeds my databytes limit (#5.3.4)")

  private mutating func rcpt<J: Judge & ~Copyable>(_ text: ArraySlice<UInt8>, asking judge: borrowing J) -> Step {
    guard var open = transaction.take() else { return .answer(Reply(503, "MAIL first (#5.5.1)")) }
    do throws(Fault) {
      open.recipients.append(try recipient(text, of: open, asking: judge))
      transaction = consume open
      return .answer(Reply(250, "ok", status: "2.1.5"))
    } catch {
      transaction = consume open  // a refused recipient leaves the others as they are
      return error.step
    }
  }

  /// The address to add to the transaction.
  private func recipient<J: Judge & ~Copyable>(
    _ text: ArraySlice<UInt8>, of open: borrowing Transaction, asking judge: borrowing J
  ) throws(Fault) -> Bytes {
    let argument = try address(text, asking: judge)
    if isExtended && !argument.parameters.isEmpty { throw .refused(Conversation.unknownParameter) }
    if argument.address.isEmpty { throw .refused(Conversation.syntax) }
    if open.isRefused {
      throw .refused(Reply(553, "sorry, your envelope sender is in my badmailfrom list (#5.7.1)"))
    }
    if settings.relayClient == nil, let keys = settings.hostKeys(for: argument.address) {
      let isOurs: Bool
      do throws(SystemError) { isOurs = try judge.isLocalHost(keys) } catch { throw .broken(Conversation.noControls) }
      if !isOurs { throw .refused(Reply(553, "sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)")) }
    }
    if settings.maxRecipients > 0 && open.recipients.count >= settings.maxRecipients {
      throw .refused(Reply(452, "too many recipients (#4.5.3)"))
    }
    return argument.address + (settings.relayClient ?? [])
  }

  static let noControls = Reply(421, "unable to read controls (#4.3.0)")

  private mutating func data() -> Step {
    guard let given = transaction.take() else { return .answer(Reply(503, "MAIL first (#5.5.1)")) }
    if given.recipients.isEmpty {
      transaction = consume given  // RCPT may still come
      return .answer(Reply(503, "RCPT first (#5.5.1)"))
    }
    return .receive(given)
  }

  /// Takes note of a reply that is about to be sent. A message that was queued makes up for what was before.
  /// - Returns: how many seconds to wait before sending it.
  mutating func count(_ reply: Reply) -> Int64 {
    guard reply.isRefusal else { return 0 }
    errors += 1
    return settings.softErrors > 0 && errors >= settings.softErrors ? settings.errorSleep : 0
  }

  mutating func forgetErrors() { errors = 0 }
}
