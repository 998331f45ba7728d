// TCP connections. Addresses are text: `192.0.2.1` or `2001:db8::1`.

import Bytes
import CShim

/// Both ends of a connection as text.
public struct Endpoints {
  public let peer: Bytes
  public let peerPort: UInt32
  public let local: Bytes
  public let localPort: UInt32
}

public enum Socket {
  /// 4 or 6 for an IPv4 or IPv6 address, nil for anything else.
  public static func family(of text: Bytes) -> Int? {
    guard !text.contains(0) else { return nil }
    let family = text.withCString { shim_is_address($0) }
    return family == 0 ? nil : Int(family)
  }

  /// Whether the address belongs to this machine.
  public static func isOwn(_ address: Bytes) throws(SystemError) -> Bool {
    let answer = address.withCString { sys_is_own_address($0) }
    if answer < 0 { throw SystemError("getifaddrs") }
    return answer != 0
  }

  /// A listening socket, non-blocking.
  public static func listen(_ address: Bytes, port: UInt32, backlog: Int32) throws(SystemError) -> Descriptor {
    let raw = address.withCString { sys_listen_tcp($0, port, backlog) }
    if raw < 0 { throw SystemError("bind") }
    return Descriptor(owning: raw)
  }

  /// The next connection; nil when there is none or it has gone already.
  public static func accept(_ listening: Int32) throws(SystemError) -> (Int32, Endpoints)? {
    var peer = [CChar](repeating: 0, count: 64)
    var local = [CChar](repeating: 0, count: 64)
    var peerPort: UInt32 = 0
    var localPort: UInt32 = 0
    let raw = sys_accept_tcp(listening, &peer, &peerPort, &local, &localPort)
    if raw < 0 {
      switch shim_errno() {
      case EWOULDBLOCK, EINTR, ECONNABORTED: return nil
      default: throw SystemError("accept")
      }
    }
    return (
      raw,
      Endpoints(peer: Bytes(cString: peer), peerPort: peerPort, local: Bytes(cString: local), localPort: localPort)
    )
  }

  /// Connects within the time. The descriptor is non-blocking.
  /// - Throws: ETIMEDOUT when the time was over, else what the kernel says.
  public static func connect(to address: Bytes, port: UInt32, milliseconds: Int64) throws(SystemError) -> Descriptor {
    let raw = address.withCString { sys_socket_tcp($0) }
    if raw < 0 { throw SystemError("socket") }
    let socket = Descriptor(owning: raw)
    if address.withCString({ sys_connect_tcp(raw, $0, port) }) == 0 { return socket }
    if shim_errno() != EINPROGRESS { throw SystemError("connect") }
    guard try Wait.writable(raw, milliseconds: milliseconds) else { throw SystemError("connect", code: ETIMEDOUT) }
    let code = sys_socket_error(raw)
    if code != 0 { throw SystemError("connect", code: code) }
    return socket
  }
}
