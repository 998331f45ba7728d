// Where a message goes first: an entry of smtproutes, or the domain's mail exchangers (spec smtp.md 8). Pure.

import Bytes
import Control
import System

/// The way to a recipient's domain.
enum Route: Equatable {
  /// The domain's MX records decide.
  case mailExchangers
  /// One relay by name, or by address if it stood in brackets or is an IPv4 address.
  case relay(Bytes, port: UInt32)

  /// An entry that names no usable relay.
  struct Fault: Error {}

  static let defaultPort: UInt32 = 25

  /// The entry of control/smtproutes for a domain: `relay`, `relay:port`, `[address]`, `[address]:port`; an empty one
  /// exempts the domain. What follows the port's digits is for other programs.
  init(to domain: Bytes, routes: ControlMap) throws(Fault) {
    guard let entry = routes.value(forDomain: domain), !entry.isEmpty else {
      self = .mailExchangers
      return
    }
    let name: ArraySlice<UInt8>
    var rest: ArraySlice<UInt8>
    if entry.first == .ascii("[") {
      guard let close = entry.firstIndex(of: .ascii("]")) else { throw Fault() }
      name = entry[...close]
      rest = entry[(close + 1)...]
    } else {
      name = entry.prefix { $0 != .ascii(":") }
      rest = entry[name.endIndex...]
    }
    var port = Route.defaultPort
    if rest.first == .ascii(":") {
      rest.removeFirst()
      if !rest.isEmpty {
        guard let number = rest.decimalPrefix?.value, (1...65535).contains(number) else { throw Fault() }
        port = UInt32(number)
      }
    }
    guard !name.isEmpty else { throw Fault() }
    self = .relay(Bytes(name), port: port)
  }
}

/// The address that a host written as `192.0.2.1`, `[192.0.2.1]`, `[2001:db8::1]` or `[IPv6:2001:db8::1]` is; nil for
/// names.
func literalAddress(_ host: Bytes) -> Bytes? {
  guard host.first == .ascii("["), host.last == .ascii("]") else {
    return Socket.family(of: host) == 4 ? host : nil
  }
  var inner = host[1..<(host.count - 1)]
  if inner.hasPrefixIgnoringCase("IPv6:") { inner = inner.dropFirst(5) }
  return Socket.family(of: Bytes(inner)) != nil ? Bytes(inner) : nil
}

/// An entry of control/dnsservers: `address`, `address:port` or `[address]:port`, port 53 by default; nil if it is none.
func nameServer(_ entry: Bytes) -> (address: Bytes, port: UInt32)? {
  if Socket.family(of: entry) != nil { return (entry, 53) }
  guard let colon = entry.lastIndex(of: .ascii(":")) else { return literalAddress(entry).map { ($0, 53) } }
  if entry.last == .ascii("]") { return literalAddress(entry).map { ($0, 53) } }
  guard let address = literalAddress(Bytes(entry[..<colon])),
    let port = entry[(colon + 1)...].decimal, (1...65535).contains(port)
  else { return nil }
  return (address, UInt32(port))
}
