// The name service of the machine, or of control/dnsservers.

import Bytes
import CResolver
import System

/// Asks through glibc's resolver library. One per process: the library's state is one.
struct Resolver: NameService {
  /// - Parameter servers: whom to ask, at most three; none: those of resolv.conf.
  /// - Returns: nil if the library could not be made ready.
  init?(servers: [(address: Bytes, port: UInt32)]) {
    guard resolver_begin() == 0 else { return nil }
    for server in servers.prefix(3) {
      guard server.address.withCString({ resolver_add_server($0, server.port) }) == 0 else { return nil }
    }
  }

  func records(_ name: DomainName, _ type: RecordType) throws(LookupFailure) -> [Record] {
    let question = DNSMessage.question(name, type, id: randomBytes(2))
    var answer = Bytes(repeating: 0, count: DNSMessage.sizeLimit)
    let length = question.withUnsafeBufferPointer { question in
      answer.withUnsafeMutableBufferPointer { answer in
        resolver_ask(question.baseAddress, question.count, answer.baseAddress, answer.count)
      }
    }
    if length < 0 { throw .soft }
    return try DNSMessage.records(type, in: Bytes(answer.prefix(length)))
  }
}

/// Any order of these, each as likely as the others. A bias of 2⁻³² does no harm here.
func shuffled(_ names: [DomainName]) -> [DomainName] {
  var names = names
  for i in names.indices.dropFirst().reversed() {
    let random = randomBytes(4).reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
    names.swapAt(i, Int(random % UInt64(i + 1)))
  }
  return names
}
