// What control files and environment say, read once at the start of a connection.

import Bytes
import CDB
import Control
import SMTP
import System

/// Control files with their defaults (spec control.md 3; smtpd(8) lists them all).
struct Settings {
  /// Text of greeting, HELO, EHLO and QUIT replies; without bytes that could break a line.
  let greeting: Bytes
  /// Longest wait for one read or write, in seconds.
  let timeout: Int64
  /// Longest conversation, and longest text of a message that begins within it, in seconds; 0: no limit.
  let sessionTime: Int64
  /// Most bytes of a message as stored; 0: no limit.
  let databytes: UInt64
  /// Most recipients of a message; 0: no limit.
  let maxRecipients: UInt64
  /// From this number of refusals on each one is delayed by `errorSleep` seconds; 0: never.
  let softErrors: UInt64
  /// With this number of refusals the conversation ends; 0: never.
  let hardErrors: UInt64
  let errorSleep: Int64
  /// If set, every recipient is accepted and this is appended to its address.
  let relayClient: Bytes?
  let badSenders: ControlSet
  /// Stands in for an address literal of this machine.
  let localName: Bytes?
  /// What the queue will append to a recipient without a domain.
  let noHost: Bytes

  /// Why there can be no conversation.
  enum Fault: Error {
    case unreadable(ControlError)
    /// Neither `control/smtpgreeting` nor `control/me` exists.
    case noName
    /// `control/rcpthosts` is missing and the environment does not say RELAYCLIENT: this would relay for the world.
    case openRelay
  }
}

extension Settings {
  /// - Throws: only `unreadable` and `noName`.
  init(from control: inout Control) throws(Fault) {
    let name: Bytes?
    do throws(ControlError) {
      name = try control.line("control/smtpgreeting") ?? control.me
      timeout = max(1, Settings.seconds(try control.number("control/timeoutsmtpd", 1200)))
      sessionTime = Settings.seconds(try control.number("control/smtpsessiontime", 3600))
      let databytes = try control.number("control/databytes", 0)
      self.databytes = Environment["DATABYTES"]?.decimalPrefix?.value ?? databytes
      maxRecipients = try control.number("control/maxrcpt", 1000)
      softErrors = try control.number("control/smtpsofterrors", 10)
      hardErrors = try control.number("control/smtpharderrors", 20)
      errorSleep = Settings.seconds(try control.number("control/smtperrorsleep", 1))
      badSenders = ControlSet(try control.list("control/badmailfrom") ?? [])
      localName = try control.line("control/localiphost") ?? control.me
      noHost = try control.lineOrMe("control/envnoathost", "envnoathost")
    } catch {
      throw .unreadable(error)
    }
    guard let name else { throw .noName }
    greeting = name.filter { $0 >= 32 && $0 != 127 }
    relayClient = Environment["RELAYCLIENT"]
  }

  /// A number of seconds, at most a day.
  private static func seconds(_ number: UInt64) -> Int64 { Int64(min(number, 86400)) }
}

/// The recipient domains we are responsible for: `control/rcpthosts`, then `control/morercpthosts.cdb`.
struct RecipientHosts: ~Copyable {
  private let listed: ControlSet
  private let more: CDB?

  private init(listed: ControlSet, more: consuming CDB?) {
    self.listed = listed
    self.more = more
  }

  /// - Throws: `unreadable`, or `openRelay` if there is no `control/rcpthosts`.
  static func read(from control: inout Control) throws(Settings.Fault) -> RecipientHosts {
    let file: [Bytes]?
    do throws(ControlError) { file = try control.list("control/rcpthosts") } catch { throw .unreadable(error) }
    guard let file else { throw .openRelay }
    return RecipientHosts(listed: ControlSet(file), more: try openMore())
  }

  private static func openMore() throws(Settings.Fault) -> CDB? {
    do throws(SystemError) {
      return try CDB("control/morercpthosts.cdb")
    } catch {
      if error.isAbsence { return nil }
      throw .unreadable(ControlError(file: "control/morercpthosts.cdb", cause: error))
    }
  }

  /// Whether one of the keys is listed.
  func contains(_ keys: [Bytes]) throws(SystemError) -> Bool {
    for key in keys where listed.contains(key) { return true }
    switch more {
    case .none: return false
    case .some(let database):
      for key in keys {
        if try database.value(for: key) != nil { return true }
      }
      return false
    }
  }
}
