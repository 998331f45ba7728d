// Rewriting: making every address complete (spec inject.md 7).

import Bytes

/// The domains that complete an address, as tokens.
struct RewritingRules {
  private let hostSuffix, domainSuffix, plusSuffix: [Token]

  /// nil if one of them cannot be part of an address.
  init?(defaultHost: Bytes, defaultDomain: Bytes, plusDomain: Bytes) {
    guard let host = Tokens(defaultHost[...]), let domain = Tokens(defaultDomain[...]),
      let plus = Tokens(plusDomain[...])
    else { return nil }
    hostSuffix = [Token(kind: .at)] + host.all
    domainSuffix = [Token(kind: .dot)] + domain.all
    plusSuffix = [Token(kind: .dot)] + plus.all
  }

  /// The six rules, in their order. What a rule empties stays empty.
  func rewrite(_ tokens: [Token]) -> [Token] {
    if tokens.isEmpty || RewritingRules.hasEmptyLiteral(tokens) { return tokens }
    var address = RewritingRules.withoutRoute(tokens)
    if address.last?.kind == .dot { address.removeLast() }
    if address.last?.kind == .at { address.removeLast() }
    if address.isEmpty { return [] }
    if !address.contains(where: { $0.kind == .at }) { address += hostSuffix }
    expandPlus(&address)
    if !RewritingRules.hasWholeDomain(address) { address += domainSuffix }
    return address
  }

  /// `box@[]`, a VERP sender: never touched.
  private static func hasEmptyLiteral(_ address: [Token]) -> Bool {
    address.count >= 2 && address[address.count - 2].kind == .at && address[address.count - 1] == Token(kind: .literal)
  }

  /// `@a,@b:box@c` is `box@c`.
  private static func withoutRoute(_ address: [Token]) -> [Token] {
    guard address[0].kind == .at else { return address }
    guard let colon = address.firstIndex(where: { $0.kind == .colon }) else { return [] }
    return Array(address[(colon + 1)...])
  }

  /// `box@cs+` is `box@cs.` and plusdomain.
  private func expandPlus(_ address: inout [Token]) {
    let last = address.count - 1
    guard address[last].kind == .atom, address[last].text.last == .ascii("+") else { return }
    address[last].text.removeLast()
    address += plusSuffix
  }

  /// Whether a dot or a literal stands after the last `@`.
  private static func hasWholeDomain(_ address: [Token]) -> Bool {
    for token in address.reversed() {
      switch token.kind {
      case .dot, .literal: return true
      case .at: return false
      default: continue
      }
    }
    return false
  }
}

/// An address field after rewriting.
struct RewrittenField: Equatable {
  /// With its final LF; the bytes as they came if no address changed.
  let bytes: Bytes
  /// The addresses in written order, as the queue has them. Empty ones are among them.
  let addresses: [Bytes]
}

/// Why an address field cannot be used.
enum AddressFault: Error {
  case unparsable
  /// More than ``RewritingRules/mostAddresses``.
  case tooMany
}

extension RewritingRules {
  /// Most addresses in one field, and most recipients of one message.
  static let mostAddresses = 1_000_000

  func rewrite(_ field: Field) throws(AddressFault) -> RewrittenField {
    guard let tokens = Tokens(field.body), let list = AddressList(tokens) else { throw .unparsable }
    guard list.addresses.count <= RewritingRules.mostAddresses else { throw .tooMany }

    var printer = FieldPrinter(name: field.name)
    var changed = list.hasInsertedComma
    var addresses: [Bytes] = []
    var printed = 0
    for range in list.addresses {
      for index in list.order[printed..<range.lowerBound] { list.print(index, to: &printer) }
      printed = range.upperBound
      let before = list.address(range)
      let after = rewrite(before)
      if after != before { changed = true }
      for token in after { printer.put(token) }
      addresses.append(after.envelopeForm)
    }
    for index in list.order[printed...] { list.print(index, to: &printer) }
    return RewrittenField(bytes: changed ? printer.finish() : field.bytes, addresses: addresses)
  }

  /// Completes one raw address, `box@host`, and gives it as the queue has it; nil if the host is no host.
  func complete(quoted address: Bytes) -> Bytes? {
    guard let tokens = Tokens(address[...]) else { return nil }
    return rewrite(tokens.all).envelopeForm
  }
}

extension AddressList {
  fileprivate func print(_ index: Int32, to printer: inout FieldPrinter) {
    if index == AddressList.insertedComma { printer.put(.comma) } else { printer.put(tokens[Int(index)]) }
  }
}
