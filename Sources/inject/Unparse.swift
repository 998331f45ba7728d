// Printing a structured field: spaces, quotes, and folding after commas (spec inject.md 7, "Header form").

import Bytes

/// Prints one field, token by token.
struct FieldPrinter {
  /// Longest line in bytes, its LF not counted. A single item may be longer.
  private static let width = 78

  private var output: Bytes
  private var item = Bytes()  // since the last comma: goes to this line or the next
  private var lineLength = 0
  private var isFirstItem = true
  private var previous: TokenKind? = .colon

  /// - Parameter name: as written, without colon.
  init(name: ArraySlice<UInt8>) {
    output = []
    item.append(contentsOf: name)
    item.append(":")
  }

  mutating func put(_ kind: TokenKind, _ text: Bytes = []) {
    if let previous, FieldPrinter.needSpace(previous, kind) { item.append(.space) }
    previous = kind
    switch kind {
    case .atom: putWord(text)
    case .quoted: putWord(text, .ascii("\""), .ascii("\""))
    case .literal: putWord(text, .ascii("["), .ascii("]"))
    case .comment: putWord(text, .ascii("("), .ascii(")"))
    case .comma:
      item.append(",")
      endItem()
    default: item.append(kind.byte)
    }
  }

  mutating func put(_ token: Token) { put(token.kind, token.text) }

  /// The field with its final LF.
  consuming func finish() -> Bytes {
    if !item.isEmpty { endItem() }
    output.append(.lf)
    return output
  }

  private mutating func putWord(_ text: Bytes, _ open: UInt8? = nil, _ close: UInt8? = nil) {
    if let open { item.append(open) }
    for byte in text {
      switch byte {
      case .ascii("\""), .ascii("["), .ascii("]"), .ascii("("), .ascii(")"), .ascii("\\"), .cr, .lf:
        item.append("\\")
      default: break
      }
      item.append(byte)
    }
    if let close { item.append(close) }
  }

  /// Puts the item where it fits. After a comma it starts with a space, so a new line starts with two.
  private mutating func endItem() {
    if !isFirstItem, lineLength + item.count > FieldPrinter.width {
      output.append("\n ")
      lineLength = 1
    }
    output.append(contentsOf: item)
    lineLength += item.count
    item.removeAll(keepingCapacity: true)
    isFirstItem = false
  }

  private static func needSpace(_ left: TokenKind, _ right: TokenKind) -> Bool {
    left == .colon || left == .comma || right == .left || left.hasText && right.hasText
  }
}
