// Who may connect: rules in the text form of tcprules (spec pipes.md 8).

import Bytes
import System

/// The rules of a service, looked up by the peer's IP address.
///
/// A line is `ADDRESS:allow` or `ADDRESS:deny`, then any number of `,NAME="value"`, where instead of `"` any byte
/// may stand on both sides. ADDRESS is a whole IP address, the front of one that ends in `.` (IPv6: in `:`), an IPv4 range
/// like `10.0.0.1-5` or `10.1-3.`, or nothing, which fits everybody. Of equal addresses the first line counts. Rules
/// for host names (`=...`) and users (`...@...`) never fit, since neither is asked for.
struct Rules {
  struct Rule: Equatable {
    let allows: Bool
    /// For the environment of the program that serves the connection.
    let variables: [Variable]
  }

  struct Variable: Equatable {
    let name, value: Bytes
  }

  /// A line that cannot be understood.
  struct Fault: Error {
    let line: Bytes
    let what: StaticString
  }

  /// Most addresses, ranges written out.
  static let limit = 500_000

  private var table: [Bytes: Rule] = [:]
  /// Lines that are in order but can never fit.
  private(set) var idle: [Bytes] = []

  /// Everybody may connect.
  init() {}

  /// - Parameter lines: as ``Control/list(_:)`` gives them.
  init(_ lines: [Bytes]) throws(Fault) {
    for line in lines {
      // An IPv6 address has colons of its own, but none in front of these words.
      guard let (colon, allows) = Rules.decision(in: line) else {
        throw Fault(line: line, what: "neither :allow nor :deny")
      }
      let rest = line[(colon + (allows ? 6 : 5))...]
      guard let variables = Rules.variables(rest) else { throw Fault(line: line, what: "bad variable") }
      guard let addresses = Rules.addresses(line[..<colon]) else { throw Fault(line: line, what: "bad range") }
      if addresses.contains(where: { !Rules.canFit($0) }) { idle.append(line) }
      for address in addresses where table[address] == nil {
        table[address] = Rule(allows: allows, variables: variables)
      }
      if table.count > Rules.limit { throw Fault(line: line, what: "too many addresses") }
    }
  }

  /// The rule for a peer: that of its address, of the longest front of it, or of everybody; without any, it is allowed.
  func rule(for peer: Bytes) -> Rule {
    if let rule = table[peer] { return rule }
    for end in peer.indices.reversed() where peer[end] == .ascii(".") || peer[end] == .ascii(":") {
      if let rule = table[Bytes(peer[...end])] { return rule }
    }
    return table[[]] ?? Rule(allows: true, variables: [])
  }

  /// Where the colon before `allow` or `deny` stands.
  private static func decision(in line: Bytes) -> (colon: Int, allows: Bool)? {
    for index in line.indices where line[index] == .ascii(":") {
      let word = line[(index + 1)...].prefix { $0 != .ascii(",") }
      if word.equals("allow") { return (index, true) }
      if word.equals("deny") { return (index, false) }
    }
    return nil
  }

  /// `,NAME="value",NAME=/value/`; nil if it is not that.
  private static func variables(_ text: ArraySlice<UInt8>) -> [Variable]? {
    var variables: [Variable] = []
    var rest = text
    while !rest.isEmpty {
      guard rest.popFirst() == .ascii(","), let equals = rest.firstIndex(of: .ascii("=")), equals > rest.startIndex
      else { return nil }
      let name = Bytes(rest[..<equals])
      rest = rest[(equals + 1)...]
      guard let quote = rest.popFirst(), let end = rest.firstIndex(of: quote) else { return nil }
      let value = Bytes(rest[..<end])
      guard !name.contains(.nul), !value.contains(.nul) else { return nil }
      variables.append(Variable(name: name, value: value))
      rest = rest[(end + 1)...]
    }
    return variables
  }

  /// The address, or all that a range stands for; nil if the range is none.
  private static func addresses(_ text: ArraySlice<UInt8>) -> [Bytes]? {
    guard !text.contains(.ascii("=")), !text.contains(.ascii("@")), let dash = text.firstIndex(of: .ascii("-")) else {
      return [Bytes(text)]
    }
    let front = text[..<dash].lastIndex(of: .ascii(".")).map { $0 + 1 } ?? text.startIndex
    let back = text[dash...].firstIndex(of: .ascii(".")) ?? text.endIndex
    guard let from = text[front..<dash].decimal, let to = text[(dash + 1)..<back].decimal, from <= to, to <= 255 else {
      return nil
    }
    return (from...to).map { Bytes(text[..<front]) + Bytes(decimal: $0) + Bytes(text[back...]) }
  }

  private static func canFit(_ address: Bytes) -> Bool {
    if address.contains(.ascii("=")) || address.contains(.ascii("@")) { return false }
    return address.isEmpty || address.last == .ascii(".") || address.last == .ascii(":")
      || Socket.family(of: address) != nil
  }
}
