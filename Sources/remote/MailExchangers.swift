// Which addresses take a domain's mail, and in what order (spec smtp.md 9). Pure but for the questions asked.

import Bytes
import System

/// Whom to ask for records; tests bring their own.
protocol NameService {
  func records(_ name: DomainName, _ type: RecordType) throws(LookupFailure) -> [Record]
}

/// An address that may be tried; the lower the preference, the sooner.
struct Target: Equatable {
  /// As text.
  let address: Bytes
  let preference: Int
}

/// Why no address can be tried; each is a report on the message.
enum RoutingFailure: Error, Equatable {
  case temporary
  case noHost
  case noExchanger
  case nullExchanger
  case listedButNotLocal
}

/// Limits for what a strange domain can make us ask and try.
enum RoutingLimits {
  /// Mail exchangers whose addresses are looked up, the most preferred ones.
  static let exchangers = 50
  /// Addresses, the most preferred ones.
  static let targets = 100
}

struct MailExchangers<Names: NameService> {
  let names: Names
  /// Brings the mail exchangers of one preference into any order (RFC 5321, 5.1).
  let shuffle: ([DomainName]) -> [DomainName]

  /// The addresses to which mail for a domain may go, best first.
  func targets(ofDomain host: Bytes) throws(RoutingFailure) -> [Target] {
    if let address = literalAddress(host) { return [Target(address: address, preference: 0)] }
    guard let name = DomainName(host) else { throw .noHost }
    let exchangers: [(name: DomainName, preference: Int)]
    do throws(LookupFailure) {
      exchangers = try names.records(name, .mx).compactMap {
        if case .exchanger(let name, let preference) = $0 { (name, preference) } else { nil }
      }
    } catch {
      if error == .soft { throw .temporary }
      return try targets(ofHost: host)
    }
    // RFC 7505: a single MX with the root's name says that the domain takes no mail.
    if exchangers.count == 1 && exchangers[0].name == .root { throw .nullExchanger }
    return try addresses(ofExchangers: ordered(exchangers.filter { $0.name != .root }))
  }

  /// The addresses of a host, a relay for example, without a look at its MX records.
  func targets(ofHost host: Bytes) throws(RoutingFailure) -> [Target] {
    if let address = literalAddress(host) { return [Target(address: address, preference: 0)] }
    guard let name = DomainName(host) else { throw .noHost }
    do throws(LookupFailure) {
      return try addresses(of: name).map { Target(address: $0, preference: 0) }
    } catch {
      throw error == .soft ? .temporary : .noHost
    }
  }

  private func ordered(_ exchangers: [(name: DomainName, preference: Int)]) -> [(name: DomainName, preference: Int)] {
    var byPreference: [Int: [DomainName]] = [:]
    for each in exchangers { byPreference[each.preference, default: []].append(each.name) }
    var all: [(name: DomainName, preference: Int)] = []
    for preference in byPreference.keys.sorted() {
      for name in shuffle(byPreference[preference]!) { all.append((name, preference)) }
    }
    return all
  }

  /// An exchanger that has no address is passed over; one whose addresses nobody could tell counts only if no other
  /// has any.
  private func addresses(ofExchangers exchangers: [(name: DomainName, preference: Int)]) throws(RoutingFailure)
    -> [Target]
  {
    var targets: [Target] = []
    var unknown = false
    for each in exchangers.prefix(RoutingLimits.exchangers) where targets.count < RoutingLimits.targets {
      do throws(LookupFailure) {
        targets += try addresses(of: each.name).map { Target(address: $0, preference: each.preference) }
      } catch {
        if error == .soft { unknown = true }
      }
    }
    if targets.isEmpty { throw unknown ? .temporary : .noExchanger }
    return Array(targets.prefix(RoutingLimits.targets))
  }

  /// IPv4 first: time-outs of those are remembered from run to run (lock/tcpto), those of IPv6 cannot be.
  private func addresses(of name: DomainName) throws(LookupFailure) -> [Bytes] {
    var found: [Bytes] = []
    var failure = LookupFailure.hard
    for type in [RecordType.a, .aaaa] {
      do throws(LookupFailure) {
        for case .address(let bytes) in try names.records(name, type) { found.append(addressText(bytes)) }
      } catch {
        if error == .soft { failure = .soft }
      }
    }
    if found.isEmpty { throw failure }
    return Array(found.prefix(RoutingLimits.targets))
  }
}

/// Takes out the addresses that must not be used because this host is a mail exchanger itself: only those with a
/// preference below that of our best own one may get the mail, or it would go in circles.
func withoutOwn(_ targets: [Target], isOwn: (Bytes) -> Bool) throws(RoutingFailure) -> [Target] {
  var ownBest = Int.max
  for target in targets where isOwn(target.address) { ownBest = min(ownBest, target.preference) }
  let usable = targets.filter { $0.preference < ownBest }
  if usable.isEmpty { throw .listedButNotLocal }
  return usable
}

/// Four or sixteen bytes as `192.0.2.1` or `2001:db8::1` (RFC 5952); an IPv4 address within IPv6 is written as IPv4.
func addressText(_ bytes: Bytes) -> Bytes {
  var text = Bytes()
  if bytes.count == 4 {
    for (index, byte) in bytes.enumerated() {
      if index > 0 { text.append(.ascii(".")) }
      text.append(decimal: byte)
    }
    return text
  }
  if bytes.prefix(12).elementsEqual([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255]) {
    return addressText(Bytes(bytes.suffix(4)))
  }
  let groups = stride(from: 0, to: 16, by: 2).map { UInt16(bytes[$0]) << 8 | UInt16(bytes[$0 + 1]) }
  let zeros = longestZeros(groups)
  for (index, group) in groups.enumerated() {
    if zeros.contains(index) {
      if index == zeros.lowerBound { text.append("::") }
      continue
    }
    if index > 0 && index != zeros.upperBound { text.append(.ascii(":")) }
    text += hexadecimal(group)
  }
  return text
}

/// The first of the longest runs of two or more zeros; an empty range behind the end if there is none.
private func longestZeros(_ groups: [UInt16]) -> Range<Int> {
  var best = groups.count..<groups.count
  var start = 0
  while start < groups.count {
    let length = groups[start...].prefix { $0 == 0 }.count
    if length >= 2 && length > best.count { best = start..<(start + length) }
    start += max(1, length)
  }
  return best
}

private func hexadecimal(_ number: UInt16) -> Bytes {
  var digits = Bytes()
  var rest = number
  repeat {
    digits.append(Bytes("0123456789abcdef")[Int(rest & 15)])
    rest >>= 4
  } while rest != 0
  return digits.reversed()
}

/// The four bytes of an IPv4 address; nil for any other.
func ipv4Bytes(_ address: Bytes) -> Bytes? {
  guard Socket.family(of: address) == 4 else { return nil }
  let parts = address.split(separator: .ascii("."), omittingEmptySubsequences: false).compactMap { $0.decimal }
  return parts.count == 4 ? parts.map { UInt8(truncatingIfNeeded: $0) } : nil
}
