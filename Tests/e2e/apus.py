"""One Apus under test: a rootless home in a temporary directory, its processes, its queue, its log.

Everything a test starts is ended by pid; nothing waits longer than its deadline.
"""

import contextlib
import errno
import os
import re
import shutil
import signal
import smtplib
import socket
import subprocess
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("APUS_BUILD") or ROOT / ".build-tiny" / "release").resolve()

SPLIT = 23
QUEUE_DIRS = ("pid", "intd", "todo", "bounce", "lock", "hold", "corrupt")
SPLIT_DIRS = ("mess", "info", "local", "remote")
PROGRAMS = (
    "queue todo send clean start listen smtpd inject sendmail lspawn local getpw rspawn remote qread".split()
)
#: Where the messages of a test come from and go to.
LOCAL = "home.test"
ELSEWHERE = "far.test"


def wait(what, predicate, deadline=20.0, step=0.02):
    """The first true value of predicate(); fails the test with `what` after `deadline` seconds."""
    end = time.monotonic() + deadline
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"after {deadline} s still waiting: {what() if callable(what) else what}")
        time.sleep(step)


_ports = None


def free_port(address="127.0.0.1"):
    """A TCP port that is free and outside the ephemeral range; the workers of xdist have a range each."""
    global _ports
    if _ports is None:
        worker = int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "0")) or 0)
        first = 11000 + worker * 1500 + os.getpid() % 700
        _ports = iter(range(first, first + 800))
    for port in _ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return port
    _ports = None
    return free_port(address)


# Installing ------------------------------------------------------------------------------------------------


def install(home, build=BUILD):
    """A rootless home made by the project's installer."""
    done = subprocess.run(
        ["sh", str(ROOT / "setup" / "install"), str(home), str(build)], env=dict(os.environ, ROOTLESS="1"),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120,
    )
    assert done.returncode == 0, f"setup/install failed:\n{done.stdout.decode(errors='replace')}"


def stamp(program, home):
    """Writes another home into the section .apus.home of an installed program (Sources/Installation)."""
    record = str(home).encode() + b"\0rootless\0%d\0\0" % os.getuid()
    section = home / f".stamp-{program.name}"
    section.write_bytes(record.ljust(_section_size(program), b"\0"))
    subprocess.run(
        ["objcopy", "--update-section", f".apus.home={section}", str(program)], check=True, timeout=30
    )
    section.unlink()


_sizes = {}


def _section_size(program):
    if program.name not in _sizes:
        listing = subprocess.run(
            ["objdump", "-h", "-j", ".apus.home", str(program)], check=True, capture_output=True, text=True
        ).stdout
        _sizes[program.name] = int(re.search(r"\.apus\.home\s+([0-9a-f]+)", listing)[1], 16)
    return _sizes[program.name]


def lay_out_queue(queue):
    """The tree of spec queue.md 2, rootless."""
    queue.mkdir(mode=0o750, parents=True)
    for name in QUEUE_DIRS + SPLIT_DIRS:
        (queue / name).mkdir(mode=0o750 if name in ("todo", "mess", "lock") else 0o700)
    for name in SPLIT_DIRS:
        for s in range(SPLIT):
            (queue / name / str(s)).mkdir(mode=0o750 if name == "mess" else 0o700)
    (queue / "lock" / "tcpto").write_bytes(bytes(1024))
    (queue / "lock" / "sendmutex").touch(mode=0o600)
    os.mkfifo(queue / "lock" / "trigger")
    os.chmod(queue / "lock" / "trigger", 0o622)


# Maildirs --------------------------------------------------------------------------------------------------


class Delivered:
    """A file in a Maildir: the lines that the way added, and the rest."""

    def __init__(self, path):
        self.path = path
        self.bytes = path.read_bytes()
        lines = self.bytes.split(b"\n")
        assert lines[0].startswith(b"Return-Path: <"), lines[:2]
        assert lines[1].startswith(b"Delivered-To: "), lines[:2]
        self.return_path = lines[0][len(b"Return-Path: <"):-1].decode("latin-1")
        self.delivered_to = lines[1][len(b"Delivered-To: "):].decode("latin-1")
        #: Below what local and queue added.
        assert re.fullmatch(QUEUE_LINE, lines[2] + b"\n"), lines[2]
        self.queue_line = lines[2]
        self.text = b"\n".join(lines[3:])

    @property
    def from_smtp(self):
        """(Received line of smtpd, what the client sent with LF for CRLF)."""
        match = re.match(RECEIVED, self.text)
        assert match, self.text[:300]
        return match[0], self.text[match.end():]

    @property
    def id(self):
        return re.match(RECEIVED, self.text)["id"].decode()


