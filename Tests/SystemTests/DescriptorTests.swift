import Bytes
import CShim
import Testing

@testable import System

@Suite struct DescriptorTests {
  /// What is written to a pipe in one go is read in these pieces.
  func input(_ text: String) throws -> Input {
    let pipe = try Pipe()
    try pipe.writing.write(Bytes(text.utf8))
    return Input(pipe.takeReading())
  }

  /// Another descriptor for the same write end.
  func second(_ number: Int32) throws -> Descriptor { try Descriptor.open("/proc/self/fd/\(number)", O_WRONLY) }

  @Test("texts end at their byte, are cut at the limit, and the last may lack its end")
  func texts() throws {
    var input = try input("one\0two\0long enough\0rest")
    #expect(try input.text(through: 0) == Bytes("one") + [0])
    #expect(try input.text(through: 0, limit: 4) == Bytes("two") + [0])
    #expect(try input.text(through: 0, limit: 4) == Bytes("long"))
    #expect(try input.next() == .ascii(" "))
    #expect(try input.text(through: 0) == Bytes("enough") + [0])
    #expect(try input.text(through: 0) == Bytes("rest"))
    #expect(try input.text(through: 0) == nil)
    #expect(try input.next() == nil)
  }

  @Test("a text longer than the buffer is whole")
  func longText() throws {
    let pipe = try Pipe()
    let long = Bytes(repeating: 65, count: 30000)
    try pipe.writing.write(long + [10])
    var input = Input(pipe.takeReading())
    #expect(try input.text(through: 10) == long + [10])
  }

  @Test("a silent writer is not waited for longer than asked")
  func timeout() throws {
    let pipe = try Pipe()
    let copy = try second(pipe.writing.number)  // keeps the pipe from ending
    var input = Input(pipe.takeReading(), timeout: 20)
    do throws(SystemError) {
      _ = try input.next()
      Issue.record("something was read")
    } catch { #expect(error.code == ETIMEDOUT) }
    #expect(copy.number >= 0)
  }

  @Test("small writes go out together, a flush is needed, order is kept")
  func output() throws {
    let pipe = try Pipe()
    let number = pipe.reading.number
    var output = Output(try second(pipe.writing.number), capacity: 8)
    try output.put("abc")
    #expect(try !Wait.readable(number, milliseconds: 0))
    try output.put(Bytes("0123456789"))
    try output.put(.ascii("!"))
    try output.flush()
    var bytes = Bytes()
    #expect(try pipe.reading.read(into: &bytes, limit: 100) == 14)
    #expect(bytes == Bytes("abc0123456789!"))
  }

  @Test("a child's end is told apart: exit status or signal")
  func children() throws {
    #expect(try Child.wait(try Child.start { 7 }) == .exited(7))
    let killed = try Child.start {
      Child.send(9, to: Process.pid)
      return 0
    }
    #expect(try Child.wait(killed) == .signalled(9))
  }

  @Test("descriptors reach a child under the numbers it expects, though they overlap")
  func install() throws {
    let one = try Pipe()
    let two = try Pipe()
    let (first, second) = (one.writing.number, two.writing.number)
    // Each gets the other's number.
    let pid = try Child.start {
      guard (try? Child.install([(from: first, to: second), (from: second, to: first)])) != nil else { return 1 }
      let crossed = Descriptor(owning: second)
      return (try? crossed.write(Bytes("x"))) == nil ? 2 : 0
    }
    #expect(try Child.wait(pid) == .exited(0))
    var bytes = Bytes()
    #expect(try one.reading.read(into: &bytes, limit: 1) == 1)
  }

  @Test("errors that pass are told from those that stay")
  func temporary() {
    #expect(SystemError("open", code: ENOSPC).isTemporary)
    #expect(SystemError("open", code: EAGAIN).isTemporary)
    #expect(!SystemError("open", code: ENOENT).isTemporary)
    #expect(!SystemError("open", code: EACCES).isTemporary)
    #expect(SystemError("open", code: ENOENT).text == Bytes("No such file or directory"))
  }
}
