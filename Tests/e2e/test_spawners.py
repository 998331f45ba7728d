"""lspawn and rspawn alone, by their byte protocol (spec pipes.md 3.3, 3.4, 4, 5), with partners of every kind."""

import os
import random
import subprocess
import threading
import time

import pytest
from apus import SPLIT

SPAWN = 120


class Spawner:
    def __init__(self, home, program, *arguments, **environment):
        self.process = subprocess.Popen(
            [str(home.program(program)), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
            env=home.environment(**environment), cwd="/",
        )
        self.buffer = b""

    def hello(self):
        return self.process.stdout.read(1)

    def order(self, delnum, mess, sender, recipient):
        self.process.stdin.write(bytes([delnum]) + mess + b"\0" + sender + b"\0" + recipient + b"\0")

    def report(self):
        """(delnum, text) of the next report; None at the end."""
        while True:
            # a NUL ends a report only if at least one byte precedes it
            end = self.buffer.find(b"\0", 1)
            if end >= 0:
                report, self.buffer = self.buffer[:end], self.buffer[end + 1:]
                return report[0], report[1:]
            chunk = self.process.stdout.read(65536)
            if not chunk:
                assert self.buffer == b""
                return None
            self.buffer += chunk

    def ask(self, *order):
        self.order(*order)
        delnum, text = self.report()
        assert delnum == order[0]
        return text

    def end(self, deadline=15):
        """Closes the commands; exit code and remaining reports."""
        self.process.stdin.close()
        rest = []
        while (report := self.report()) is not None:
            rest.append(report)
        return self.process.wait(deadline), rest


@pytest.fixture
def spawn(home):
    started = []

    def spawn(program, *arguments, **environment):
        if program == "lspawn" and not arguments:
            arguments = ("./Maildir/",)
        spawner = Spawner(home, program, *arguments, **environment)
        started.append(spawner)
        assert spawner.hello() == bytes([SPAWN])
        return spawner

    yield spawn
    for spawner in started:
        if spawner.process.poll() is None:
            spawner.process.kill()
            spawner.process.wait()
        for pipe in (spawner.process.stdin, spawner.process.stdout):
            pipe.close()


@pytest.fixture
def message(home):
    number = home.put("S5", b"Subject: x\n\nbody\n", local=["user@home.test"])
    return f"{number % SPLIT}/{number}".encode()


def stand_in(home, program, script):
    """Replaces an installed program by a shell script."""
    file = home.program(program)
    file.unlink()
    file.write_text("#!/bin/sh\n" + script)
    file.chmod(0o755)


BOTH = pytest.mark.parametrize("program", ["lspawn", "rspawn"])


# The command -----------------------------------------------------------------------------------------------

BAD_MESSAGE = b"DInternal error: messid has nonnumerics. (#5.3.5)\n"
BAD_ORDERS = {
    "delnum 120": ((SPAWN, None, b"s@a", b"r@b"), b"ZInternal error: delnum too big. (#4.3.5)\n"),
    "delnum 255": ((255, None, b"s@a", b"r@b"), b"ZInternal error: delnum too big. (#4.3.5)\n"),
    "letters": ((0, b"1/12a", b"s@a", b"r@b"), BAD_MESSAGE),
    "dots": ((0, b"../lock/trigger", b"s@a", b"r@b"), BAD_MESSAGE),
    "one dot": ((0, b"1/./5", b"s@a", b"r@b"), BAD_MESSAGE),
    "absolute": ((0, b"/1/2", b"s@a", b"r@b"), BAD_MESSAGE),
    "blank": ((0, b" 1/2", b"s@a", b"r@b"), BAD_MESSAGE),
    "LF": ((0, b"1/2\n", b"s@a", b"r@b"), BAD_MESSAGE),
    "8 bit": ((0, b"1/\xff", b"s@a", b"r@b"), BAD_MESSAGE),
    "too long": ((0, b"1" * 101, b"s@a", b"r@b"), b"DInternal error: messid too long. (#5.3.5)\n"),
    "empty": ((0, b"", b"s@a", b"r@b"), b"DInternal error: messid too short. (#5.3.5)\n"),
    "no @": ((0, None, b"s@a", b"recipient"), b"DSorry, address must include host name. (#5.1.3)\n"),
    "empty recipient": ((0, None, b"s@a", b""), b"DSorry, address must include host name. (#5.1.3)\n"),
    "no such message": ((0, b"1/1", b"s@a", b"r@b"), b"Zqmail-spawn unable to open message. (#4.3.0)\n"),
    "only a name of 100 digits": ((0, b"1" * 100, b"s@a", b"r@b"), b"Zqmail-spawn unable to open message. (#4.3.0)\n"),
}


@BOTH
@pytest.mark.parametrize("name", BAD_ORDERS)
def test_bad_order(home, spawn, message, program, name):
    (delnum, mess, sender, recipient), answer = BAD_ORDERS[name]
    spawner = spawn(program)
    assert spawner.ask(delnum, message if mess is None else mess, sender, recipient) == answer
    # and the spawner goes on, and the slot is free
    assert spawner.ask(0, b"1/1", b"s@a", b"r@b").startswith(b"Zqmail-spawn unable to open")
    assert spawner.end() == (0, [])


@BOTH
def test_directory_and_fifo_are_wrong_type_and_do_not_block(home, spawn, program):
    os.mkfifo(home.queue / "mess" / "5" / "555")
    (home.queue / "mess" / "5" / "556").mkdir()
    (home.queue / "mess" / "5" / "557").symlink_to("/etc/passwd")
    spawner = spawn(program)
    for name in (b"5/555", b"5/556", b"5"):
        assert spawner.ask(3, name, b"s@a", b"r@b") == b"ZSorry, message has wrong type. (#4.3.5)\n", name
    assert spawner.end() == (0, [])


@BOTH
def test_wrong_owner(home, spawn, message, program):
    if os.getuid() != 0:
        pytest.skip("a file of another owner needs root for chown(2)")
    os.chown(home.queue / "mess" / message.decode(), 12345, 12345)
    spawner = spawn(program)
    assert spawner.ask(0, message, b"s@a", b"user@home.test") == b"ZSorry, message has wrong owner. (#4.3.5)\n"
    assert spawner.end() == (0, [])
    assert len(home.maildir()) == 0


@BOTH
def test_slot_in_use(home, spawn, message, program):
    stand_in(home, "local", "sleep 1; echo done; exit 0\n")
    stand_in(home, "remote", "sleep 1; printf 'r\\0Kdone\\n\\0'\n")
    spawner = spawn(program)
    spawner.order(7, message, b"s@a", b"user@home.test")
    time.sleep(0.2)
    assert spawner.ask(7, message, b"s@a", b"user@home.test") == b"ZInternal error: delnum in use. (#4.3.5)\n"
    assert spawner.report() == (7, b"Kdone\n")
    assert spawner.end() == (0, [])


@BOTH
def test_all_slots_at_once_and_reports_in_any_order(home, spawn, message, program):
    # the first ones take longest
    stand_in(home, "local", 'case $4 in user[0-9]) sleep 0.5;; esac; echo "$4"; exit 0\n')
    stand_in(home, "remote", 'case $3 in user[0-9]@*) sleep 0.5;; esac; printf \'r\\0K%s\\n\\0\' "$3"\n')
    spawner = spawn(program)
    for n in range(SPAWN):
        spawner.order(n, message, b"s@a", b"user%d@home.test" % n)
    reports = [spawner.report() for _ in range(SPAWN)]
    assert sorted(n for n, _ in reports) == list(range(SPAWN))
    tail = b"" if program == "lspawn" else b"@home.test"
    if program == "lspawn":
        assert all(text == b"Kuser%d\n" % n for n, text in reports), reports[:3]
    else:
        assert all(text == b"Kuser%d" % n + tail + b"\n" for n, text in reports), reports[:3]
    assert {n for n, _ in reports[-10:]} == set(range(10))
    assert spawner.end() == (0, [])


@BOTH
def test_orders_byte_by_byte(home, spawn, message, program):
    spawner = spawn(program)
    for byte in bytes([0]) + b"9/9\0s@a\0r@b\0" + bytes([1]) + b"9/9\0s@a\0r@b\0":
        spawner.process.stdin.write(bytes([byte]))
        time.sleep(0.002)
    for n in (0, 1):
        assert spawner.report() == (n, b"Zqmail-spawn unable to open message. (#4.3.0)\n")
    assert spawner.end() == (0, [])


@BOTH
def test_end_waits_for_running_deliveries(home, spawn, message, program):
    stand_in(home, "local", "sleep 1; echo late; exit 0\n")
    stand_in(home, "remote", "sleep 1; printf 'r\\0Klate\\n\\0'\n")
    spawner = spawn(program)
    spawner.order(0, message, b"s@a", b"user@home.test")
    assert spawner.end() == (0, [(0, b"Klate\n")])


@BOTH
@pytest.mark.parametrize("rest", [b"\0", b"\0009/9", b"\0009/9\0s@a", b"\0009/9\0s@a\0user@home.test"])
def test_half_an_order_before_the_end_does_nothing(home, spawn, program, rest):
    spawner = spawn(program)
    spawner.process.stdin.write(rest)
    assert spawner.end() == (0, [])


@BOTH
def test_nobody_reads_the_reports(home, spawn, message, program):
    """A write error makes it discard reports but finish deliveries."""
    stand_in(home, "local", f"sleep 0.3; echo x >> {home.path}/done; exit 0\n")
    stand_in(home, "remote", f"sleep 0.3; echo x >> {home.path}/done; printf 'r\\0K\\n\\0'\n")
    spawner = spawn(program)
    spawner.process.stdout.close()
    spawner.order(0, b"9/9", b"s@a", b"r@b")
    spawner.order(1, message, b"s@a", b"user@home.test")
    spawner.order(2, message, b"s@a", b"user@home.test")
    spawner.process.stdin.close()
    assert spawner.process.wait(15) in (0, 100, 111)
    assert (home.path / "done").read_text() == "x\nx\n"


@BOTH
def test_garbage_never_stops_it(home, spawn, program):
    """1 MB of pseudo-random bytes: every report has a form that send can read; then a good order still works."""
    junk = random.Random(4).randbytes(1_000_000).replace(b"/", b"7")
    spawner = spawn(program)
    feeder = threading.Thread(target=lambda: (spawner.process.stdin.write(junk + b"\0" * 12)), daemon=True)
    feeder.start()
    seen = 0
    os.set_blocking(spawner.process.stdout.fileno(), False)
    quiet = 0
    while quiet < 20:
        chunk = spawner.process.stdout.read(1 << 20)
        if chunk:
            seen += chunk.count(b"\0")
            quiet = 0
        else:
            quiet += 1 if not feeder.is_alive() else 0
            time.sleep(0.05)
    os.set_blocking(spawner.process.stdout.fileno(), True)
    assert seen > 100
    assert spawner.process.poll() is None
    # whatever state the junk left: NULs complete any pending order, after at most three of them
    spawner.buffer = b""
    spawner.process.stdin.close()
    assert spawner.process.wait(15) == 0


@BOTH
def test_an_order_of_10_mb_is_refused_in_bounded_memory(home, spawn, message, program):
    spawner = spawn(program)
    big = b"x" * 10_000_000
    spawner.process.stdin.write(bytes([5]) + message + b"\0s@a\0" + big + b"@home.test\0")
    delnum, text = spawner.report()
    assert delnum == 5 and text[:1] in b"DZ"
    assert peak(spawner.process.pid) < 8 << 20
    assert spawner.ask(5, b"9/9", b"s@a", b"r@b").startswith(b"Z")
    assert spawner.end() == (0, [])


def peak(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024


@BOTH
def test_queue_missing_is_111(home, program):
    home.queue.rename(home.path / "away")
    spawner = Spawner(home, program, *(["./Maildir/"] if program == "lspawn" else []))
    assert spawner.hello() == b""
    assert spawner.process.wait(10) == 111
    spawner.process.stdin.close()
    spawner.process.stdout.close()


def test_lspawn_without_argument_is_100(home):
    spawner = Spawner(home, "lspawn")
    assert spawner.hello() == b""
    assert spawner.process.wait(10) == 100
    spawner.process.stdin.close()
    spawner.process.stdout.close()


# lspawn: what became of local ------------------------------------------------------------------------------

STATUS = {
    0: b"Ktext\n", 100: b"Dtext\n", 1: b"Dtext\n", 99: b"Dtext\n", 64: b"Dtext\n", 111: b"Ztext\n", 71: b"Ztext\n",
    74: b"Ztext\n", 75: b"Ztext\n",
    112: b"ZInternal qmail-lspawn bug.\n", 113: b"ZNot allowed to perform deliveries as root.\n",
    115: b"ZNFS failure in qmail-local.\n", 116: b"ZUnable to find alias user!\n",
    117: b"ZTrouble reading users/cdb in qmail-lspawn.\n", 118: b"ZTemporary failure in qmail-lspawn.\n",
    119: b"ZOut of memory in qmail-lspawn.\n", 120: b"ZUnable to run qmail-local.\n",
    121: b"ZUnable to run qmail-getpw.\n", 126: b"DUnable to run qmail-local.\n",
}


def test_exit_status_of_local(home, spawn, message):
    stand_in(home, "local", 'echo text; case $4 in sig) kill -9 $$;; esac; exit "$4"\n')
    spawner = spawn("lspawn")
    for code, answer in STATUS.items():
        assert spawner.ask(0, message, b"s@a", b"%d@home.test" % code) == answer, code
    assert spawner.ask(0, message, b"s@a", b"sig@home.test") == b"Zqmail-local crashed.\n"
    assert spawner.end() == (0, [])


def test_exit_status_of_getpw(home, spawn, message):
    stand_in(home, "getpw", 'exit "$1"\n')
    spawner = spawn("lspawn")
    for code in (115, 116, 118, 111, 100):
        expected = STATUS[code].replace(b"text\n", b"")
        assert spawner.ask(0, message, b"s@a", b"%d@home.test" % code) == expected, code


def test_local_cannot_be_run(home, spawn, message):
    home.program("local").unlink()
    assert spawn("lspawn").ask(0, message, b"s@a", b"user@home.test") == b"DUnable to run qmail-local.\n"


def test_getpw_cannot_be_run(home, spawn, message):
    home.program("getpw").unlink()
    assert spawn("lspawn").ask(0, message, b"s@a", b"user@home.test") == b"ZUnable to run qmail-getpw.\n"


@pytest.mark.parametrize("output", ["", "root\\0", "a\\0x\\0y\\0/\\0-\\0z\\0", "junk", "a\\0001\\0001\\000/\\000-\\000"],
                         ids=["nothing", "one field", "no numbers", "no NUL", "five fields"])
def test_hostile_getpw(home, spawn, message, output):
    stand_in(home, "getpw", f"printf '{output}'\n")
    stand_in(home, "local", "echo ran; exit 0\n")
    text = spawn("lspawn").ask(0, message, b"s@a", b"user@home.test")
    assert text[:1] == b"Z", text


def test_arguments_of_local(home, spawn, message):
    stand_in(home, "local", "for a; do printf '<%s>' \"$a\"; done; pwd; cat >/dev/null; exit 0\n")
    text = spawn("lspawn", "./Box\n&x@y").ask(0, message, b"se nder@a", b"Big.Name-Ext@sub@home.test")
    alias = f"{home.path}/alias".encode()
    assert text.startswith(b"K<--><"), text
    fields = text[2:text.rindex(b">")].split(b"><")
    assert fields[0] == b"--"
    assert fields[2:] == [alias, b"Big.Name-Ext@sub", b"-", b"Big.Name-Ext@sub", b"home.test", b"se nder@a",
                          b"./Box\n&x@y"]


def test_descriptors_of_local(home, spawn, message):
    """0 is the message at its start, 1 and 2 the report, and nothing else is open."""
    stand_in(home, "local", "ls /proc/$$/fd | tr '\\n' ' '; readlink /proc/$$/fd/0; head -n1; echo err >&2; exit 0\n")
    text = spawn("lspawn").ask(0, message, b"s@a", b"user@home.test").decode()
    mess = f"{home.queue}/mess/{message.decode()}"
    lines = text.split("\n")
    # 10 or 255 is the script itself, opened by the shell
    first = lines[0].split(" ")
    assert [n for n in first[:-1] if n not in ("10", "255", "")] in (["K0", "1", "2"], ["K0", "1", "2", "3"]), text
    assert first[-1] == mess
    assert lines[1].startswith("Received: (qmail 4711 invoked")
    assert lines[2] == "err"


def test_empty_local_part_is_discarded_with_success(home, spawn, message):
    text = spawn("lspawn").ask(0, message, b"s@a", b"@home.test")
    assert text[:1] == b"K"
    assert len(home.maildir()) == 0


def test_output_is_cut_at_3000_bytes(home, spawn, message):
    stand_in(home, "local", "head -c 100000 /dev/zero | tr '\\0' x; exit 100\n")
    text = spawn("lspawn").ask(0, message, b"s@a", b"user@home.test")
    assert text.startswith(b"D" + b"x" * 2900)
    assert 2950 < len(text) < 3100 and text.endswith(b"\n"), (len(text), text[-100:])
    assert b"too long" in text[-60:]


def test_output_is_used_up_to_its_first_nul(home, spawn, message):
    stand_in(home, "local", "printf 'seen\\0hidden'; exit 0\n")
    assert spawn("lspawn").ask(0, message, b"s@a", b"user@home.test") == b"Kseen"


def test_users_cdb_broken_is_117(home, spawn, message):
    (home.path / "users").mkdir(exist_ok=True)
    (home.path / "users" / "cdb").write_bytes(b"junk")
    assert spawn("lspawn").ask(0, message, b"s@a", b"user@home.test") == STATUS[117]


def cdb(records):
    """A constant database, as spec programs.md 8 says."""
    def hash_(key):
        h = 5381
        for byte in key:
            h = ((h * 33) & 0xFFFFFFFF) ^ byte
        return h

    body, places = b"", []
    for key, value in records:
        places.append((hash_(key), 2048 + len(body)))
        body += len(key).to_bytes(4, "little") + len(value).to_bytes(4, "little") + key + value
    header, tables, at = b"", b"", 2048 + len(body)
    for table in range(256):
        mine = [place for place in places if place[0] % 256 == table]
        slots = [(0, 0)] * (2 * len(mine))
        for h, position in mine:
            slot = (h // 256) % len(slots)
            while slots[slot][1]:
                slot = (slot + 1) % len(slots)
            slots[slot] = (h, position)
        header += (at + len(tables)).to_bytes(4, "little") + len(slots).to_bytes(4, "little")
        tables += b"".join(h.to_bytes(4, "little") + p.to_bytes(4, "little") for h, p in slots)
    return header + body + tables


def test_users_cdb(home, spawn, message):
    """Exact, wildcard with an end character of W, the longest, and + for everything; else getpw."""
    stand_in(home, "local", 'printf "<%s>" "$2" "$3" "$5" "$6"; exit 0\n')
    ids = b"%d\0%d\0" % (os.getuid() or 1000, os.getgid() or 1000)
    user = lambda name, pre: name + b"\0" + ids + b"/h/" + name + b"\0-\0" + pre
    (home.path / "users").mkdir(exist_ok=True)
    (home.path / "users" / "cdb").write_bytes(cdb([
        (b"", b"-"),
        (b"!joe\0", b"joe\0" + ids + b"/h/joe\0\0"),
        (b"!joe-", user(b"joe", b"")),
        (b"!joe-list-", user(b"lists", b"pre.")),
        (b"!x", user(b"never", b"")),
    ]))
    spawner = spawn("lspawn")
    for recipient, fields in {
        b"joe": b"<joe></h/joe><><>", b"JOE": b"<joe></h/joe><><>", b"Joe-Ext": b"<joe></h/joe><-><Ext>",
        b"joe-": b"<joe></h/joe><-><>", b"joe-LIST-a.B": b"<lists></h/lists><-><pre.a.B>",
    }.items():
        assert spawner.ask(0, message, b"s@a", recipient + b"@home.test") == b"K" + fields, recipient
    # `x` is no end character, so `!x` matches nothing longer; getpw decides
    assert b"never" not in spawner.ask(0, message, b"s@a", b"xyz@home.test")


# rspawn: what became of remote -----------------------------------------------------------------------------

COMPUTED = [
    ("r\\0Kok\\n\\0", b"Kok\n"),
    ("ra\\n\\0Kok\\n\\0", b"Ka\nok\n"),
    ("r\\0Zlater\\n\\0", b"Zlater\n"),
    ("r\\0Dnever\\n\\0", b"Dnever\n"),
    ("hbad\\n\\0Dgave up\\n\\0", b"Dbad\ngave up\n"),
    ("hbad\\n\\0Kok\\n\\0", b"Dbad\n"),
    ("hbad\\n\\0Zlater\\n\\0", b"Dbad\n"),
    ("swait\\n\\0Dgave up\\n\\0", b"Zwait\ngave up\n"),
    ("swait\\n\\0Zlater\\n\\0", b"Zwait\nlater\n"),
    ("swait\\n\\0Kok\\n\\0", b"Zwait\n"),
    ("Kok\\n\\0", b"Kok\n"),
    ("Zlater\\n\\0", b"Zlater\n"),
    ("Dnever\\n\\0", b"Dnever\n"),
    ("Dnever\\n\\0trailing", b"Dnever\n"),
]


@pytest.mark.parametrize("output, answer", COMPUTED, ids=[c[0] for c in COMPUTED])
def test_report_of_remote(home, spawn, message, output, answer):
    stand_in(home, "remote", f"printf '{output}'\n")
    assert spawn("rspawn").ask(0, message, b"s@a", b"r@far.test") == answer


@pytest.mark.parametrize("output", ["r\\0", "r", "h", "K", "r\\0Kok", "junk\\0", "\\0", "\\0\\0", "r\\0r\\0"])
def test_missing_message_report_is_temporary(home, spawn, message, output):
    """Spec pipes.md 5, NEW: missing message report is Z; a truncated record counts as missing."""
    stand_in(home, "remote", f"printf '{output}'\n")
    assert spawn("rspawn").ask(0, message, b"s@a", b"r@far.test")[:1] == b"Z"


@pytest.mark.parametrize("script, answer", [
    ("kill -9 $$\n", b"Zqmail-remote crashed.\n"),
    ("printf 'r\\0Kok\\n\\0'; kill -9 $$\n", b"Zqmail-remote crashed.\n"),
    ("exit 111\n", b"ZUnable to run qmail-remote.\n"),
    ("printf 'r\\0Kok\\n\\0'; exit 1\n", b"DUnable to run qmail-remote.\n"),
    ("exit 100\n", b"DUnable to run qmail-remote.\n"),
    ("exit 0\n", b"Zqmail-remote produced no output.\n"),
], ids=["signal", "signal after report", "111", "1", "100", "silence"])
def test_end_of_remote(home, spawn, message, script, answer):
    stand_in(home, "remote", script)
    assert spawn("rspawn").ask(0, message, b"s@a", b"r@far.test") == answer


def test_remote_cannot_be_run(home, spawn, message):
    home.program("remote").unlink()
    assert spawn("rspawn").ask(0, message, b"s@a", b"r@far.test") == b"DUnable to run qmail-remote.\n"


def test_arguments_of_remote_and_qmailremote(home, spawn, message, tmp_path):
    other = tmp_path / "other"
    other.write_text("#!/bin/sh\nprintf 'r\\0K'; printf '<%s>' \"$@\"; printf '\\n\\0'\n")
    other.chmod(0o755)
    spawner = spawn("rspawn", QMAILREMOTE=str(other))
    assert spawner.ask(0, message, b"s@a", b"a@b@far.test") == b"K<far.test><s@a><a@b@far.test>\n"
    assert spawner.ask(0, message, b"", b"a@far.test") == b"K<far.test><><a@far.test>\n"


def test_long_output_of_remote_arrives_whole(home, spawn, message):
    stand_in(home, "remote", "printf 'hbad'; head -c 50000 /dev/zero | tr '\\0' x; printf '\\0D\\0'\n")
    text = spawn("rspawn").ask(0, message, b"s@a", b"r@far.test")
    assert text == b"Dbad" + b"x" * 50000


def test_rspawn_clears_tcpto(home, spawn):
    tcpto = home.queue / "lock" / "tcpto"
    tcpto.write_bytes(b"\x7f\0\0\1\x05" + bytes(3) + b"\xff" * 8 + bytes(1008))
    spawn("rspawn")
    assert tcpto.read_bytes() == bytes(1024)


def test_a_background_grandchild_holds_the_slot_only_while_it_lives(home, spawn, message):
    """The report needs the death of the child and the closing of every copy of the pipe."""
    stand_in(home, "local", "(sleep 1; echo grandchild) & echo child; exit 0\n")
    started = time.monotonic()
    assert spawn("lspawn").ask(0, message, b"s@a", b"user@home.test") == b"Kchild\ngrandchild\n"
    assert time.monotonic() - started > 0.9
