// What send asks of a spawner (spec pipes.md 3.2). Pure: bytes in, commands out.

import Bytes

/// A request of send: start one delivery.
public struct DeliveryCommand: Equatable {
  /// Number of the slot, "delnum": 0 to 255.
  public var slot = 0
  /// Name of the message file below queue/mess, e.g. `5/4711`.
  public var message = Bytes()
  /// Reverse-path, unquoted; empty for bounces.
  public var sender = Bytes()
  /// Forward-path, unquoted.
  public var recipient = Bytes()
  /// A field was longer than ``fieldLimit``; its bytes beyond were dropped.
  public var isOversized = false

  /// Longest message name, sender or recipient that is kept, in bytes. Twenty times what an address in the queue may
  /// have, so that a VERP-expanded sender always fits.
  public static let fieldLimit = 20480

  public init() {}

  /// Why no delivery is started; none of these needs a look at the disk (spec pipes.md 3.4).
  public enum Fault: Error {
    case oversized, slotTooBig, slotInUse, nameNotNumeric, nameTooLong, nameEmpty, noHost

    /// The report that answers the command.
    var report: StaticString {
      switch self {
      case .oversized: "Zqmail-spawn out of memory. (#4.3.0)\n"
      case .slotTooBig: "ZInternal error: delnum too big. (#4.3.5)\n"
      case .slotInUse: "ZInternal error: delnum in use. (#4.3.5)\n"
      case .nameNotNumeric: "DInternal error: messid has nonnumerics. (#5.3.5)\n"
      case .nameTooLong: "DInternal error: messid too long. (#5.3.5)\n"
      case .nameEmpty: "DInternal error: messid too short. (#5.3.5)\n"
      case .noHost: "DSorry, address must include host name. (#5.1.3)\n"
      }
    }
  }

  /// - Returns: where the recipient's last `@` stands.
  func checked(slots: Int, isInUse: (Int) -> Bool) throws(Fault) -> Int {
    if isOversized { throw .oversized }
    if slot >= slots { throw .slotTooBig }
    if isInUse(slot) { throw .slotInUse }
    for (index, byte) in message.enumerated() where !byte.isDigit {
      if byte != .ascii("/") || index == 0 { throw .nameNotNumeric }
    }
    if message.count > 100 { throw .nameTooLong }
    if message.isEmpty { throw .nameEmpty }
    guard let at = recipient.lastIndex(of: .ascii("@")) else { throw .noHost }
    return at
  }
}

/// Finds the commands in the stream of bytes from send: one byte, then three fields each ended by NUL.
public struct DeliveryCommandParser {
  private enum Stage { case slot, message, sender, recipient }

  private var stage = Stage.slot
  private var command = DeliveryCommand()

  public init() {}

  /// - Returns: the command that this byte completes.
  public mutating func feed(_ byte: UInt8) -> DeliveryCommand? {
    switch stage {
    case .slot:
      command = DeliveryCommand()
      command.slot = Int(byte)
      stage = .message
    case .message:
      if byte == 0 { stage = .sender } else { keep(byte, in: &command.message, &command.isOversized) }
    case .sender:
      if byte == 0 { stage = .recipient } else { keep(byte, in: &command.sender, &command.isOversized) }
    case .recipient:
      if byte == 0 {
        stage = .slot
        return command
      }
      keep(byte, in: &command.recipient, &command.isOversized)
    }
    return nil
  }
}

private func keep(_ byte: UInt8, in field: inout Bytes, _ isOversized: inout Bool) {
  if field.count < DeliveryCommand.fieldLimit { field.append(byte) } else { isOversized = true }
}
