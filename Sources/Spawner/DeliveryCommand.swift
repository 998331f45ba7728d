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

  /// What is wrong with the name of the message, as the report that refuses it; nil for a good one.
  var messageNameFault: StaticString? {
    for (index, byte) in message.enumerated() where !byte.isDigit {
      if byte != .ascii("/") || index == 0 { return "DInternal error: messid has nonnumerics. (#5.3.5)\n" }
    }
    if message.count > 100 { return "DInternal error: messid too long. (#5.3.5)\n" }
    if message.isEmpty { return "DInternal error: messid too short. (#5.3.5)\n" }
    return nil
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
