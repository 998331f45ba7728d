// The message on descriptor 0: read from its start by every delivery.

import Bytes
import CShim
import System

/// Why a message could not be copied: the two sides of a copy fail for different reasons and with different texts.
enum CopyFault: Error {
  case reading(SystemError)
  case writing(SystemError)
}

/// The message file. Its position is shared with the programs that are run.
struct Message: ~Copyable {
  private let descriptor: Descriptor

  init(_ descriptor: consuming Descriptor) { self.descriptor = descriptor }

  func rewind() throws(SystemError) { try descriptor.seek(to: 0) }

  /// The rest of the message, piece by piece, until `take` wants no more.
  func read(_ take: (ArraySlice<UInt8>) -> Bool) throws(SystemError) {
    var buffer = Bytes()
    while try descriptor.read(into: &buffer, limit: 65536) > 0 {
      guard take(buffer[...]) else { return }
      buffer.removeAll(keepingCapacity: true)
    }
  }

  /// As `read`, for a taker that can fail.
  func copy(to take: (ArraySlice<UInt8>) throws(SystemError) -> Void) throws(CopyFault) {
    var failure: SystemError?
    do throws(SystemError) {
      try read { piece in
        do throws(SystemError) { try take(piece) } catch { failure = error }
        return failure == nil
      }
    } catch { throw .reading(error) }
    if let failure { throw .writing(failure) }
  }
}

/// Looks for our own Delivered-To line in a message's header, however long its lines are.
struct LoopCheck {
  enum Answer { case undecided, looping, endOfHeader }

  private let wanted: Bytes
  private var column = 0
  private var matches = true

  /// - Parameter line: with its line feed.
  init(_ line: Bytes) { wanted = line }

  mutating func feed(_ bytes: ArraySlice<UInt8>) -> Answer {
    for byte in bytes {
      if byte == .lf {
        if column == 0 { return .endOfHeader }
        if matches && column == wanted.count - 1 { return .looping }
        column = 0
        matches = true
      } else {
        if matches { matches = column < wanted.count - 1 && wanted[column] == byte }
        column += 1
      }
    }
    return .undecided
  }
}