DATE = rb"[1-9]\d? (?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) \d{4} \d\d:\d\d:\d\d -0000"
#: Spec queue.md 4.1.
QUEUE_LINE = (
    rb"Received: \(qmail (?P<pid>[1-9]\d*) invoked (?:by alias|from network|for bounce|by uid (?P<uid>\d+))\); "
    + DATE + rb"\n"
)
#: Spec smtp.md 6 and the id (INTERNALS.md 3).
RECEIVED = (
    rb"Received: from [^\n]+\n  by [^\n]+ with E?SMTP id (?P<id>[0-9A-HJKMNP-TV-Z]{26}); " + DATE + rb"\n"
)


class Maildir:
    def __init__(self, path):
        self.path = Path(path)

    def make(self):
        for name in ("tmp", "new", "cur"):
            (self.path / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        return self

    def names(self):
        return os.listdir(self.path / "new")

    def __len__(self):
        return len(self.names())

    def messages(self):
        return [Delivered(self.path / "new" / name) for name in self.names()]

    def expect(self, count, deadline=30):
        """Waits for exactly `count` messages."""
        wait(lambda: f"{count} messages in {self.path}, there are {len(self)}", lambda: len(self) >= count, deadline)
        assert len(self) == count
        return self.messages()


# Homes -----------------------------------------------------------------------------------------------------


class Home:
    """An installed home. Names of users: alias/.qmail-NAME."""

    def __init__(self, path):
        self.path = Path(path)
        self.queue = self.path / "queue"
        self.bin = self.path / "bin"

    @classmethod
    def copy(cls, template, path):
        """A fresh home equal to what the installer made of `template`."""
        subprocess.run(["cp", "-a", f"{template}/.", str(path)], check=True)
        for program in (path / "bin").iterdir():
            if not program.is_symlink() and program.read_bytes()[:4] == b"\x7fELF":
                stamp(program, path)
        return cls(path)

    def program(self, name):
        return self.bin / f"apus-{name}"

    def control(self, **files):
        """control(me="x", locals=["a", "b"], rcpthosts=None): writes or, with None, removes control files."""
        for name, value in files.items():
            file = self.path / "control" / name
            if value is None:
                file.unlink(missing_ok=True)
            elif isinstance(value, bytes):
                file.write_bytes(value)
            elif isinstance(value, (list, tuple)):
                file.write_text("".join(f"{line}\n" for line in value))
            else:
                file.write_text(f"{value}\n")

    def alias(self, name, *lines):
        """alias/.qmail-NAME with these lines; a Maildir it names is made. Returns the last Maildir."""
        maildir = None
        for line in lines:
            if line.endswith("/"):
                maildir = Maildir(self.path / "alias" / line).make()
        file = self.path / "alias" / f".qmail-{name}"
        file.write_text("".join(f"{line}\n" for line in lines))
        file.chmod(0o644)
        return maildir

    def maildir(self, name="Maildir"):
        return Maildir(self.path / "alias" / name)

    def environment(self, **more):
        return {"PATH": f"{self.bin}:/usr/local/bin:/usr/bin:/bin", **more}

    def run(self, program, *arguments, input=b"", timeout=30, env=None, **more):
        """Runs bin/apus-PROGRAM to its end; a CompletedProcess with bytes."""
        return subprocess.run(
            [str(self.program(program)), *arguments], input=input, capture_output=True, timeout=timeout,
            env=self.environment(**(env or {})), **more,
        )

    def sendmail(self, message, *arguments, env=None):
        return subprocess.run(
            [str(self.bin / "sendmail"), *arguments], input=message, capture_output=True, timeout=60,
            env=self.environment(**(env or {})),
        )

    # The queue's files ------------------------------------------------------------------------------------

    def queue_files(self):
        """All regular files below queue/ except lock/, as sorted relative names."""
        found = []
        for top, _, files in os.walk(self.queue):
            relative = Path(top).relative_to(self.queue)
            if relative.parts[:1] != ("lock",):
                found += [str(relative / file) for file in files]
        return sorted(found)

    def queue_is_empty(self):
        return not self.queue_files()

    def enqueue(self, message, sender, recipients):
        """Hands a message to bin/apus-queue; returns its number, which is only certain while nothing runs."""
        done = run_queue(self, message, envelope(sender, recipients))
        assert done.returncode == 0, f"queue exits {done.returncode}"
        for file in (self.queue / "todo").iterdir():
            try:
                if b"\0p%d\0" % done.pid in file.read_bytes():
                    return int(file.name)
            except FileNotFoundError:
                pass
        return None

    def put(self, state, message=b"x\n", sender="s@elsewhere.test", local=(), remote=(), recipients=(),
            birth=None, next_local=None, next_remote=None, qp=4711, uid=None, bounce=None, queue_line=True):
        """Lays a message out by hand as spec queue.md 3 and 4 say, in state "S4" or "S5"; returns its number.

        In local and remote a recipient that starts with `D ` is already done.
        """
        raw = lambda text: text if isinstance(text, bytes) else text.encode("latin-1")
        born = self.queue / "pid" / f"{qp}.{int(time.time())}.1"
        text = raw(message)
        if queue_line:
            text = b"Received: (qmail %d invoked by uid 1000); 5 Nov 2025 01:02:03 -0000\n" % qp + text
        born.write_bytes(text)
        born.chmod(0o644)
        number = born.stat().st_ino
        split = number % SPLIT
        born.rename(self.queue / "mess" / str(split) / str(number))
        uid = os.getuid() if uid is None else uid

        def write(name, content, mode, when=None):
            file = self.queue / name
            file.write_bytes(content)
            file.chmod(mode)
            if when is not None:
                os.utime(file, (when, when))

        if state == "S4":
            content = b"u%d\0p%d\0F%s\0" % (uid, qp, raw(sender))
            content += b"".join(b"T%s\0" % raw(r) for r in recipients)
            write(f"intd/{number}", content, 0o644)
            os.link(self.queue / "intd" / str(number), self.queue / "todo" / str(number))
        else:
            assert state == "S5"
            write(f"info/{split}/{number}", b"F%s\0" % raw(sender), 0o600, birth)
            for channel, names, when in (("local", local, next_local), ("remote", remote, next_remote)):
                records = b"".join(
                    b"D%s\0" % raw(name[2:]) if name.startswith("D ") else b"T%s\0" % raw(name) for name in names
                )
                if records:
                    write(f"{channel}/{split}/{number}", records, 0o600, birth if when is None else when)
            if bounce is not None:
                write(f"bounce/{number}", raw(bounce), 0o600)
        return number

    def file(self, kind, number):
        """queue/KIND/N or queue/KIND/s/N."""
        if kind in SPLIT_DIRS:
            return self.queue / kind / str(number % SPLIT) / str(number)
        return self.queue / kind / str(number)

    def pids(self, *programs):
        """Pids of running programs of this home, by the file they execute."""
        wanted = {str(self.program(name)): name for name in programs or PROGRAMS}
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/{entry}/exe") in wanted:
                        found.append(int(entry))
        return found


def envelope(sender, recipients):
    raw = lambda text: text if isinstance(text, bytes) else text.encode("latin-1")
    return b"F" + raw(sender) + b"\0" + b"".join(b"T" + raw(r) + b"\0" for r in recipients) + b"\0"


class Feed:
    """The read end of a pipe that a thread feeds; `hold=True` keeps the write end open afterwards."""

    def __init__(self, data, hold=False):
        self.reading, self.writing = os.pipe()
        self.data, self.hold = data, hold
        self.thread = threading.Thread(target=self._feed, daemon=True)

    def _feed(self):
        with contextlib.suppress(BrokenPipeError):
            view = memoryview(self.data)
            while view:
                view = view[os.write(self.writing, view[:65536]):]
        if not self.hold:
            os.close(self.writing)


def run_queue(home, message, envelope, program=None, timeout=60, **more):
    """Runs queue with message and envelope (bytes or a descriptor number); a CompletedProcess."""
    process, feeds = start_queue(home, message, envelope, program, **more)
    try:
        process.wait(timeout)
    finally:
        with contextlib.suppress(ProcessLookupError):
            if process.poll() is None:
                process.kill()
                process.wait()
    for feed in feeds:
        if feed.hold:
            os.close(feed.writing)
        feed.thread.join(10)
    done = subprocess.CompletedProcess([], process.returncode)
    done.pid = process.pid
    return done


def start_queue(home, message, envelope, program=None, hold_message=False, hold_envelope=False, env=None, **more):
    # bytes as files would be readable at once and not pipes; queue is always fed by pipes
    feeds, ends = [], []
    for data, hold in ((message, hold_message), (envelope, hold_envelope)):
        if isinstance(data, int):
            ends.append(data)
        else:
            feed = Feed(data, hold)
            os.set_inheritable(feed.writing, False)
            feeds.append(feed)
            ends.append(feed.reading)
    process = subprocess.Popen(
        [str(program or home.program("queue"))], stdin=ends[0], stdout=ends[1], stderr=subprocess.DEVNULL,
        env=home.environment() if env is None else env, **more,
    )
    for feed in feeds:
        os.close(feed.reading)
        feed.thread.start()
    return process, feeds


# The log ---------------------------------------------------------------------------------------------------


class Log:
    """A growing log file."""

    def __init__(self, path):
        self.path = Path(path)

    def text(self):
        try:
            return self.path.read_bytes().decode("latin-1")
        except FileNotFoundError:
            return ""

    def lines(self):
        return self.text().splitlines()

    def find(self, pattern):
        return [m for m in (re.search(pattern, line) for line in self.lines()) if m]

    def expect(self, pattern, count=1, deadline=20):
        wait(
            lambda: f"{count} x /{pattern}/ in the log:\n" + "\n".join(self.lines()[-40:]),
            lambda: len(self.find(pattern)) >= count, deadline,
        )
        return self.find(pattern)

    def facts(self, **wanted):
        """The key=value lines that have all of `wanted`, as dictionaries."""
        found = []
        for line in self.lines():
            words = line.split(" ")
            pairs = dict(word.split("=", 1) for word in words[1:] if "=" in word)
            if len(words) > 1 and len(pairs) == len(words) - 1:
                pairs["program"] = words[0]
                if all(pairs.get(key) == str(value) for key, value in wanted.items()):
                    found.append(pairs)
        return found


# Running ---------------------------------------------------------------------------------------------------


class Service:
    """A program and the supervisor that restarts it."""

    def __init__(self, name, start):
        self.name, self._start = name, start
        self.process = None
        self.restarts = 0
        #: How each run ended that was followed by another one.
        self.codes = []
        self._lock = threading.Lock()
        self._wanted = False
        self._watcher = None

    def start(self, restart=False):
        self._wanted = True
        self.process = self._start()
        if restart:
            self._watcher = threading.Thread(target=self._watch, daemon=True)
            self._watcher.start()

    def _watch(self):
        while self._wanted:
            code = self.process.wait()
            time.sleep(0.1)
            with self._lock:
                if self._wanted:
                    self.restarts += 1
                    self.codes.append(code)
                    self.process = self._start()

    def unwatch(self):
        with self._lock:
            self._wanted = False

    def stop(self, sig=signal.SIGTERM, deadline=20):
        self.unwatch()
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            code = self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)
            raise AssertionError(f"{self.name} does not end after signal {sig}")
        if self._watcher:
            self._watcher.join(5)
            self._watcher = None
        return code


