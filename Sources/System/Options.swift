// A command line, read as getopt(3) reads it.

import Bytes

/// Option letters in the order given: `-a -b` and `-ab` are the same, a value is the rest of its word or the next word.
/// Options end at `--`, before a lone `-` and before the first word that does not start with `-`.
public struct Options {
  private var words: ArraySlice<Bytes>
  private var letters: ArraySlice<UInt8> = []
  private var isOver = false

  /// - Parameter arguments: without the program's name.
  public init(_ arguments: [Bytes]) { words = arguments[...] }

  /// The next letter; nil when only operands are left.
  public mutating func next() -> UInt8? {
    if letters.isEmpty {
      guard !isOver, let word = words.first, word.count > 1, word[0] == .ascii("-") else { return nil }
      words.removeFirst()
      if word.equals("--") {
        isOver = true
        return nil
      }
      letters = word.dropFirst()
    }
    return letters.popFirst()
  }

  /// The value of the letter just read; nil if the command line ends before it.
  public mutating func value() -> Bytes? {
    letters.isEmpty ? words.popFirst() : attachedValue()
  }

  /// The rest of the word of the letter just read, for values that never stand alone; may be empty.
  public mutating func attachedValue() -> Bytes {
    let value = Bytes(letters)
    letters = []
    return value
  }

  /// The words after the options.
  public var operands: [Bytes] { Array(words) }
}
