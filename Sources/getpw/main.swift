// getpw: which account a local part belongs to.
//
// lspawn asks for addresses that users/cdb does not assign: `apus-getpw LOCALPART` prints user, uid, gid, home, dash and
// extension, each ended by NUL (spec pipes.md 4.2, delivery.md 3). It runs as a user of its own and gives its answer to
// a process that trusts nothing but its form. The name service decides; it may load plug-ins, so this is the one
// program that is linked dynamically.

import Bytes
import CAccounts
import CShim
import Installation
import System

/// How this program ends; the same numbers are in getpw(8).
enum Exit: Int32, Error {
  case found = 0
  case misuse = 100
  /// The home directory cannot be looked at now.
  case homeTrouble = 115
  case noAliasUser = 116
  /// The name service does not answer now, or the answer could not be written.
  case lookupTrouble = 118
}

struct Account {
  var name: Bytes
  var uid: UInt32
  var gid: UInt32
  var home: Bytes
}

/// A way to read a local part: an account's name in lowercase, then what its user may decide about.
struct Reading: Equatable {
  let name: Bytes
  /// `-` before an extension, nothing without one.
  let dash: Bytes
  /// As it was written.
  let ext: Bytes

  /// Names of accounts are shorter than this, in bytes.
  static let nameLimit = 32
}

/// The readings of a local part, the longest name first: all of it, then what is left of each `-`.
func readings(of local: Bytes) -> [Reading] {
  var found: [Reading] = []
  for end in stride(from: local.count, to: 0, by: -1) where end == local.count || local[end] == .ascii("-") {
    guard end < Reading.nameLimit else { continue }
    let rest = local[end...]
    found.append(
      Reading(name: local[..<end].lowercased, dash: Bytes(rest.prefix(1)), ext: Bytes(rest.dropFirst())))
  }
  return found
}

/// Answers of the name service; nil means that there is no such account.
func account(named name: Bytes) throws(Exit) -> Account? {
  var entry = CAccounts.account()
  return try understand(name.withCString { account_by_name($0, &entry) }, entry)
}

func account(of uid: UInt32) throws(Exit) -> Account? {
  var entry = CAccounts.account()
  return try understand(account_by_uid(uid, &entry), entry)
}

/// A service that is down must not turn its users' mail into bounces, so every temporary error defers.
func understand(_ result: Int32, _ entry: CAccounts.account) throws(Exit) -> Account? {
  if result == 0 {
    return Account(
      name: Bytes(cString: entry.name), uid: entry.uid, gid: entry.gid, home: Bytes(cString: entry.home))
  }
  if SystemError("getpwnam").isTemporary { throw .lookupTrouble }
  return nil
}

/// Whether mail may be delivered in this account's home: it is there and the account's own.
func ownsHome(_ account: Account) throws(Exit) -> Bool {
  do throws(SystemError) {
    return try Files.status(Path(account.home)).uid == account.uid
  } catch {
    if error.isTemporary { throw .homeTrouble }
    return false
  }
}

/// The account that a local part names, in an installation with several users: any but root.
func owner(of local: Bytes) throws(Exit) -> (Account, Reading)? {
  for reading in readings(of: local) {
    if let account = try account(named: reading.name), account.uid != 0, try ownsHome(account) {
      return (account, reading)
    }
  }
  return nil
}

/// The same in a rootless installation, which can deliver only as the user it runs as.
func ownAccount(for local: Bytes) throws(Exit) -> (Account, Reading)? {
  guard let own = try account(of: Process.uid), try ownsHome(own) else { return nil }
  for reading in readings(of: local) where reading.name == own.name { return (own, reading) }
  return nil
}

/// Who gets what nobody else controls.
func aliasUser() throws(Exit) -> Account {
  // Not the home that passwd names: this machine may have a second Apus with the same users.
  let home = Installation.path("alias").bytes
  guard let users = Installation.users else {
    return Account(name: Bytes("alias"), uid: Process.uid, gid: sys_getgid(), home: home)
  }
  guard let alias = try account(of: users.alias) else { throw .noAliasUser }
  return Account(name: alias.name, uid: alias.uid, gid: alias.gid, home: home)
}

func answer(_ local: Bytes) throws(Exit) -> Bytes {
  let found = Installation.users == nil ? try ownAccount(for: local) : try owner(of: local)
  let (account, reading) =
    if let found { found } else { (try aliasUser(), Reading(name: [], dash: Bytes("-"), ext: local)) }
  var text = Bytes()
  for field in [
    account.name, Bytes(decimal: account.uid), Bytes(decimal: account.gid), account.home, reading.dash, reading.ext,
  ] {
    text += field + [0]
  }
  return text
}

func run() -> Exit {
  let arguments = Process.arguments
  guard arguments.count == 1 else { return .misuse }
  let text: Bytes
  do throws(Exit) { text = try answer(arguments[0]) } catch { return error }
  do throws(SystemError) { try Descriptor.standard(1).write(text) } catch { return .lookupTrouble }
  return .found
}

Process.exit(run().rawValue)
