// Why a message was not sent, before any server was asked (spec smtp.md 8 to 11). Pure.

import Bytes

enum Refusal: Error {
  case usage
  case home
  case controls
  case resources
  case sender
  /// The host is the one whose addresses were looked for.
  case routing(RoutingFailure, host: Bytes)

  /// The record of the message.
  var record: Bytes {
    switch self {
    case .usage: Bytes("DI (qmail-remote) was invoked improperly. (#5.3.5)\n")
    case .home: Bytes("ZUnable to switch to home directory. (#4.3.0)\n")
    case .controls: Bytes("ZUnable to read control files. (#4.3.0)\n")
    case .resources: Bytes("ZSystem resources temporarily unavailable. (#4.3.0)\n")
    case .sender: Bytes("DSorry, that sender address can't be used in SMTP. (#5.1.7)\n")
    case .routing(.temporary, _): Bytes("ZSorry, I couldn't find any host by that name. (#4.1.2)\n")
    case .routing(.noHost, let host):
      Bytes("DSorry, I couldn't find any host named ") + printable(host) + Bytes(". (#5.1.2)\n")
    case .routing(.noExchanger, _):
      Bytes("DSorry, I couldn't find a mail exchanger or IP address. (#5.4.4)\n")
    case .routing(.nullExchanger, _): Bytes("DSorry, that domain does not accept mail. (#5.1.10)\n")
    case .routing(.listedButNotLocal, _):
      Bytes(
        "DSorry. Although I'm listed as a best-preference MX or A for that host,\nit isn't in my control/locals file, so I don't treat it as local. (#5.4.6)\n"
      )
    }
  }
}

/// Strangers' bytes for a report: what is not printable ASCII becomes `?`.
func printable(_ text: Bytes) -> Bytes { text.map { $0 < 33 || $0 > 126 ? .ascii("?") : $0 } }
