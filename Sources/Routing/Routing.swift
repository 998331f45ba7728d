// Routing: which channel an envelope recipient takes (spec delivery.md 1).
//
// Used by todo, which rewrites recipients when a message is preprocessed, and by send, which takes the rewriting
// back in notices. Pure but for reading its control files. Addresses are chosen by strangers.

import Bytes
import Control
import Mail

/// Where a recipient goes, with the address as it is stored.
public enum Route: Equatable {
  case local(Bytes)
  case remote(Bytes)
}

/// The control files locals, virtualdomains, percenthack and envnoathost.
public struct Routing: Sendable {
  public private(set) var locals: ControlSet
  public private(set) var virtualDomains: ControlMap
  public let percentHack: ControlSet
  public let envNoAtHost: Bytes
  private let me: Bytes?

  /// Why there can be no routing.
  public enum Fault: Error {
    case control(ControlError)
    /// Neither control/locals nor control/me.
    case noLocals
  }

  /// For tests, and for callers that have the lists already.
  public init(
    locals: [Bytes], virtualDomains: [Bytes] = [], percentHack: [Bytes] = [], envNoAtHost: Bytes = Bytes("envnoathost")
  ) {
    self.locals = ControlSet(locals)
    self.virtualDomains = ControlMap(virtualDomains)
    self.percentHack = ControlSet(percentHack)
    self.envNoAtHost = envNoAtHost
    me = nil
  }

  /// Reads the files relative to the current directory, which is the home.
  public init(reading control: inout Control) throws(Fault) {
    me = control.me
    let listed: [Bytes]?
    do throws(ControlError) {
      listed = try control.list("control/locals") ?? control.me.map { [$0] }
      virtualDomains = ControlMap(try control.list("control/virtualdomains") ?? [])
      percentHack = ControlSet(try control.list("control/percenthack") ?? [])
      envNoAtHost = try control.lineOrMe("control/envnoathost", "envnoathost")
    } catch { throw .control(error) }
    guard let listed else { throw .noLocals }
    locals = ControlSet(listed)
  }

  /// Reads locals and virtualdomains again, as on HUP. After an error the old data stay.
  public mutating func reread(_ control: inout Control) throws(ControlError) {
    // A vanished locals means me, a vanished virtualdomains none.
    let newLocals = try control.list("control/locals") ?? me.map { [$0] } ?? []
    let newVirtual = try control.list("control/virtualdomains") ?? []
    locals = ControlSet(newLocals)
    virtualDomains = ControlMap(newVirtual)
  }

  /// Routes the address of a T record.
  public func route(_ recipient: Bytes) -> Route {
    var address = recipient
    if !address.contains(.ascii("@")) {
      address.append(.ascii("@"))
      address.append(contentsOf: envNoAtHost)
    }
    var at = address.lastIndex(of: .ascii("@"))!
    while percentHack.contains(address[(at + 1)...]), let percent = address[..<at].lastIndex(of: .ascii("%")) {
      address.removeSubrange(at...)
      address[percent] = .ascii("@")
      at = percent
    }
    let domain = address[(at + 1)...]
    if locals.contains(domain) { return .local(address) }
    guard let owner = virtualDomains[address] ?? virtualDomains.value(forDomain: domain), !owner.isEmpty else {
      return .remote(address)
    }
    return .local(owner + Bytes("-") + address)
  }

  /// The address as its sender knew it: without the prefix that a virtual domain put before it.
  public func withoutVirtualPrefix(_ recipient: Bytes) -> Bytes {
    guard let domain = Mailbox(recipient).domain, let owner = virtualDomains.value(forDomain: domain), !owner.isEmpty,
      recipient.hasPrefix(owner + Bytes("-"))
    else { return recipient }
    return Bytes(recipient.dropFirst(owner.count + 1))
  }
}