class Apus:
    """A running Apus: start (todo, send, clean, lspawn, rspawn) and listen (smtpd)."""

    def __init__(self, home, default="./Maildir/"):
        self.home = home
        self.default = default
        self.log = Log(home.path / "log" / "send.log")
        self.smtp_log = Log(home.path / "log" / "smtp.log")
        (home.path / "log").mkdir(exist_ok=True)
        self.sender = Service("start", self._start_sender)
        self.listener = Service("listen", self._start_listener)
        self.port = None
        self.listen_environment = {}

    def _start_sender(self):
        with open(self.log.path, "ab") as log:
            return subprocess.Popen(
                [str(self.home.program("start")), self.default], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self.home.environment(), cwd="/",
            )

    def _start_listener(self):
        with open(self.smtp_log.path, "ab") as log:
            return subprocess.Popen(
                [str(self.home.program("listen"))], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self.home.environment(**self.listen_environment), cwd="/",
            )

    def start(self, restart=False):
        self.start_send(restart)
        self.start_listen(restart)
        return self

    def start_send(self, restart=False):
        before = len(self.log.find(r"^status: local \d+/\d+ remote \d+/\d+$"))
        self.sender.start(restart)
        self.log.expect(r"^status: local \d+/\d+ remote \d+/\d+$", before + 1)
        return self

    def start_listen(self, restart=False):
        if self.port is None:
            self.port = free_port()
            self.home.control(listen=f"smtp 127.0.0.1:{self.port}")
        self.listener.start(restart)
        wait(lambda: f"listen on port {self.port}: {self.smtp_log.text()}", self.accepts)
        return self

    def accepts(self):
        with socket.socket() as probe:
            probe.settimeout(2)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop_send(self):
        code = self.sender.stop()
        wait("the children of start to end", lambda: not self.home.pids("send", "todo", "clean", "lspawn", "rspawn"))
        return code

    def stop(self):
        self.listener.stop()
        return self.stop_send()

    def alarm(self):
        """Retry everything now. send is the process that start became."""
        for pid in self.home.pids("send"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGALRM)

    def end(self):
        """Ends all processes of this home, at once."""
        self.sender.unwatch()
        self.listener.unwatch()
        for _ in range(5):
            pids = self.home.pids()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not pids:
                break
            time.sleep(0.05)
        for service in (self.sender, self.listener):
            if service.process:
                service.process.wait(5)

    def enqueue(self, message, sender="s@elsewhere.test", recipients=(f"user@{LOCAL}",)):
        """Hands a message to queue while all runs; returns its number, from the log."""
        done = run_queue(self.home, message, envelope(sender, recipients))
        assert done.returncode == 0, f"queue exits {done.returncode}"
        return int(self.log.expect(rf"^info msg (\d+): .* qp {done.pid} uid ")[0][1])

    def smtp(self, timeout=30):
        return smtplib.SMTP("127.0.0.1", self.port, "client.test", timeout=timeout)

    def send(self, message, sender="s@elsewhere.test", recipients=(f"user@{LOCAL}",)):
        """One message by SMTP (LF or CRLF lines); returns the reply to the final dot."""
        with self.smtp() as client:
            client.ehlo()
            assert client.mail(sender)[0] == 250
            for recipient in recipients:
                code, text = client.rcpt(recipient)
                assert code == 250, (recipient, code, text)
            code, text = client.data(re.sub(rb"\r?\n", b"\r\n", message))
            assert code == 250, text
            return text.decode()

    def settle(self, deadline=60):
        """Waits until the queue is empty."""
        wait(
            lambda: f"the queue to be empty, there are {self.home.queue_files()[:20]}\n" + self.log.text()[-3000:],
            self.home.queue_is_empty, deadline,
        )


