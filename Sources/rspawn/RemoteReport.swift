// From what remote printed to what send reads (spec pipes.md 5). Pure.

import Bytes

/// The report on the one recipient of a run of remote that exited with 0.
///
/// remote prints a record for each recipient it could try (r, s or h), then one for the message (K, Z or D), each ended
/// by NUL. What lacks its NUL was cut by an accident and is not looked at. Without a record for the message nobody
/// has taken it: that is temporary, unless the server has refused the recipient for good.
func remoteReport(_ output: Bytes) -> Bytes {
  if output.isEmpty { return Bytes("Zqmail-remote produced no output.\n") }
  var records = output.split(separator: 0, omittingEmptySubsequences: false)
  records.removeLast()  // what follows the last NUL
  guard let first = records.first else { return Bytes("Zqmail-remote was cut short.\n") }

  let message = records.first { messageResult($0) != nil }.flatMap(messageResult)
  let result: Result
  switch first.first {
  case .ascii("s"): result = .temporary
  case .ascii("h"): result = .permanent
  default: result = message ?? .temporary
  }

  var text = Bytes(first.dropFirst())
  if let message, message.rawValue <= result.rawValue, records.count > 1, messageResult(records[1]) != nil {
    text += records[1].dropFirst()
  }
  if text.isEmpty && message == nil { text = Bytes("qmail-remote was cut short.\n") }
  return [result.letter] + text
}

/// What became of the message, the better the higher.
private enum Result: Int {
  case permanent = -1
  case temporary = 0
  case delivered = 1

  var letter: UInt8 {
    switch self {
    case .permanent: .ascii("D")
    case .temporary: .ascii("Z")
    case .delivered: .ascii("K")
    }
  }
}

private func messageResult(_ record: ArraySlice<UInt8>) -> Result? {
  switch record.first {
  case .ascii("K"): .delivered
  case .ascii("Z"): .temporary
  case .ascii("D"): .permanent
  default: nil
  }
}
