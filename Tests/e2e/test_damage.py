"""Damage in the queue, in users/cdb and in .qmail files, and addresses of every kind: what is whole goes on, nothing is lost."""

import contextlib
import os
import random
import re
import shutil
import threading
import time

import pytest
from apus import Raw, assert_no_crash, envelope, run_queue, wait

MEGABYTE = 1 << 20
#: Largest resident memory of any program, whatever it is given.
MEMORY_LIMIT = 16 * MEGABYTE
RANDOM = random.Random(5).randbytes(5000)
DIRECTORY = object()


class Peaks:
    """Samples the largest resident memory of every program of a home, as the kernel has it (VmHWM)."""

    def __init__(self, home):
        self.home, self.bytes = home, {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(10)

    def _watch(self):
        while not self._stop.wait(0.02):
            for pid in self.home.pids():
                with contextlib.suppress(OSError, TypeError):
                    name = os.readlink(f"/proc/{pid}/exe").rsplit("/apus-", 1)[1]
                    with open(f"/proc/{pid}/status") as file:
                        peak = int(re.search(r"VmHWM:\s+(\d+)", file.read())[1]) * 1024
                    self.bytes[name] = max(peak, self.bytes.get(name, 0))

    def check(self, *programs):
        """All of `programs` were seen, and none of all that were seen was too large."""
        assert set(programs) <= set(self.bytes), f"never seen: {set(programs) - set(self.bytes)}"
        large = {name: peak for name, peak in self.bytes.items() if peak >= MEMORY_LIMIT}
        assert not large, large


def processor_time(*pids):
    """Seconds that these processes have used."""
    ticks = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as file:
            ticks += sum(map(int, file.read().rsplit(")", 1)[1].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


# Queue files -----------------------------------------------------------------------------------------------

TODO = {
    "unknown record": b"u0\0p1\0Fs@x.test\0Xwhat\0Tuser@home.test\0",
    "empty": b"",
    "no sender": b"u0\0p1\0Tuser@home.test\0",
    "sender without NUL": b"u0\0p1\0Fs@x.test",
    "uid that is no number": b"ux\0p1\0Fs@x.test\0Tuser@home.test\0",
    "empty record": b"u0\0p1\0Fs@x.test\0\0Tuser@home.test\0",
    "endless address": b"u0\0p1\0Fs@x.test\0T" + b"a" * (50 * MEGABYTE) + b"\0",
    "50 MB of NULs": bytes(50 * MEGABYTE),
    "random": RANDOM,
}
INFO = {"empty": b"", "another letter": b"Gs@x.test\0", "no NUL": b"Fs@x.test", "50 MB": b"F" * (50 * MEGABYTE), "random": RANDOM}
RECIPIENTS = {
    "another letter": b"Xuser@home.test\0", "no NUL": b"Tuser@home.test", "50 MB": b"T" + b"a" * (50 * MEGABYTE),
    "damage in the middle": b"Tone@home.test\0" + b"T" + b"a" * 100_000 + b"\0Ttwo@home.test\0", "random": b"Q" + RANDOM,
}
ODD_NAMES = ["abc", "12a", "-5", "1.2", "99999999999999999999999999", " 7", "\x01", "x" * 200, "core", "0x10"]


@pytest.mark.parametrize("moment", ["before the start", "while it runs"])
def test_damaged_queue_files(home, apus, moment):
    """A warning for each, the rest goes on, no processor time is wasted, and nothing is thrown away."""
    if moment == "while it runs":
        apus.start()
    expected, kept = [], []

    def lay_out(state, damage, **more):
        number = home.put("S5", message=b"Subject: damaged\n\n", local=["keep@home.test"], **more)
        for kind in ("local", "info") if state == "todo" else ():
            home.file(kind, number).unlink(missing_ok=True)
        file = home.file(state, number)
        temporary = home.queue / "pid" / "damage"
        temporary.write_bytes(damage)
        temporary.rename(file)
        kept.append((file, damage))
        return str(file.relative_to(home.queue))

    for damage in TODO.values():
        expected.append(rf"warning: .* {lay_out('todo', damage)}$")
    (home.queue / "todo" / "4000000001").write_bytes(b"u0\0p1\0Fs@x\0Tuser@home.test\0")
    expected.append(r"warning: unable to stat mess/\d+/4000000001")
    (home.queue / "todo" / "4000000002").mkdir()
    expected.append(r"warning: .* (mess/\d+|todo)/4000000002")
    os.mkfifo(home.queue / "todo" / "4000000003")
    expected.append(r"warning: .* (mess/\d+|todo)/4000000003")
    for name in ODD_NAMES:
        for directory in ("todo", "info/0", "info/22", "local/3", "mess/5", "bounce", "intd", "pid"):
            with contextlib.suppress(FileExistsError):
                (home.queue / directory / name).write_bytes(b"junk\0")
    (home.queue / "info" / "3" / str(23 * 10**8)).write_bytes(b"Fs@x\0")  # in the wrong place
    if moment == "before the start":
        for damage in INFO.values():
            expected.append(rf"warning: trouble opening {lay_out('info', damage)}; will try again later$")
        for damage in RECIPIENTS.values():
            expected.append(rf"warning: unknown record type in {lay_out('local', damage)}!$")
        orphan = 4000000004  # no file system will give this number to another message meanwhile
        home.file("info", orphan).write_bytes(b"Fs@x.test\0")
        home.file("local", orphan).write_bytes(b"Tuser@home.test\0")
        expected.append(rf"warning: trouble opening mess/\d+/{orphan}; will try again later$")
        apus.start()
    with Peaks(home) as peaks:
        for number in range(5):
            apus.send(b"Subject: whole %d\n\nx\n" % number)
        whole = lambda: len([m for m in home.maildir().messages() if b"Subject: whole" in m.text])
        wait(lambda: f"whole messages, there are {whole()}", lambda: whole() == 5)
        for pattern in expected:
            apus.log.expect("^" + pattern)
        apus.log.expect("^end msg ", 5)
    peaks.check("send", "todo")
    daemons = home.pids("send", "todo")
    assert len(daemons) == 2
    before = processor_time(*daemons)
    lines = len(apus.log.lines())
    time.sleep(2)  # the measure itself
    assert processor_time(*daemons) - before < 0.1
    assert len(apus.log.lines()) - lines < 10, "warnings without end"
    for file, damage in kept:
        content = file.read_bytes()
        assert content == damage or content == damage.replace(b"Tone@", b"Done@"), file
    delivered = [m.delivered_to for m in home.maildir().messages() if b"Subject: damaged" in m.text]
    assert delivered == (["one@home.test"] if moment == "before the start" else []), "as far as it can be read, and once"
    assert_no_crash(apus)
    assert apus.stop_send() == 0


def test_start_walk_over_a_directory_that_cannot_be_opened(home, apus):
    """send says so, rests 10 seconds, tries again, and finds the message."""
    number = home.put("S5", local=["user@home.test"])
    directory = home.file("info", number).parent
    aside = directory.rename(home.queue / "aside")
    apus.start_send()
    apus.log.expect(r"^alert: unable to opendir info/\d+, sleeping...$")
    shutil.rmtree(directory, ignore_errors=True)
    aside.rename(directory)
    home.maildir().expect(1)


# Users and .qmail ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [
    b"", b"x", RANDOM, bytes(2047), b"\xff" * 2048, b"\xff" * 5000, bytes(2048), DIRECTORY,
], ids=["empty", "one byte", "random", "NULs", "FFs", "more FFs", "no keys", "directory"])
def test_users_cdb_damaged(home, running, damage):
    """Deferred as long as the table cannot be read, delivered when it is put right."""
    table = home.path / "users" / "cdb"
    table.parent.mkdir(exist_ok=True)
    if damage is DIRECTORY:
        table.mkdir()
    else:
        table.write_bytes(damage)
    running.send(b"Subject: x\n\nx\n")
    running.log.expect("delivery 1: deferral: Trouble_reading_users/cdb_in_qmail-lspawn./")
    assert not home.maildir().names()
    table.rmdir() if damage is DIRECTORY else table.unlink()
    running.alarm()
    home.maildir().expect(1)
    running.settle()
    assert_no_crash(running)


HIGH = bytes(byte for byte in random.Random(6).randbytes(5000) if byte >= 128)
QMAIL = {
    # what the file holds, and what becomes of the message: the pattern of the log, or None for the default Maildir
    "nuls": (bytes(100), "success|failure|deferral"),
    "binary": (HIGH, "success|failure|deferral"),
    "line": (b"./" + b"m" * (10 * MEGABYTE) + b"\n", "deferral"),
    "program": (b"|" + b"x" * (10 * MEGABYTE) + b"\n", "deferral"),
    "comments": (b"#" * (20 * MEGABYTE) + b"\n./Maildir/\n", "success|deferral"),
    "crlf": (b"./Maildir-none/\r\n", "deferral"),
    "blank": (b"\n./Maildir/\n", "deferral: Uh-oh:_first_line_of_.qmail_file_is_blank._(#4.2.1)"),
    "nowhere": (b"./no/such/dir/\n", "deferral"),
    "address": (b"&" + b"u" * 2000 + b"@home.test\n", "failure"),
    "loop": (b"&loop@home.test\n", "success"),
    "unended": (b"./Maildir/", "success"),
    "directory": (DIRECTORY, "success"),
}


def test_qmail_files_damaged(home, running):
    for name, (content, _) in QMAIL.items():
        file = home.path / "alias" / f".qmail-{name}"
        if content is DIRECTORY:
            file.mkdir()
        else:
            file.write_bytes(content)
            file.chmod(0o644)
    home.alias("writable", "./Maildir/")
    (home.path / "alias" / ".qmail-writable").chmod(0o666)
    table = {**QMAIL, "writable": (None, "deferral: Uh-oh:_.qmail_file_is_writable._(#4.7.0)")}
    with Peaks(home) as peaks:
        for name in table:
            running.send(b"Subject: to %s\n\nx\n" % name.encode(), "", [f"{name}@home.test"])
        for name, (_, outcome) in table.items():
            ((delivery),) = {m["d"] for m in running.log.expect(rf"starting delivery (?P<d>\d+): msg \d+ to local {name}@")[:1]}
            found = running.log.expect(rf"^delivery {delivery}: (success|failure|deferral): .*")[0][0]
            assert re.search(rf"delivery \d+: (?:{outcome.replace('(', '[(]').replace(')', '[)]')})", found), (name, found)
    assert_no_crash(running)
    peaks.check("lspawn", "send")
    # Nothing is lost: put right, all that waited arrives.
    for name in table:
        file = home.path / "alias" / f".qmail-{name}"
        file.rmdir() if file.is_dir() else file.unlink()

    def settled():
        running.alarm()
        return home.queue_is_empty()

    wait(lambda: f"the queue to be empty: {home.queue_files()[:5]}", settled, 30, 0.3)
    arrived = {re.search(rb"Subject: to (\w+)", m.bytes)[1].decode() for m in home.maildir().messages()}
    gone = {m[1] for m in running.log.find(r"did_1\+0\+0") if m.lastindex}
    assert {"line", "program", "crlf", "blank", "nowhere", "writable", "unended", "directory"} <= arrived | gone, arrived
    assert {"loop", "address"} <= arrived, "a notice to postmaster"

# Addresses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("local, stored", [
    (b"a\0b", None), (b"a\rb", None), (b"u" * 2000, None), (b"u" * 880, "u" * 880), (b'"a\x01\x1b\x7fb"', "a\x01\x1b\x7fb"),
    (b"\xff\xc3\xa4", "\xff\xc3\xa4"), (b'"a b"', "a b"), (b'"a\\"b"', 'a"b'), (b"a%n%s", "a%n%s"), (b"../../x", "../../x"),
    (b"|touch x", "|touch x"), (b"-f", "-f"),
], ids=lambda value: repr(value)[:30])
def test_addresses_at_smtp(home, running, far, local, stored):
    with Raw(running.port) as client:
        client.reply()
        client.ask("EHLO client.test")
        for address in (local + b"@home.test", local + b"@far.test"):
            client.write(b"MAIL FROM:<" + local + b"@elsewhere.test>\r\nRCPT TO:<" + address + b">\r\n")
            codes = [client.reply()[:3] for _ in range(2)]
            if stored is None:
                assert codes[0][0] == "5" and codes[1][0] == "5"
                continue
            assert codes == ["250", "250"]
            assert client.ask("DATA")[:3] == "354"
            assert client.ask(b"Subject: x\r\n\r\nx\r\n.\r\n")[:3] == "250"
        assert client.ask("QUIT")[:3] == "221"
    if stored is not None:
        (message,) = home.maildir().expect(1)
        assert message.delivered_to == stored + "@home.test"
        wait("the other one", lambda: far.messages)
        assert unquoted(far.messages[0].recipients) == [stored + "@far.test"]
    running.settle()
    assert_no_crash(running)
    assert re.fullmatch(r"[ -~\n]*", running.log.text() + running.smtp_log.text()), "strangers' bytes in a log"


