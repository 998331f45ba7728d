// The log: lines on descriptor 0 (spec send.md 9).

import Bytes
import System

/// Lines are collected and go out together before send waits; an alert goes out at once.
struct Log: ~Copyable {
  private var output = Output(Descriptor.standard(0), capacity: 65536)

  /// One line: our words, then text that is safe already.
  mutating func line(_ text: String, _ rest: Bytes = []) {
    // A log that cannot be written must not stop the mail.
    try? output.put(Bytes(text.utf8) + rest + [.lf])
  }

  mutating func warning(_ what: StaticString, _ path: Path, _ after: StaticString = "") {
    line("warning: ", Bytes(what) + [.space] + path.bytes + Bytes(after))
  }

  mutating func alert(_ text: StaticString) {
    line("alert: ", Bytes(text))
    flush()
  }

  mutating func flush() { try? output.flush() }
}
