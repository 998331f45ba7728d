// Installation: where this copy of Apus lives and which users it was installed for.
//
// `make install` writes the record into the ELF section `.apus.home` of each installed program, so that
// one build serves any home, and a set-uid program asks neither its caller nor /etc/passwd. Fields, each
// ended by NUL: home; then nothing more (not installed), or `rootless` and one uid, or `root` and the
// decimal ids of alias, apusd, apusl, apusp, apusq, apusr, apuss and of the groups apus and nofiles.

import Bytes
import CShim
import System

/// The user and group ids of spec programs.md 1.
public struct Users {
  public let alias, network, log, lookup, queue, remote, send: UInt32
  public let group, nofiles: UInt32
}

public enum Installation {
  private static var fields: [Bytes] {
    var fields: [Bytes] = []
    var field = Bytes()
    let raw = UnsafeRawBufferPointer(start: shim_installation(), count: shim_installation_size())
    for byte in raw {
      if byte != 0 {
        field.append(byte)
      } else if field.isEmpty {
        break
      } else {
        fields.append(field)
        field = []
      }
    }
    return fields
  }

  /// The home directory, absolute, without a slash at its end.
  public static var home: Bytes { fields.first ?? Bytes("/var/apus") }

  /// The compartments' users; nil in rootless mode, where all programs run as one user.
  public static var users: Users? {
    let all = fields
    guard all.count == 11, all[1].equals("root") else { return nil }
    var ids: [UInt32] = []
    for field in all[2...] {
      guard let id = field.decimal.flatMap({ UInt32(exactly: $0) }) else { return nil }
      ids.append(id)
    }
    return Users(
      alias: ids[0], network: ids[1], log: ids[2], lookup: ids[3], queue: ids[4], remote: ids[5], send: ids[6],
      group: ids[7], nofiles: ids[8])
  }

  /// The uid that owns the queue's mess, intd and todo files; in rootless mode the installing user's.
  public static var queueOwner: UInt32 {
    if let users { return users.queue }
    let all = fields
    if all.count >= 3, all[1].equals("rootless"), let id = all[2].decimal { return UInt32(truncatingIfNeeded: id) }
    return Process.effectiveUid
  }

  /// `home` + `/` + a path below it.
  public static func path(_ below: StaticString) -> Path {
    var bytes = home
    bytes.append(.ascii("/"))
    bytes.append(below)
    return Path(bytes)
  }

  public static func changeToHome() throws(SystemError) { try Files.changeDirectory(Path(home)) }
}