def unquoted(addresses):
    """Addresses as SMTP has them, without quotes."""
    found = []
    for address in addresses:
        local, domain = address.rsplit("@", 1)
        if local.startswith('"'):
            local = re.sub(r"(?s)\\(.)", r"\1", local[1:-1])
        found.append(f"{local}@{domain}")
    return found


@pytest.mark.parametrize("local, code", [
    (b"a\x01\x1b\x7fb", 0), (b"a\nb", 0), (b"a\r\nRCPT TO:<x@y>", 0), (b"\xff\xfe", 0), (b"a b", 0), (b"u" * 993, 0),
    (b"u" * 994, 11), (b"u" * 2000, 11), (b"a@b@c", 0),
], ids=lambda value: repr(value)[:30])
def test_addresses_at_queue(home, running, far, local, code):
    """1002 bytes are the most (queue.md 1); any byte but NUL is taken, and none of them reaches a line of a protocol."""
    assert (len(local + b"@far.test") > 1002) == (code == 11)
    assert run_queue(home, b"Subject: x\n\nx\n", envelope(b"", [local + b"@far.test"])).returncode == code
    if len(local) < 900:
        assert run_queue(home, b"Subject: x\n\nx\n", envelope(b"", [local + b"@home.test"])).returncode == code
    # Each is delivered, or its double bounce goes to postmaster: alias/.qmail-default has them all.
    running.settle()
    assert_no_crash(running)
    assert re.fullmatch(r"[ -~\n]*", running.log.text()), "strangers' bytes in a log"
    for session in far.sessions:
        assert not [command for command in session.commands if re.search(r"[\r\n]", command)]
        assert "x@y" not in [recipient for message in session.messages for recipient in message.recipients]
    outcomes = [match[1] for match in running.log.find("^delivery [0-9]+: (success|failure|deferral)")]
    assert code == 11 and not outcomes or code == 0 and outcomes and "deferral" not in outcomes, outcomes


