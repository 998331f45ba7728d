// What is offered where.

import Bytes
import System

/// A service: which program serves a connection, and which control file says who may connect.
enum Service {
  case smtp

  var name: StaticString { "smtp" }
  /// Below the home.
  var program: StaticString { "bin/apus-smtpd" }
  var rules: StaticString { "control/rules.smtp" }

  enum Fault: Error {
    /// Services that need tlsd, which there is not yet.
    case needsTLS
    case unknown
  }

  init(_ name: ArraySlice<UInt8>) throws(Fault) {
    if name.equals("smtp") {
      self = .smtp
    } else if name.equals("submission") || name.equals("submissions") {
      throw .needsTLS
    } else {
      throw .unknown
    }
  }
}

/// One line of `control/listen`: `NAME ADDRESS:PORT`, an IPv6 address in brackets.
struct Place {
  let service: Service
  let address: Bytes
  let port: UInt32

  enum Fault: Error {
    case service(Service.Fault)
    /// Not of the form above, no IP address, or a port outside 1...65535.
    case syntax

    var text: StaticString {
      switch self {
      case .service(.needsTLS): return "this service needs tlsd, which is not there"
      case .service(.unknown): return "no such service"
      case .syntax: return "not NAME ADDRESS:PORT"
      }
    }
  }

  init(service: Service, address: Bytes, port: UInt32) {
    self.service = service
    self.address = address
    self.port = port
  }

  init(_ line: Bytes) throws(Fault) {
    let words = line.split { $0.isBlank }
    guard words.count == 2, let colon = words[1].lastIndex(of: .ascii(":")) else { throw .syntax }
    do throws(Service.Fault) { service = try Service(words[0]) } catch { throw .service(error) }
    var host = words[1][..<colon]
    let isBracketed = host.first == .ascii("[") && host.last == .ascii("]")
    if isBracketed { host = host.dropFirst().dropLast() }
    guard let family = Socket.family(of: Bytes(host)), (family == 6) == isBracketed,
      let port = words[1][(colon + 1)...].decimal, (1...65535).contains(port)
    else { throw .syntax }
    address = Bytes(host)
    self.port = UInt32(port)
  }
}

/// Sockets that a service manager hands down (sd_listen_fds(3)): descriptors from 3 on.
enum HandedDown {
  /// - Parameters: the values of `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES`.
  /// - Returns: descriptors and their names, nil where there is none; nothing if they are meant for another process.
  static func sockets(fds: Bytes?, pid: Bytes?, names: Bytes?, process: Int32) -> [(number: Int32, name: Bytes?)] {
    guard let count = fds?.decimal, count > 0, count <= 64, let pid = pid?.decimal, pid == UInt64(process) else {
      return []
    }
    let given = names?.split(separator: .ascii(":"), omittingEmptySubsequences: false) ?? []
    var sockets: [(number: Int32, name: Bytes?)] = []
    for index in 0..<Int(count) {
      sockets.append((number: Int32(3 + index), name: index < given.count ? Bytes(given[index]) : nil))
    }
    return sockets
  }
}
