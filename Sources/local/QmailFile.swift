// .qmail files: which of them decides, and what it says (spec delivery.md 5 and 6). No I/O.

import Bytes

/// Limits of a .qmail file; the same numbers are in dot-qmail(5).
enum QmailFile {
  /// Longest file, in bytes: room for more than a hundred thousand forward addresses.
  static let sizeLimit = 4 << 20

  /// The extension as it stands in file names: lowercase, and `:` for a dot, so that no name goes up a directory.
  static func safe(_ ext: Bytes) -> Bytes {
    ext.map { $0 == .ascii(".") ? .ascii(":") : $0.lowercased }
  }
}

/// A file that may decide about an address.
struct Candidate: Equatable {
  /// Relative to the home directory.
  let name: Bytes
  /// What $DEFAULT is, if this file decides; nil: it is not set.
  let matchedByDefault: Bytes?
}

/// The files to try, most specific first: the address itself, then a default for each `-` in the extension, then the
/// default for all.
struct Candidates: Sequence, IteratorProtocol {
  private let prefix: Bytes
  private let ext: Bytes
  private let safe: Bytes
  /// How many bytes of the extension come before `default`; nil: the exact name comes first.
  private var kept: Int?

  init(dash: Bytes, ext: Bytes) {
    prefix = Bytes(".qmail") + dash
    self.ext = ext
    safe = QmailFile.safe(ext)
  }

  mutating func next() -> Candidate? {
    guard var at = kept else {
      kept = safe.count
      return Candidate(name: prefix + safe, matchedByDefault: safe.hasSuffix("default") ? Bytes(ext.suffix(7)) : nil)
    }
    while at > 0 && safe[at - 1] != .ascii("-") { at -= 1 }
    guard at >= 0 else { return nil }
    kept = at - 1
    return Candidate(name: prefix + safe.prefix(at) + Bytes("default"), matchedByDefault: Bytes(ext[at...]))
  }
}

/// What one line asks for. Payloads are what stands in the line, without trailing blanks.
enum Instruction: Equatable {
  /// A comment, an unknown flag, or a blank line that is not the first.
  case nothing
  /// The first line is blank, which is a sign of a file under construction.
  case blankStart
  /// A shell command.
  case program(ArraySlice<UInt8>)
  /// A file, with its first byte.
  case mbox(ArraySlice<UInt8>)
  /// A directory, with the slash at its end.
  case maildir(ArraySlice<UInt8>)
  /// `+list`: from here on only forward lines are allowed.
  case forwardOnly
  /// An address, taken literally.
  case forward(ArraySlice<UInt8>)

  /// - Parameter line: without its line feed.
  init(_ line: ArraySlice<UInt8>, isFirst: Bool) {
    // A NUL can stand in no path, argument or address: the line ends before it.
    let text = line.prefix { $0 != 0 }.trimmedEnd
    switch text.first {
    case nil: self = isFirst ? .blankStart : .nothing
    case UInt8(ascii: "#"): self = .nothing
    case UInt8(ascii: "|"): self = .program(text.dropFirst())
    case UInt8(ascii: "."), UInt8(ascii: "/"): self = text.last == .ascii("/") ? .maildir(text) : .mbox(text)
    case UInt8(ascii: "+"): self = text.equals("+list") ? .forwardOnly : .nothing
    case UInt8(ascii: "&"): self = .forward(text.dropFirst())
    default: self = .forward(text)
    }
  }
}

/// The lines of a .qmail file as instructions. An empty text is one blank line.
struct Instructions: Sequence {
  let text: Bytes

  struct Iterator: IteratorProtocol {
    private let text: Bytes
    private var start = 0
    private var isFirst = true

    init(_ text: Bytes) { self.text = text }

    mutating func next() -> Instruction? {
      guard start < text.count || isFirst else { return nil }
      let end = text[start...].firstIndex(of: .lf) ?? text.count
      defer {
        start = end + 1
        isFirst = false
      }
      return Instruction(text[start..<end], isFirst: isFirst)
    }
  }

  func makeIterator() -> Iterator { Iterator(text) }
}
