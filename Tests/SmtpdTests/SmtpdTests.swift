import Bytes
import Control
import SMTP
import System

@testable import smtpd

extension Settings {
  /// As read from control files: `mx.test` is `me`, with what is named changed.
  static func sample(
    databytes: UInt64 = 0, maxRecipients: UInt64 = 1000, softErrors: UInt64 = 10, hardErrors: UInt64 = 20,
    relayClient: StaticString? = nil, badSenders: [StaticString] = []
  ) -> Settings {
    Settings(
      greeting: Bytes("mx.test"), timeout: 1200, sessionTime: 3600, databytes: databytes, maxRecipients: maxRecipients,
      softErrors: softErrors, hardErrors: hardErrors, errorSleep: 1, relayClient: relayClient.map { Bytes($0) },
      badSenders: ControlSet(badSenders.map { Bytes($0) }), localName: Bytes("mx.test"), noHost: Bytes("nohost.test"))
  }
}

/// Knows some names and addresses; `broken` makes every question fail.
struct FakeJudge: Judge {
  var names = [Bytes("mx.test"), Bytes(".sub.test")]
  var broken = false

  func isLocalHost(_ keys: [Bytes]) throws(SystemError) -> Bool {
    if broken { throw SystemError("read", code: 5) }
    return keys.contains { names.contains($0) }
  }
  func isOwnAddress(_ address: Bytes) throws(SystemError) -> Bool {
    if broken { throw SystemError("getifaddrs", code: 5) }
    return address == Bytes("192.0.2.1")
  }
}

/// What came out of a conversation: replies as sent, and the transactions given to DATA.
struct Outcome {
  var replies: [Bytes] = []
  var transactions: [(sender: Bytes, recipients: [Bytes])] = []
  var ended: StaticString?
  var delays: [Int64] = []
}

/// Holds a conversation. A message is taken for received at once; the conversation learns of `final` as its reply.
func converse(
  with settings: Settings = .sample(), judge: FakeJudge = FakeJudge(), final: Reply = Reply(250, "ok"), _ lines: [Bytes]
) -> Outcome {
  var conversation = Conversation(settings: settings)
  var outcome = Outcome()
  for line in lines where outcome.ended == nil {
    let reply: Reply
    switch conversation.step(.line(line), asking: judge) {
    case .answer(let answer): reply = answer
    case .receive(let transaction):
      outcome.transactions.append((transaction.sender, transaction.recipients))
      reply = final
      if !final.isRefusal { conversation.forgetErrors() }
    case .quit(let answer):
      outcome.ended = "quit"
      reply = answer
    case .abandon(let answer):
      outcome.ended = "abandon"
      reply = answer
    }
    outcome.delays.append(conversation.count(reply))
    outcome.replies.append(reply.wire(extended: conversation.isExtended))
  }
  return outcome
}

func converse(with settings: Settings = .sample(), judge: FakeJudge = FakeJudge(), _ lines: StaticString...) -> Outcome
{
  converse(with: settings, judge: judge, lines.map { Bytes($0) })
}
