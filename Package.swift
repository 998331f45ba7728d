// swift-tools-version: 6.2
// One package, two builds: ordinary Swift for development and tests, and, with
// EMBEDDED set, the tiny static programs that are installed (INTERNALS.md 2).
import PackageDescription

let embedded = Context.environment["EMBEDDED"] != nil

let swift: [SwiftSetting] =
  embedded
  ? [.enableExperimentalFeature("Embedded")]
  : [.treatWarning("EmbeddedRestrictions", as: .error)]

/// Without the Swift runtime: a stray Unicode String operation fails to link.
let staticLink: [LinkerSetting] = embedded ? [.unsafeFlags(["-Xclang-linker", "-static"]), .linkedLibrary("m")] : []

func library(_ name: String, _ needs: [Target.Dependency] = []) -> Target {
  .target(name: name, dependencies: needs, swiftSettings: swift)
}

/// A program and its list of powers: what is not named here it cannot do.
func program(_ name: String, _ needs: [Target.Dependency], link: [LinkerSetting] = staticLink) -> Target {
  .executableTarget(name: name, dependencies: needs, swiftSettings: swift, linkerSettings: link)
}

let libraries: [Target] = [
  .target(name: "CShim"),
  .target(name: "CAccounts"),
  .target(name: "CResolver", linkerSettings: [.linkedLibrary("resolv")]),
  library("Bytes"),
  library("System", ["CShim", "Bytes"]),
  library("Installation", ["CShim", "System", "Bytes"]),
  library("Control", ["System", "Bytes"]),
  library("Mail", ["Bytes"]),
  library("SMTP", ["Bytes", "Mail"]),
  library("QueueFormat", ["CShim", "Bytes", "System"]),
  library("CDB", ["System", "Bytes"]),
  library("Routing", ["Control", "Mail", "Bytes"]),
  library("Injection", ["CShim", "System", "Installation", "Bytes"]),
  library("Spawner", ["CShim", "System", "Installation", "Bytes"]),
]

let base: [Target.Dependency] = ["CShim", "System", "Installation", "Bytes"]

let programs: [Target] = [
  program("queue", base + ["Mail", "QueueFormat"]),
  program("todo", base + ["Control", "Mail", "QueueFormat", "Routing"]),
  program("send", base + ["Control", "Mail", "QueueFormat", "Routing", "Injection"]),
  program("clean", base + ["QueueFormat"]),
  program("start", base),
  program("listen", base + ["Control"]),
  program("smtpd", base + ["Control", "Mail", "SMTP", "CDB", "QueueFormat", "Injection"]),
  program("inject", base + ["Control", "Mail", "Injection"]),
  program("sendmail", base),
  program("lspawn", base + ["Spawner", "CDB"]),
  program("local", base + ["Mail", "Injection"]),
  program("rspawn", base + ["Spawner", "QueueFormat"]),
  program("remote", base + ["Control", "Mail", "SMTP", "QueueFormat", "CResolver"]),
  program("qread", base + ["Mail", "QueueFormat"]),
  // The name service loads plug-ins, which a static program cannot: the one dynamic program (INTERNALS.md).
  program("getpw", base + ["CAccounts"], link: []),
]

func suite(_ name: String, _ needs: [Target.Dependency]) -> Target {
  .testTarget(name: name, dependencies: needs)
}

let suites: [Target] =
  embedded
  ? []
  : [
    suite("BytesTests", ["Bytes"]),
    suite("SystemTests", ["System", "CShim", "Bytes"]),
    suite("ControlTests", ["Control", "Bytes"]),
    suite("MailTests", ["Mail", "Bytes"]),
    suite("SMTPTests", ["SMTP", "Bytes"]),
    suite("QueueFormatTests", ["QueueFormat", "Bytes"]),
    suite("CDBTests", ["CDB", "Bytes"]),
    suite("RoutingTests", ["Routing", "Control", "Bytes"]),
    suite("InjectionTests", ["Injection", "System", "CShim", "Bytes"]),
    suite("SpawnerTests", ["Spawner", "System", "Bytes"]),
    suite("SendTests", ["send", "Bytes", "QueueFormat"]),
    suite("InjectTests", ["inject", "Bytes"]),
    suite("LocalTests", ["local", "Bytes"]),
    suite("LspawnTests", ["lspawn", "Bytes"]),
    suite("GetpwTests", ["getpw", "Bytes"]),
    suite("RemoteTests", ["remote", "Control", "SMTP", "System", "Bytes"]),
    suite("RspawnTests", ["rspawn", "Bytes"]),
    suite("SmtpdTests", ["smtpd", "SMTP", "Control", "QueueFormat", "System", "Bytes"]),
    suite("ListenTests", ["listen", "System", "Bytes"]),
  ]

let package = Package(
  name: "apus",
  products: programs.map { .executable(name: "apus-\($0.name)", targets: [$0.name]) },
  targets: libraries + programs + suites,
  swiftLanguageModes: [.v6]
)
