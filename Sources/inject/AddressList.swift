// Address lists: the tokens of a structured field, and which of them are addresses (spec inject.md 6).

import Bytes

/// What a token is (RFC 822, 3.3). The first four have text, the others are one byte each.
enum TokenKind: UInt8 {
  case atom, quoted, literal, comment
  case dot, comma, at, left, right, colon, semicolon

  var hasText: Bool { rawValue <= TokenKind.comment.rawValue }

  /// The byte of a special.
  var byte: UInt8 {
    switch self {
    case .dot: return .ascii(".")
    case .comma: return .ascii(",")
    case .at: return .ascii("@")
    case .left: return .ascii("<")
    case .right: return .ascii(">")
    case .colon: return .ascii(":")
    case .semicolon: return .ascii(";")
    case .atom, .quoted, .literal, .comment: return .space
    }
  }

  init?(special byte: UInt8) {
    switch byte {
    case .ascii("."): self = .dot
    case .ascii(","): self = .comma
    case .ascii("@"): self = .at
    case .ascii("<"): self = .left
    case .ascii(">"): self = .right
    case .ascii(":"): self = .colon
    case .ascii(";"): self = .semicolon
    default: return nil
    }
  }
}

/// One token by itself. `text` has neither delimiters nor backslashes.
struct Token: Equatable {
  var kind: TokenKind
  var text = Bytes()

  /// As an envelope address has it: words without quotes, literals with their brackets, comments not at all.
  func appendEnvelopeForm(to address: inout Bytes) {
    switch kind {
    case .atom, .quoted: address.append(contentsOf: text)
    case .literal:
      address.append("[")
      address.append(contentsOf: text)
      address.append("]")
    case .comment: break
    default: address.append(kind.byte)
    }
  }
}

extension Array where Element == Token {
  /// The address as the queue has it, unquoted.
  var envelopeForm: Bytes {
    var address = Bytes()
    for token in self { token.appendEnvelopeForm(to: &address) }
    return address
  }
}

/// All tokens of a text. Five bytes of bookkeeping for each, because a field may have millions of them.
struct Tokens {
  private var text = Bytes()
  private var kinds: [TokenKind] = []
  private var ends: [UInt32] = []  // where in `text` each token's own ends

  private static let backslash = UInt8.ascii("\\")

  var count: Int { kinds.count }
  func kind(_ index: Int) -> TokenKind { kinds[index] }

  subscript(index: Int) -> Token {
    let start = index == 0 ? 0 : Int(ends[index - 1])
    return Token(kind: kinds[index], text: Bytes(text[start..<Int(ends[index])]))
  }

  var all: [Token] { kinds.indices.map { self[$0] } }

  /// nil for a stray `)` or `]`, for a construct that does not end, and for NUL, which no envelope can carry.
  init?(_ source: ArraySlice<UInt8>) {
    guard !source.contains(0) else { return nil }
    var at = source.startIndex
    while at < source.endIndex {
      let byte = source[at]
      if let special = TokenKind(special: byte) {
        end(special)
        at += 1
        continue
      }
      var next: Int?
      switch byte {
      case .space, .tab, .cr, .lf: next = at + 1
      case .ascii(")"), .ascii("]"): next = nil
      case .ascii("("): next = delimited(.comment, source, at + 1, open: byte, close: .ascii(")"))
      case .ascii("["): next = delimited(.literal, source, at + 1, open: nil, close: .ascii("]"))
      case .ascii("\""): next = delimited(.quoted, source, at + 1, open: nil, close: .ascii("\""))
      default: next = atom(source, at)
      }
      guard let next else { return nil }
      at = next
    }
  }

  private mutating func end(_ kind: TokenKind) {
    kinds.append(kind)
    ends.append(UInt32(text.count))
  }

  /// Takes what stands before the closing delimiter. Depth is a number, not recursion.
  private mutating func delimited(
    _ kind: TokenKind, _ source: ArraySlice<UInt8>, _ start: Int, open: UInt8?, close: UInt8
  ) -> Int? {
    var depth = 1
    var at = start
    while at < source.endIndex {
      var byte = source[at]
      at += 1
      if byte == Tokens.backslash {
        guard at < source.endIndex else { return nil }
        byte = source[at]
        at += 1
      } else if byte == close {
        depth -= 1
        if depth == 0 {
          end(kind)
          return at
        }
      } else if byte == open {
        depth += 1
      }
      text.append(byte)
    }
    return nil
  }