def assert_no_crash(apus):
    """No program died of a signal: listen, the spawners, and send say so when one does."""
    assert not re.search(r"event=end .*signal=", apus.smtp_log.text()), apus.smtp_log.text()[-2000:]
    for word in ("crashed", "oh no!", "internal bug", "qmail-lspawn bug"):
        assert word not in apus.log.text(), apus.log.text()[-2000:]
    assert "crashed" not in apus.smtp_log.text()


REPLY = r"ok (?P<time>\d+) qp (?P<qp>\d+) id (?P<id>[0-9A-HJKMNP-TV-Z]{26})"


class Raw:
    """An SMTP client that sends exactly the bytes it is told."""

    def __init__(self, port, address="127.0.0.1", timeout=15):
        self.socket = socket.create_connection((address, port), timeout=timeout)
        self.buffer = b""

    @classmethod
    def on(cls, sock, timeout=15):
        self = cls.__new__(cls)
        self.socket, self.buffer = sock, b""
        sock.settimeout(timeout)
        return self

    def write(self, data):
        self.socket.sendall(data)

    def line(self):
        """One line without CRLF; None at the end of the connection."""
        while b"\n" not in self.buffer:
            try:
                chunk = self.socket.recv(65536)
            except (ConnectionResetError, BrokenPipeError):
                chunk = b""
            if not chunk:
                assert not self.buffer, f"connection ends within a line: {self.buffer!r}"
                return None
            self.buffer += chunk
        line, self.buffer = self.buffer.split(b"\n", 1)
        assert line.endswith(b"\r"), f"bare LF from the server: {line!r}"
        return line[:-1]

    def reply(self):
        """A whole reply, its lines joined by LF; None at the end of the connection."""
        lines = []
        while True:
            line = self.line()
            if line is None:
                assert not lines, lines
                return None
            lines.append(line.decode("latin-1"))
            if line[3:4] != b"-":
                return "\n".join(lines)

    def ask(self, command):
        self.write(command if isinstance(command, bytes) else command.encode("latin-1") + b"\r\n")
        return self.reply()

    def closed(self):
        """True when the server has closed and said nothing more."""
        return self.line() is None

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
