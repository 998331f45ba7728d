// DNS questions and answers as bytes (RFC 1035, 4). Pure. Answers are chosen by strangers.

import Bytes

/// A name as it stands in DNS messages: labels, each after its length, without compression, with the final root label.
struct DomainName: Equatable, Hashable {
  let wire: Bytes

  static let root = DomainName(wire: [0])

  init(wire: Bytes) { self.wire = wire }

  /// From text such as `example.org` or `example.org.`; nil for what can be no name: empty labels, labels of more than
  /// 63 bytes, more than 255 bytes in all. Bytes are taken as they are, a backslash is one of them.
  init?(_ text: Bytes) {
    var wire = Bytes()
    for label in (text.last == .ascii(".") ? text.dropLast() : text[...]).split(
      separator: .ascii("."), omittingEmptySubsequences: false)
    {
      guard label.count >= 1 && label.count <= 63 else { return nil }
      wire.append(UInt8(label.count))
      wire.append(contentsOf: label)
    }
    wire.append(0)
    guard wire.count <= 255 else { return nil }
    self.wire = wire
  }
}

/// The record types that remote asks for; raw values of RFC 1035 and 3596.
enum RecordType: UInt16 {
  case a = 1
  case mx = 15
  case aaaa = 28
}

/// What a record says.
enum Record: Equatable {
  /// Four or sixteen bytes in network order.
  case address(Bytes)
  case exchanger(DomainName, preference: Int)
}

/// Why a name has no records.
enum LookupFailure: Error, Equatable {
  /// Nobody could tell now.
  case soft
  /// There are none.
  case hard
}

enum DNSMessage {
  /// Longest answer, as TCP can carry it.
  static let sizeLimit = 65535

  /// A question with recursion desired, class IN.
  static func question(_ name: DomainName, _ type: RecordType, id: Bytes) -> Bytes {
    id + [1, 0, 0, 1, 0, 0, 0, 0, 0, 0] + name.wire + [0, UInt8(type.rawValue), 0, 1]
  }

  /// The records of the type in the answer section, at least one.
  ///
  /// Soft: the server could not find out, or the message makes no sense. Hard: it says that there is no such name or
  /// no such record. A CNAME chain's records are taken together with it.
  static func records(_ type: RecordType, in message: Bytes) throws(LookupFailure) -> [Record] {
    let answer: (code: UInt8, records: [Record])
    do throws(Malformed) {
      var reader = DNSReader(message)
      answer = try reader.answer(type)
    } catch { throw .soft }
    if !answer.records.isEmpty { return answer.records }
    throw answer.code == 0 || answer.code == 3 ? .hard : .soft
  }
}

/// A message that ends too early, or whose names point nowhere.
private struct Malformed: Error {}

/// Reads a message from front to back. Each read checks that the bytes are there.
private struct DNSReader {
  private let message: Bytes
  private var at = 0

  init(_ message: Bytes) { self.message = message }

  mutating func answer(_ type: RecordType) throws(Malformed) -> (code: UInt8, records: [Record]) {
    let header = try bytes(12)
    guard header[2] & 0x80 != 0 else { throw Malformed() }  // a question
    let code = header[3] & 0x0f
    let questions = Int(header[4]) << 8 | Int(header[5])
    let answers = Int(header[6]) << 8 | Int(header[7])
    guard code == 0 else { return (code, []) }
    for _ in 0..<questions {
      _ = try name()
      _ = try bytes(4)
    }
    var records: [Record] = []
    for _ in 0..<answers {
      if let record = try record(type) { records.append(record) }
    }
    return (code, records)
  }

  /// One resource record; nil if it is of another type or class.
  private mutating func record(_ wanted: RecordType) throws(Malformed) -> Record? {
    _ = try name()
    let type = try number()
    let isInternet = try number() == 1
    _ = try bytes(4)  // time to live
    let length = Int(try number())
    let end = at + length
    guard end <= message.count else { throw Malformed() }
    defer { at = end }
    guard type == wanted.rawValue, isInternet else { return nil }
    switch wanted {
    case .a:
      guard end - at == 4 else { throw Malformed() }
      return .address(try bytes(4))
    case .aaaa:
      guard end - at == 16 else { throw Malformed() }
      return .address(try bytes(16))
    case .mx:
      let preference = Int(try number())
      let exchanger = try name()
      guard at == end else { throw Malformed() }
      return .exchanger(exchanger, preference: preference)
    }
  }

  private mutating func bytes(_ count: Int) throws(Malformed) -> Bytes {
    guard message.count - at >= count else { throw Malformed() }
    defer { at += count }
    return Bytes(message[at..<at + count])
  }

  private mutating func number() throws(Malformed) -> UInt16 {
    let pair = try bytes(2)
    return UInt16(pair[0]) << 8 | UInt16(pair[1])
  }

  /// A name, without compression. A pointer must lead to an earlier place than all before it, so that no message can
  /// send the reader in a circle; 255 bytes are the longest name.
  private mutating func name() throws(Malformed) -> DomainName {
    var wire = Bytes()
    var position = at
    var lowest = at
    var end: Int?  // behind the first pointer
    while true {
      guard position < message.count else { throw Malformed() }
      let length = Int(message[position])
      switch length >> 6 {
      case 0:
        guard message.count - position > length, wire.count + length + 1 <= 255 else { throw Malformed() }
        wire += message[position...(position + length)]
        position += length + 1
        if length == 0 {
          at = end ?? position
          return DomainName(wire: wire)
        }
      case 3:
        guard message.count - position >= 2 else { throw Malformed() }
        let target = (length & 0x3f) << 8 | Int(message[position + 1])
        guard target < lowest else { throw Malformed() }
        end = end ?? position + 2
        lowest = target
        position = target
      default: throw Malformed()
      }
    }
  }
}