@pytest.mark.parametrize("where", ["argument", "To", "-f"])
@pytest.mark.parametrize("local", [b"u" * 2000, b"a\x01\x1bb", b"\xff\xfe", b"a b", b"u" * 100_000], ids=lambda v: repr(v[:10]))
def test_addresses_at_inject(home, running, local, where):
    address = local + b"@home.test"
    head = b"To: " + (b'"' + local + b'"@home.test' if where == "To" else b"user@home.test") + b"\n"
    arguments = {"argument": [address], "To": [], "-f": ["-f", address, "user@home.test"]}[where]
    done = home.run("inject", *arguments, input=head + b"Subject: x\n\nx\n", env={"USER": "joe"})
    if len(local) >= 2000:
        assert done.returncode == 100, done
        assert b"envelope address too long for qq (#5.1.3)" in done.stderr, done.stderr[-200:]
        assert home.queue_is_empty()
    else:
        assert done.returncode == 0, done
        (message,) = home.maildir().expect(1)
        expected = address.decode("latin-1")
        assert (message.return_path.replace('"', "") if where == "-f" else message.delivered_to) == expected
    running.settle()
    assert_no_crash(running)


def test_nul_in_the_header_of_inject(home, running):
    """In a recipient field: the field cannot be parsed and gives no recipients (inject.md 4). Elsewhere it is text."""
    done = home.run("inject", input=b"To: a\0b@home.test, user@home.test\nCc: cc@home.test\nSubject: a\0b\n\na\0b\n",
                    env={"USER": "joe"})
    assert done.returncode == 0 and b"warning: unable to parse this line:\nTo: " in done.stderr, done
    (message,) = home.maildir().expect(1)
    assert message.delivered_to == "cc@home.test" and message.text.endswith(b"Subject: a\0b\n\na\0b\n")
