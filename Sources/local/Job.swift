// What local is asked to do, and what it tells the programs of a .qmail file (spec delivery.md 4 and 8).

import Bytes
import Mail

/// One delivery: the arguments of local. Sender and address parts are chosen by strangers.
struct Job {
  /// Account name, its home directory, and the address as it is split: local-part, domain.
  let user, home, local, domain: Bytes
  /// What follows `.qmail` in file names: `-` or nothing, then the extension.
  let dash, ext: Bytes
  /// Reverse-path, unquoted.
  let sender: Bytes
  /// Instructions for who has none of their own, several lines at most.
  let defaultInstructions: Bytes
  /// `-n`: say what would be done, and do nothing.
  let isRehearsal: Bool

  /// - Parameter arguments: `[-nN] user home local dash ext domain sender defaultdelivery`, the program's name left out.
  /// - Returns: nil for anything else, and for a home that is no absolute path.
  init?(arguments: [Bytes]) {
    var rest = arguments[...]
    var isRehearsal = false
    while let first = rest.first, first.count > 1, first[0] == .ascii("-") {
      rest.removeFirst()
      if first.equals("--") { break }
      for option in first.dropFirst() {
        switch option {
        case .ascii("n"): isRehearsal = true
        case .ascii("N"): isRehearsal = false
        default: return nil
        }
      }
    }
    let all = Array(rest)
    guard all.count == 8, all[1].first == .ascii("/") else { return nil }
    user = all[0]
    home = all[1]
    local = all[2]
    dash = all[3]
    ext = all[4]
    domain = all[5]
    sender = all[6]
    defaultInstructions = all[7]
    self.isRehearsal = isRehearsal
  }
}

/// The values of the environment and of the lines put before a delivered message.
extension Job {
  var recipient: Bytes { local + Bytes("@") + domain }

  /// `Delivered-To: local@domain` and a line feed: what a message that comes round again is known by.
  var deliveredTo: Bytes { oneLine(Bytes("Delivered-To: ") + recipient) }

  /// `Return-Path: <sender>` and a line feed.
  var returnPath: Bytes { oneLine(Bytes("Return-Path: <") + Mailbox(sender).quoted + Bytes(">")) }

  /// `From sender date` and a line feed, the first line of a message in an mbox.
  /// - Parameter time: seconds since 1970.
  func fromLine(at time: Int64) -> Bytes {
    var line = Bytes("From ")
    if sender.isEmpty {
      line.append("MAILER-DAEMON")
    } else {
      for byte in sender { line.append(byte.isBlank || byte == .lf ? .ascii("-") : byte) }
    }
    line.append(" ")
    line.append(contentsOf: UTCDate(time).asctime)
    line.append(.lf)
    return line
  }

  /// HOST2, HOST3 and HOST4: the domain before its last, second-last, third-last dot; the same again without one.
  var shorterHosts: [Bytes] {
    var host = domain[...]
    return (0..<3).map { _ in
      if let dot = host.lastIndex(of: .ascii(".")) { host = host[..<dot] }
      return Bytes(host)
    }
  }

  /// EXT2, EXT3 and EXT4: the extension after its first, second, third `-`; empty without one.
  var shorterExtensions: [Bytes] {
    var rest = ext[...]
    return (0..<3).map { _ in
      if let dash = rest.firstIndex(of: .ascii("-")) { rest = rest[(dash + 1)...] } else { rest = [] }
      return Bytes(rest)
    }
  }

  /// The reverse-path of what is forwarded (spec delivery.md 7).
  /// - Parameters:
  ///   - hasOwner: whether the list's `-owner` file exists, so that bounces go to its owner.
  ///   - hasOwnerDefault: whether `-owner-default` exists too, so that each bounce tells who it is about (VERP).
  func newSender(hasOwner: Bool, hasOwnerDefault: Bool) -> Bytes {
    guard !isFromMailer, hasOwner else { return sender }
    let owner = local + Bytes(hasOwnerDefault ? "-owner-@" : "-owner@") + domain
    return hasOwnerDefault ? owner + Bytes("-@[]") : owner
  }

  /// Bounces and double bounces keep their sender, whoever forwards them.
  var isFromMailer: Bool { sender.isEmpty || sender.equals("#@[]") }
}

/// The text as one line: line feeds inside become `_`.
private func oneLine(_ text: Bytes) -> Bytes {
  text.map { $0 == .lf ? .ascii("_") : $0 } + [.lf]
}