  /// Takes an atom, which becomes a quoted token if it could not be printed as an atom again.
  private mutating func atom(_ source: ArraySlice<UInt8>, _ start: Int) -> Int? {
    var kind = TokenKind.atom
    var at = start
    while at < source.endIndex, !Tokens.endsAtom(source[at]) {
      var byte = source[at]
      at += 1
      if byte == Tokens.backslash {
        guard at < source.endIndex else { return nil }
        byte = source[at]
        at += 1
      }
      if Tokens.needsQuotes(byte) { kind = .quoted }
      text.append(byte)
    }
    end(kind)
    return at
  }

  private static func endsAtom(_ byte: UInt8) -> Bool {
    switch byte {
    case .space, .tab, .cr, .lf, .ascii("("), .ascii("["), .ascii("\""): return true
    default: return TokenKind(special: byte) != nil
    }
  }

  private static func needsQuotes(_ byte: UInt8) -> Bool {
    switch byte {
    case 0...32, 127...255, .ascii(")"), .ascii("]"), backslash: return true
    default: return TokenKind(special: byte) != nil
    }
  }
}

/// A list of addresses, read from right to left: that way a phrase is known for one before it is read.
struct AddressList {
  /// Stands in ``order`` for a comma that was missing between two addresses.
  static let insertedComma: Int32 = -1
  /// An address of more tokens is a parse failure. Its envelope form would be too long for the queue long before.
  static let longestAddress = 4096

  let tokens: Tokens
  /// Indices of tokens in the order to print them: comments inside an address have moved to its right.
  private(set) var order: [Int32] = []
  /// Where in `order` the addresses are, left to right. Empty for `<>`.
  private(set) var addresses: [Range<Int>] = []
  private(set) var hasInsertedComma = false

  private var pending: [Int32] = []  // of the address being read, right to left
  private var next: Int  // token to read

  /// nil if it is no address list.
  init?(_ tokens: Tokens) {
    self.tokens = tokens
    next = tokens.count - 1
    guard read() else { return nil }
    let count = order.count
    order.reverse()
    addresses.reverse()
    for i in addresses.indices { addresses[i] = (count - addresses[i].upperBound)..<(count - addresses[i].lowerBound) }
  }

  /// The tokens of one address.
  func address(_ range: Range<Int>) -> [Token] { order[range].map { tokens[Int($0)] } }

  private mutating func read() -> Bool {
    var inGroup = false
    var wordMayFollow = true  // nothing stands to the right that a word would have to be parted from
    while next >= 0 {
      switch tokens.kind(next) {
      case .semicolon:
        flush(comma: true)
        if inGroup { return false }
        inGroup = true
        wordMayFollow = true
        keep()
      case .colon:
        flush(comma: false)
        if !inGroup { return false }
        inGroup = false
        wordMayFollow = true
        while next >= 0, tokens.kind(next) != .comma { keep() }
        if next >= 0 { keep() }
      case .right:
        guard readAngleAddress() else { return false }
        wordMayFollow = false
      case .atom, .quoted, .literal:
        if !wordMayFollow { flush(comma: true) }
        wordMayFollow = false
        guard take() else { return false }
      case .comment: keep()
      case .comma:
        flush(comma: false)
        wordMayFollow = true
        keep()
      case .dot, .at, .left:
        wordMayFollow = true
        guard take() else { return false }
      }
    }
    flush(comma: false)
    return true
  }

  /// `phrase <address>`.
  private mutating func readAngleAddress() -> Bool {
    flush(comma: true)
    keep()
    while next >= 0, tokens.kind(next) != .left {
      if tokens.kind(next) == .comment { keep() } else { guard take() else { return false } }
    }
    guard next >= 0 else { return false }
    endAddress()
    keep()
    phrase: while next >= 0 {
      switch tokens.kind(next) {
      case .comment, .atom, .quoted, .at, .dot: keep()
      default: break phrase
      }
    }
    return true
  }

  /// The token is no part of an address.
  private mutating func keep() {
    order.append(Int32(next))
    next -= 1
  }

  /// The token belongs to the address. - Returns: false if that is too long now.
  private mutating func take() -> Bool {
    pending.append(Int32(next))
    next -= 1
    return pending.count <= AddressList.longestAddress
  }

  private mutating func endAddress() {
    let start = order.count
    order.append(contentsOf: pending)
    pending.removeAll(keepingCapacity: true)
    addresses.append(start..<order.count)
  }

  private mutating func flush(comma: Bool) {
    guard !pending.isEmpty else { return }
    endAddress()
    if comma {
      order.append(AddressList.insertedComma)
      hasInsertedComma = true
    }
  }
}
