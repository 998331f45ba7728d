// The two ends of remote: the socket to the server, and the message on descriptor 0.

import Bytes
import CShim
import SMTP
import System

/// A connected, non-blocking socket. Each read and each write may take as long as the time-out.
final class Connection: Transport {
  private let socket: Descriptor
  /// In milliseconds.
  private let timeout: Int64
  private var parser = ReplyParser()
  private var unread = ArraySlice<UInt8>()

  init(_ socket: consuming Descriptor, timeout: Int64) {
    self.socket = socket
    self.timeout = timeout
  }

  func write(_ bytes: Bytes) throws(ConnectionLost) {
    var rest = bytes[...]
    while !rest.isEmpty {
      do throws(SystemError) {
        rest = rest.dropFirst(try socket.writeSome(rest))
      } catch {
        guard error.code == EWOULDBLOCK, (try? Wait.writable(socket.number, milliseconds: timeout)) == true else {
          throw ConnectionLost()
        }
      }
    }
  }

  func reply() throws(ConnectionLost) -> ReplyParser.Reply {
    while true {
      switch parser.feed(&unread) {
      case .reply(let reply): return reply
      case .overrun: throw ConnectionLost()
      case .more: try readMore()
      }
    }
  }

  private func readMore() throws(ConnectionLost) {
    var bytes = Bytes()
    while bytes.isEmpty {
      guard (try? Wait.readable(socket.number, milliseconds: timeout)) == true else { throw ConnectionLost() }
      do throws(SystemError) {
        if try socket.read(into: &bytes, limit: 4096) == 0 { throw SystemError("read", code: EPIPE) }
      } catch {
        if error.code != EWOULDBLOCK { throw ConnectionLost() }
      }
    }
    unread = bytes[...]
  }
}

/// The message on descriptor 0, from where it stands.
final class MessageFile: MessageText {
  private let file: Descriptor
  private static let pieceSize = 16384

  init(_ file: consuming Descriptor) { self.file = file }

  func next() throws(SystemError) -> Bytes? {
    var piece = Bytes()
    return try file.read(into: &piece, limit: MessageFile.pieceSize) == 0 ? nil : piece
  }

  /// Reads the message once before it is sent, which only a file allows.
  func survey() -> (size: Int, isEightBit: Bool)? {
    do throws(SystemError) {
      let start = try file.seek(to: 0, from: SEEK_CUR)
      var size = 0
      var isEightBit = false
      var last: UInt8 = .lf
      while let piece = try next() {
        size += piece.count
        for byte in piece {
          if byte == .lf { size += 1 }  // goes out as CR LF
          if byte > 127 { isEightBit = true }
        }
        last = piece.last ?? last
      }
      if last != .lf { size += 2 }
      try file.seek(to: start)
      return (size, isEightBit)
    } catch {
      return nil
    }
  }
}
