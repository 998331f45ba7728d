"""local, lspawn and getpw alone: real programs in temporary homes (spec delivery.md 4 to 11, pipes.md 4)."""

import fcntl
import os
import pwd
import re
import resource
import shutil
import signal
import struct
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get("APUS_BUILD", ".build-tiny/release")
MESSAGE = b"Subject: hello\nFrom: a\n\nFrom here\n>From there\nlast line"

FAKE_QUEUE = """#!/bin/sh
cat >"{home}/queued.mess"
cat <&1 >"{home}/queued.env"
if [ -n "$QTEXT" ]; then printf "$QTEXT" >&6; fi
exit ${{QEXIT:-0}}
"""


class World:
    """An installation with the three programs, a queue that keeps what it gets, and one user's home."""

    def __init__(self, path: Path, record=None):
        self.path = path
        self.home = path / "joe"
        self.bin = path / "bin"
        for directory in (self.home, self.bin, path / "users", path / "alias", path / "queue/mess/0"):
            directory.mkdir(parents=True)
        self.home.chmod(0o755)
        fields = record or ["rootless", str(os.getuid())]
        data = b"".join(os.fsencode(field) + b"\0" for field in [str(path), *fields]).ljust(1024, b"\0")
        (path / "record").write_bytes(data)
        for program in ("local", "lspawn", "getpw"):
            built = BUILD / f"apus-{program}"
            assert built.exists(), f"not built: {built}"
            subprocess.run(
                ["objcopy", "--update-section", f".apus.home={path / 'record'}", built, self.bin / built.name],
                check=True, stderr=subprocess.PIPE)
        self.script("apus-queue", FAKE_QUEUE.format(home=path))

    def script(self, name, text):
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    # local

    def arguments(self, ext="", *, dash=None, local=None, domain="d.example", sender="s@x.org", default="./Maildir/",
                  options=()):
        dash = ("-" if ext else "") if dash is None else dash
        local = ("joe-" + ext if ext else "joe") if local is None else local
        return [str(self.bin / "apus-local"), *options, "--", "joe", str(self.home), local, dash, ext, domain, sender,
                default]

    def start(self, *args, message=MESSAGE, env=None, limit=None, **kwargs):
        source = tempfile.TemporaryFile()
        source.write(message)
        source.flush()
        source.seek(3)  # it must rewind by itself
        set_limit = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit else None
        environment = {"PATH": os.environ["PATH"], **(env or {})}
        with source:
            return subprocess.Popen(
                self.arguments(*args, **kwargs), stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env=environment, preexec_fn=set_limit)

    def run(self, *args, **kwargs):
        """Exit status, report, complaint."""
        process = self.start(*args, **kwargs)
        out, err = process.communicate(timeout=60)
        return process.returncode, out.decode(errors="replace"), err.decode(errors="replace")

    def qmail(self, name, text, mode=0o644):
        file = self.home / f".qmail{name}"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        file.chmod(mode)
        return file

    def maildir(self, name="Maildir"):
        for sub in ("tmp", "new", "cur"):
            (self.home / name / sub).mkdir(parents=True)
        return self.home / name

    def envelope(self):
        return (self.path / "queued.env").read_bytes()

    # lspawn

    def deliver(self, recipient, *, sender=b"s@x.org", message=MESSAGE, default="./Maildir/", env=None):
        """The report of one delivery by lspawn."""
        (self.path / "queue/mess/0/23").write_bytes(message)
        process = subprocess.Popen(
            [self.bin / "apus-lspawn", default], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], **(env or {})})
        out, _ = process.communicate(b"\x050/23\0" + sender + b"\0" + recipient + b"\0", timeout=60)
        assert process.returncode == 0
        assert out[:1] == bytes([120]) and out[1:2] == b"\x05" and out[-1:] == b"\0", out
        return out[2:-1].decode()

    def assign(self, records):
        (self.path / "users/cdb").write_bytes(cdb(records))


def cdb(records):
    def hash_of(key):
        value = 5381
        for byte in key:
            value = (value * 33 & 0xFFFFFFFF) ^ byte
        return value

    body, tables = b"", [[] for _ in range(256)]
    for key, value in records.items():
        tables[hash_of(key) % 256].append((hash_of(key), 2048 + len(body)))
        body += struct.pack("<II", len(key), len(value)) + key + value
    header = b""
    for entries in tables:
        header += struct.pack("<II", 2048 + len(body), len(entries) * 2)
        slots = [(0, 0)] * (len(entries) * 2)
        for number, position in entries:
            at = number // 256 % len(slots)
            while slots[at][1]:
                at = (at + 1) % len(slots)
            slots[at] = (number, position)
        body += b"".join(struct.pack("<II", *slot) for slot in slots)
    return header + body


def record(*fields):
    return b"\0".join(str(field).encode() for field in fields)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "w")


def only_file(directory):
    files = list(directory.iterdir())
    assert len(files) == 1, files
    return files[0]


# The command line and the home directory


@pytest.mark.parametrize("arguments", [[], ["a"] * 7, ["a"] * 9, ["-x"], ["u", "relative", *["a"] * 6]])
def test_misuse(world, arguments):
    result = subprocess.run([world.bin / "apus-local", *arguments], stdin=subprocess.DEVNULL, capture_output=True)
    assert result.returncode == 100 and b"usage" in result.stderr


def test_missing_home(world):
    shutil.rmtree(world.home)
    status, _, error = world.run()
    assert (status, error) == (111, f"Unable to switch to {world.home}: No such file or directory. (#4.3.0)\n")


def test_writable_home(world):
    world.home.chmod(0o777)
    assert world.run() == (111, "", "Uh-oh: home directory is writable. (#4.7.0)\n")


def test_sticky_home(world):
    world.home.chmod(0o1755)
    text = "Home directory is sticky: user is editing his .qmail file. (#4.2.1)\n"
    assert world.run() == (111, "", text)
    status, out, error = world.run(options=["-n"])
    assert (status, out, error) == (0, "maildir ./Maildir/\ndid 1+0+0\n", "Warning: home directory is sticky.\n")


def test_message_that_cannot_be_rewound(world):
    result = subprocess.run(world.arguments(), input=MESSAGE, capture_output=True)
    assert (result.returncode, result.stderr) == (111, b"Unable to rewind message. (#4.3.0)\n")


def test_message_that_cannot_be_read(world):
    with open(world.path / "m", "wb") as write_only:
        result = subprocess.run(world.arguments(), stdin=write_only, capture_output=True)
    assert (result.returncode, result.stderr) == (
        111, b"Unable to read message: Bad file descriptor. (#4.3.0)\n")


# Loops


@pytest.mark.parametrize("size", [1, 65536 - 20, 200_000])
def test_loop(world, size):
    world.maildir()
    header = b"X: " + b"y" * size + b"\nDelivered-To: joe@d.example\n"
    assert world.run(message=header + b"\n") == (
        100, "", "This message is looping: it already has my Delivered-To line. (#5.4.6)\n")
    # Not in the body, and not somebody else's.
    assert world.run(message=b"\n" + header)[0] == 0
    assert world.run(message=b"Delivered-To: jim@d.example\n\n")[0] == 0


# Which file decides


@pytest.mark.parametrize("ext,files,expected", [
    ("a", ["-a", "-default"], "-a"), ("a", ["-default"], "-default"), ("a-b", ["-a-default", "-default"], "-a-default"),
    ("a-b", ["-default"], "-default"), ("A.B", ["-a:b", "-default"], "-a:b"), ("", ["", "default"], ""),
    ("", ["default"], "default"),
])
def test_search(world, ext, files, expected):
    for name in files:
        world.qmail(name, f"# {name}\n|echo file={name}; echo DEFAULT=$DEFAULT\n")
    status, out, _ = world.run(ext)
    assert status == 0 and f"file={expected}\n" in out


def test_nobody(world):
    assert world.run("a") == (100, "", "Sorry, no mailbox here by that name. (#5.1.1)\n")


def test_default_variable(world):
    world.qmail("-list-default", '|echo "<$DEFAULT>"\n')
    world.qmail("-x", '|echo "<${DEFAULT-unset}>"\n')
    assert world.run("List-Sub-Ann")[1].startswith("<Sub-Ann>\n")
    # What the caller had in its environment says nothing about this address.
    assert world.run("x", env={"DEFAULT": "old"})[1].startswith("<unset>\n")


def test_links_directories_and_fifos(world):
    (world.home / "real").write_text("|echo linked\n")
    (world.home / ".qmail-link").symlink_to("real")
    (world.home / ".qmail-dir").mkdir()
    os.mkfifo(world.home / ".qmail-fifo")
    world.qmail("-default", "|echo default\n")
    assert world.run("link")[1].startswith("linked\n")
    assert world.run("dir")[1].startswith("default\n")
    assert world.run("fifo")[1].startswith("default\n")


def test_very_long_extension(world):
    assert world.run("-" * 3000) == (100, "", "Sorry, no mailbox here by that name. (#5.1.1)\n")


def test_writable_qmail_file(world):
    world.qmail("-a", "|true\n", mode=0o646)
    world.qmail("-default", "|true\n")
    assert world.run("a") == (111, "", "Uh-oh: .qmail file is writable. (#4.7.0)\n")


@pytest.mark.parametrize("text", ["./Maildir/\n", ""])
def test_default_delivery(world, text):
    """No file, or an empty one: then even an execute bit means nothing."""
    maildir = world.maildir()
    if text == "":
        world.qmail("", "", mode=0o744)
    assert world.run() == (0, "did 1+0+0\n", "")
    only_file(maildir / "new")


def test_default_delivery_has_several_lines(world):
    assert world.run(default="|echo one\n# two\n|echo three") == (0, "one\nthree\ndid 0+0+2\n", "")
    assert world.run(default="")[::2] == (111, "Uh-oh: first line of .qmail file is blank. (#4.2.1)\n")


# Instructions


def test_blank_first_line(world):
    world.qmail("-a", " \t\n|true\n")
    assert world.run("a") == (111, "", "Uh-oh: first line of .qmail file is blank. (#4.2.1)\n")
    world.qmail("-a", "#\n\n|true")
    assert world.run("a") == (0, "did 0+0+1\n", "")


def test_only_comments_is_success(world):
    world.qmail("-a", "# nobody\n+unknown\n")
    assert world.run("a") == (0, "did 0+0+0\n", "")


@pytest.mark.parametrize("line,what", [("./Mailbox", "file"), ("./Maildir/", "file"), ("|true", "prog")])
def test_forward_only(world, line, what):
    text = f"Uh-oh: .qmail has {what} delivery but has x bit set. (#4.7.0)\n"
    world.qmail("-a", f"{line}\n", mode=0o744)
    assert world.run("a") == (111, "", text)
    world.qmail("-b", f"+list\n{line}\n")
    assert world.run("b") == (111, "", text)
    world.qmail("-c", "c@x\n+list\n&d@x\n", mode=0o744)
    assert world.run("c")[0] == 0 and world.envelope() == b"Fs@x.org\0Tc@x\0Td@x\0\0"


def test_order_and_tally(world):
    world.maildir()
    world.qmail("-a", "x@y\n|echo one\n./Mailbox\n./Maildir/\n&z@y\n|echo two\n")
    status, out, error = world.run("a")
    assert (status, error) == (0, "")
    assert re.fullmatch(r"one\ntwo\ndid 2\+2\+2\nqp \d+\n", out)


def test_failure_stops_and_nothing_is_forwarded(world):
    world.qmail("-a", "x@y\n|exit 111\n|echo never\n")
    assert world.run("a") == (111, "", "")
    assert not (world.path / "queued.env").exists()


def test_rehearsal(world):
    world.qmail("-a", "# c\n./Mailbox  \n./Maildir/\n|exit 1; x\n&a@b\nc@d\n")
    looping = b"Delivered-To: joe-a@d.example\n\n"
    assert world.run("a", options=["-n"], message=looping) == (
        0, "mbox ./Mailbox\nmaildir ./Maildir/\nprogram exit 1; x\nforward a@b\nforward c@d\ndid 2+2+1\n", "")
    assert not (world.home / "Mailbox").exists() and not (world.path / "queued.env").exists()
    world.qmail("-a", "|x\n./y\n+list\n./z\n")
    assert world.run("a", options=["-n"]) == (
        111, "program x\nmbox ./y\n", "Uh-oh: .qmail has file delivery but has x bit set. (#4.7.0)\n")


def test_nul_ends_a_line(world):
    """A forward line cannot forge envelope records."""
    world.qmail("-a", b"a@b\0Tevil@x\0\0\n")
    assert world.run("a")[0] == 0
    assert world.envelope() == b"Fs@x.org\0Ta@b\0\0"


# Limits


def test_huge_qmail_file(world):
    file = world.qmail("-a", "#\n")
    os.truncate(file, 4 << 20)
    assert world.run("a")[0] == 0
    os.truncate(file, (4 << 20) + 1)
    assert world.run("a") == (111, "", "Uh-oh: .qmail file is longer than 4 megabytes. (#4.7.0)\n")
    os.truncate(file, 1 << 40)  # holes
    assert world.run("a")[0] == 111


def test_long_lines(world):
    world.qmail("-a", "|echo " + "x" * 3_000_000)
    assert world.run("a") == (111, "", "Unable to run /bin/sh: Argument list too long. (#4.3.0)\n")
    world.qmail("-a", "/" + "x" * 3_000_000)
    status, _, error = world.run("a")
    assert status == 111 and error.endswith(": File name too long. (#4.2.1)\n")
    world.qmail("-a", "/" + "x/" * 1_500_000)
    assert world.run("a") == (111, "", "Unable to chdir to maildir. (#4.2.1)\n")


def test_many_forwards(world):
    addresses = [f"user{n}@x.example" for n in range(100_000)]
    world.qmail("-a", "\n".join(addresses))
    status, out, _ = world.run("a")
    assert status == 0 and out.startswith("did 0+100000+0\nqp ")
    assert world.envelope() == b"Fs@x.org\0" + b"".join(b"T%s\0" % a.encode() for a in addresses) + b"\0"


def test_big_message_in_little_memory(world):
    maildir = world.maildir()
    line = b"x" * 10_000_000
    message = line + b"\n" + line + b"\n\n" + line * 3
    world.qmail("-a", "./Maildir/\n./Mailbox\n|cat >copy\na@b\n")
    (world.path / "m").write_bytes(message)
    with open(world.path / "m", "rb") as source:
        # A limit on all of its memory: 30 MB.
        result = subprocess.run(["sh", "-c", 'ulimit -v 30000; exec "$@"', "sh", *world.arguments("a")], stdin=source,
                                capture_output=True, env={"PATH": os.environ["PATH"]})
    assert result.returncode == 0 and result.stdout.startswith(b"did 2+1+1\n"), result
    head = b"Return-Path: <s@x.org>\nDelivered-To: joe-a@d.example\n"
    assert only_file(maildir / "new").read_bytes() == head + message
    assert (world.home / "copy").read_bytes() == message
    assert (world.home / "Mailbox").read_bytes().endswith(head + message + b"\n\n")
    assert (world.path / "queued.mess").read_bytes() == b"Delivered-To: joe-a@d.example\n" + message


# Programs


@pytest.mark.parametrize("status,expected", [
    *((code, 100) for code in (100, 64, 65, 70, 76, 77, 78, 112)),
    *((code, 111) for code in (1, 2, 63, 66, 69, 71, 75, 98, 101, 111, 113, 126, 127, 255)),
])
def test_program_status(world, status, expected):
    world.qmail("-a", f"|echo said; exit {status}\n|echo never\n")
    assert world.run("a") == (expected, "said\n", "")


def test_program_99_stops_but_forwards(world):
    world.qmail("-a", "a@b\n|exit 99\nc@d\n|echo never\n")
    status, out, _ = world.run("a")
    assert status == 0 and out.startswith("did 0+1+1\nqp ")
    assert world.envelope() == b"Fs@x.org\0Ta@b\0\0"


def test_program_crash(world):
    world.qmail("-a", "|kill -9 $$\n")
    assert world.run("a") == (111, "", "Aack, child crashed. (#4.3.0)\n")


def test_program_gets_the_message_from_its_start(world):
    world.qmail("-a", "|read x; echo $x\n|cat; pwd\n")
    _, out, _ = world.run("a")
    assert out == f"Subject: hello\n{MESSAGE.decode()}{world.home}\ndid 0+0+2\n"


def test_program_environment(world):
    world.qmail("-list-owner", "#\n")
    world.qmail("-list-owner-default", "#\n")
    names = ("SENDER NEWSENDER RECIPIENT USER HOME LOCAL HOST HOST2 HOST3 HOST4 EXT EXT2 EXT3 EXT4 DTLINE RPLINE "
             "QMAILQUEUE").split()
    world.qmail("-list", "|for v in %s; do eval \"printf '%%s=%%s\\n' $v \\\"\\$$v\\\"\"; done; echo \"U=$UFLINE\"\n"
                % " ".join(names))
    _, out, _ = world.run("list", domain="a.b.c.d", sender="o d@x.org", env={"EXT4": "stale"})
    values = dict(re.findall(r"^([A-Z0-9]+)=(.*)$", out, re.M))
    assert values == {
        "SENDER": "o d@x.org", "NEWSENDER": "joe-list-owner-@a.b.c.d-@[]", "RECIPIENT": "joe-list@a.b.c.d",
        "USER": "joe", "HOME": str(world.home), "LOCAL": "joe-list", "HOST": "a.b.c.d", "HOST2": "a.b.c",
        "HOST3": "a.b", "HOST4": "a", "EXT": "list", "EXT2": "", "EXT3": "", "EXT4": "",
        "DTLINE": "Delivered-To: joe-list@a.b.c.d", "RPLINE": 'Return-Path: <"o d"@x.org>', "QMAILQUEUE": "",
        "U": values["U"],
    }
    assert re.fullmatch(r"From o-d@x.org \w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}", values["U"])


def test_program_starts_with_a_clean_slate(world):
    """No signal is ignored or blocked, no descriptor is open beyond 0, 1 and 2, files are private."""
    world.qmail("-a", "|grep -E 'Sig(Blk|Ign)' /proc/self/status; ls /proc/self/fd | wc -l; umask\n")
    _, out, _ = world.run("a")
    shape = re.fullmatch(r"SigBlk:\s(\w+)\nSigIgn:\s(\w+)\n4\n0077\ndid 0\+0\+1\n", out)  # 4: ls opens the directory
    assert shape, out
    library = 1 << 31 | 1 << 32  # 32 and 33 are the C library's own, and not ours to reset
    assert int(shape[1], 16) & ~library == 0 and int(shape[2], 16) & ~library == 0, out


# Forwarding


@pytest.mark.parametrize("sender,owner,verp,expected", [
    ("s@x", False, False, "s@x"), ("s@x", True, False, "joe-l@d.example".replace("-l@", "-l-owner@")),
    ("s@x", True, True, "joe-l-owner-@d.example-@[]"), ("s@x", False, True, "s@x"), ("", True, True, ""),
    ("#@[]", True, False, "#@[]"),
])
def test_forward_sender(world, sender, owner, verp, expected):
    world.qmail("-l", "a@b\n")
    if owner:
        (world.home / ".qmail-l-owner").mkdir()  # of any type
    if verp:
        world.qmail("-l-owner-default", "")
    status, _, _ = world.run("l", sender=sender)
    assert status == 0
    assert world.envelope() == b"F" + expected.encode() + b"\0Ta@b\0\0"
    assert (world.path / "queued.mess").read_bytes() == b"Delivered-To: joe-l@d.example\n" + MESSAGE


@pytest.mark.parametrize("env,status,text", [
    ({"QEXIT": "11"}, 100, "envelope address too long for qq (#5.1.3)"),
    ({"QEXIT": "31"}, 100, "mail server permanently rejected message (#5.3.0)"),
    ({"QEXIT": "53"}, 111, "qq write error or disk full (#4.3.0)"),
    ({"QEXIT": "82", "QTEXT": "Dspam (#5.7.1)"}, 100, "spam (#5.7.1)"),
    ({"QMAILQUEUE": "/nonexistent"}, 111, "unable to exec qq (#4.3.0)"),
])
def test_forward_failure(world, env, status, text):
    world.qmail("-a", "a@b\n")
    assert world.run("a", env=env) == (status, "", f"Unable to forward message: {text}.\n")


# mbox


def test_mbox(world):
    for _ in range(2):
        assert world.run(default="./Mailbox") == (0, "did 1+0+0\n", "")
    text = (world.home / "Mailbox").read_bytes()
    one = (rb"From s@x\.org \w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}\nReturn-Path: <s@x\.org>\n"
           rb"Delivered-To: joe@d\.example\nSubject: hello\nFrom: a\n\n>From here\n>>From there\nlast line\n\n")
    assert re.fullmatch(one * 2, text)
    assert (world.home / "Mailbox").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name,error", [
    ("./no/Mailbox", "No such file or directory"), ("./dir", "Is a directory"), ("./fifo", "No such device or address"),
    ("/dev/null", "not a regular file"),
])
def test_mbox_that_cannot_be(world, name, error):
    (world.home / "dir").mkdir()
    os.mkfifo(world.home / "fifo")
    assert world.run(default=name) == (111, "", f"Unable to open {name}: {error}. (#4.2.1)\n".replace("..", "."))


def test_mbox_fifo_with_a_reader(world):
    os.mkfifo(world.home / "fifo")
    reader = os.open(world.home / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    assert world.run(default="./fifo")[::2] == (111, "Unable to open ./fifo: not a regular file. (#4.2.1)\n")
    os.close(reader)


def test_mbox_is_repaired_when_the_disk_is_full(world):
    assert world.run(default="./Mailbox")[0] == 0
    before = (world.home / "Mailbox").read_bytes()
    message = MESSAGE + b"\n" + b"x" * 300_000
    assert world.run(default="./Mailbox", message=message, limit=200_000) == (
        111, "", "Unable to write ./Mailbox: File too large. (#4.3.0)\n")
    assert (world.home / "Mailbox").read_bytes() == before


@pytest.mark.parametrize("lock", [fcntl.flock, fcntl.lockf])
def test_mbox_waits_for_a_lock(world, lock):
    with open(world.home / "Mailbox", "ab") as mailbox:
        lock(mailbox, fcntl.LOCK_EX)
        process = world.start(default="./Mailbox")
        time.sleep(0.5)
        assert process.poll() is None
        mailbox.write(b"somebody else was here\n")
        mailbox.flush()
        lock(mailbox, fcntl.LOCK_UN)
    assert process.communicate(timeout=10) == (b"did 1+0+0\n", b"")
    assert (world.home / "Mailbox").read_bytes().startswith(b"somebody else was here\nFrom ")


def test_mbox_lock_held_for_ever(world):
    with open(world.home / "flocked", "ab") as one, open(world.home / "fcntled", "ab") as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        fcntl.lockf(two, fcntl.LOCK_EX)
        begin = time.monotonic()
        waiting = [world.start(default="./flocked"), world.start(default="./fcntled")]
        for process in waiting:
            out, error = process.communicate(timeout=60)
            assert (process.returncode, out) == (111, b"")
            assert error == b"File has been locked for 30 seconds straight. (#4.3.0)\n"
        assert 29 < time.monotonic() - begin < 40
    assert (world.home / "flocked").stat().st_size == 0 == (world.home / "fcntled").stat().st_size


def test_mbox_many_at_once(world):
    processes = [world.start(default="./Mailbox", message=b"\n%d\n" % n + b"line\n" * 5000) for n in range(12)]
    assert all(process.communicate(timeout=60) == (b"did 1+0+0\n", b"") for process in processes)
    bodies = re.findall(rb"From .*\nReturn-Path: .*\nDelivered-To: .*\n\n(\d+)\n((?:line\n)+)\n",
                        (world.home / "Mailbox").read_bytes())
    assert sorted(int(n) for n, _ in bodies) == list(range(12))
    assert all(text == b"line\n" * 5000 for _, text in bodies)


# maildir


def test_maildir(world):
    maildir = world.maildir()
    assert world.run() == (0, "did 1+0+0\n", "")
    file = only_file(maildir / "new")
    assert re.fullmatch(r"\d{10,}\.M\d{1,6}P\d+Q1\.\S+", file.name)
    assert file.read_bytes() == b"Return-Path: <s@x.org>\nDelivered-To: joe@d.example\n" + MESSAGE
    assert file.stat().st_mode & 0o777 == 0o600 and file.stat().st_nlink == 1
    assert not list((maildir / "tmp").iterdir())


@pytest.mark.parametrize("missing,text", [
    ("", "Unable to chdir to maildir. (#4.2.1)\n"), ("tmp", "Temporary error on maildir delivery. (#4.3.0)\n"),
    ("new", "Temporary error on maildir delivery. (#4.3.0)\n"),
])
def test_maildir_that_is_none(world, missing, text):
    maildir = world.maildir()
    shutil.rmtree(maildir / missing)
    assert world.run() == (111, "", text)
    assert not list(maildir.glob("tmp/*"))


def test_maildir_disk_full(world):
    maildir = world.maildir()
    assert world.run(message=b"x" * 300_000, limit=200_000) == (
        111, "", "Temporary error on maildir delivery. (#4.3.0)\n")
    assert not list(maildir.glob("*/*"))


def test_maildir_is_durable_before_success(world):
    """File, link, directory: in this order, before the parent hears of it (durability point I)."""
    maildir = world.maildir()
    trace = world.path / "trace"
    calls = "trace=openat,fsync,link,unlink,exit_group"
    with open(world.path / "m", "wb+") as message:
        message.write(MESSAGE)
        message.flush()
        subprocess.run(["strace", "-f", "-y", "-e", calls, "-o", trace, *world.arguments()], stdin=message, check=True,
                       stdout=subprocess.PIPE)
    lines = trace.read_text().splitlines()
    child = next(line.split()[0] for line in lines if "O_EXCL" in line)
    steps = [line.split(maxsplit=1)[1] for line in lines if line.split()[0] == child]
    found = [s for s in steps if s.startswith(("fsync", "link", "unlink", "exit_group"))]
    assert [s.split("(")[0] for s in found] == ["fsync", "link", "fsync", "unlink", "exit_group"]
    assert f"<{maildir}/tmp/" in found[0] and f"<{maildir}/new>" in found[2]


def test_maildir_timeout(world):
    """What the alarm does after a day, sent by hand."""
    maildir = world.maildir()
    process = world.start(message=b"x" * 400_000_000)
    end = time.monotonic() + 30
    child = None
    while time.monotonic() < end:
        for file in (maildir / "tmp").iterdir():
            if file.stat().st_size > 0:
                child = int(re.search(r"P(\d+)Q", file.name)[1])
        if child:
            break
    os.kill(child, signal.SIGALRM)
    out, error = process.communicate(timeout=30)
    assert (process.returncode, out, error) == (111, b"", b"Timeout on maildir delivery. (#4.3.0)\n")
    assert not list(maildir.glob("*/*"))


def test_maildir_crash(world):
    maildir = world.maildir()
    process = world.start(message=b"x" * 400_000_000)
    while not (files := list((maildir / "tmp").iterdir())):
        pass
    os.kill(int(re.search(r"P(\d+)Q", files[0].name)[1]), signal.SIGKILL)
    assert process.communicate(timeout=30) == (b"", b"Aack, child crashed. (#4.3.0)\n")
    assert process.returncode == 111 and not list((maildir / "new").iterdir())


def test_two_maildirs_in_one_file(world):
    maildir = world.maildir()
    world.qmail("-a", "./Maildir/\n./Maildir/\n")
    assert world.run("a")[0] == 0
    assert sorted(re.search(r"Q\d", f.name)[0] for f in (maildir / "new").iterdir()) == ["Q1", "Q2"]


# getpw, rootless


def own_account():
    return pwd.getpwuid(os.getuid())


def test_getpw(world):
    def ask(*arguments):
        result = subprocess.run([world.bin / "apus-getpw", *arguments], capture_output=True)
        return result.returncode, result.stdout.split(b"\0")

    assert ask() == (100, [b""]) and ask("a", "b") == (100, [b""])
    own, ids = own_account(), [str(os.getuid()).encode(), str(os.getgid()).encode()]
    mine = [own.pw_name.encode(), ids[0], str(own.pw_gid).encode(), own.pw_dir.encode()]
    assert ask(own.pw_name.upper()) == (0, [*mine, b"", b"", b""])
    assert ask(own.pw_name + "-Foo-Bar") == (0, [*mine, b"-", b"Foo-Bar", b""])
    alias = [b"alias", *ids, os.fsencode(world.path / "alias"), b"-"]
    for local in ("nosuchuser", "daemon", "x" * 31, "x" * 1000, "-", own.pw_name + "."):
        assert ask(local) == (0, [*alias, local.encode(), b""])


# lspawn


def test_lspawn_misuse(world):
    assert subprocess.run([world.bin / "apus-lspawn"], stdin=subprocess.DEVNULL).returncode == 100


def test_lspawn_alias(world):
    (world.path / "alias/.qmail-default").write_text('|echo "$USER $HOME $EXT $SENDER"\n')
    assert world.deliver(b"Some.Body@d") == f"Kalias {world.path}/alias Some.Body s@x.org\ndid 0+0+1\n"


def test_lspawn_results(world):
    (world.path / "alias/.qmail-k").write_text("#\n")
    (world.path / "alias/.qmail-z").write_text("|echo later; exit 1\n")
    (world.path / "alias/.qmail-d").write_text("|echo never; exit 100\n")
    (world.path / "alias/.qmail-long").write_text("|yes | head -c 100000\n")
    assert world.deliver(b"k@d") == "Kdid 0+0+0\n"
    assert world.deliver(b"z@d") == "Zlater\n"
    assert world.deliver(b"d@d") == "Dnever\n"
    assert world.deliver(b"nobody@d") == "DSorry, no mailbox here by that name. (#5.1.1)\n"
    assert world.deliver(b"@d") == "K"
    long = world.deliver(b"long@d")
    assert len(long) <= 3001 and "too long" in long.splitlines()[-1]


def test_lspawn_assignments(world):
    own = own_account()
    ids = (os.getuid(), os.getgid())
    world.qmail("", "|echo home $LOCAL@$HOST\n")
    world.qmail("-default", "|echo ext $EXT\n")
    world.assign({
        b"": b"-", b"!joe\0": record("joe", *ids, world.home, "", ""), b"!joe-": record("joe", *ids, world.home, "-", ""),
        b"!list-": record("joe", *ids, world.home, "-", "pre-"), b"!bad\0": b"nonsense",
    })
    assert world.deliver(b"JOE@d.org") == "Khome JOE@d.org\ndid 0+0+1\n"
    assert world.deliver(b"a@b@d.org").startswith("DSorry, no mailbox")
    assert world.deliver(b"joe-X.y@d.org") == "Kext X.y\ndid 0+0+1\n"
    assert world.deliver(b"list-Z@d.org") == "Kext pre-Z\ndid 0+0+1\n"
    assert world.deliver(b"bad@d.org") == "ZTrouble reading users/cdb in qmail-lspawn.\n"
    assert own.pw_uid == os.getuid()


@pytest.mark.parametrize("content", [b"", b"x" * 2047, b"\xff" * 5000, bytes(2048)])
def test_lspawn_damaged_table(world, content):
    (world.path / "users/cdb").write_bytes(content)
    assert world.deliver(b"joe@d.org") == "ZTrouble reading users/cdb in qmail-lspawn.\n"


@pytest.mark.parametrize("status,text", [
    (100, "D"), (111, "Z"), (115, "ZNFS failure in qmail-local.\n"), (116, "ZUnable to find alias user!\n"),
    (118, "ZTemporary failure in qmail-lspawn.\n"),
])
def test_lspawn_getpw_status(world, status, text):
    world.script("apus-getpw.new", f"#!/bin/sh\nexit {status}\n")
    (world.bin / "apus-getpw.new").rename(world.bin / "apus-getpw")
    assert world.deliver(b"joe@d.org") == text


@pytest.mark.parametrize("answer", ["", "joe", r"joe\0x\0001\0/h\0\0\0", r"joe\00001\0001\0/h\0\0"])
def test_lspawn_getpw_nonsense(world, answer):
    (world.bin / "apus-getpw").unlink()
    world.script("apus-getpw", f"#!/bin/sh\nprintf '{answer}'\n")
    assert world.deliver(b"joe@d.org") == "ZInternal qmail-lspawn bug.\n"


def test_lspawn_getpw_sees_neither_message_nor_report(world):
    (world.bin / "apus-getpw").unlink()
    world.script("apus-getpw", "#!/bin/sh\ncat; echo noise >&2; exit 116\n")
    assert world.deliver(b"joe@d.org") == "ZUnable to find alias user!\n"


def test_lspawn_missing_programs(world):
    (world.bin / "apus-local").unlink()
    assert world.deliver(b"joe@d.org") == "DUnable to run qmail-local.\n"
    (world.bin / "apus-getpw").unlink()
    assert world.deliver(b"joe@d.org") == "ZUnable to run qmail-getpw.\n"


def test_lspawn_local_crash(world):
    (world.bin / "apus-local").unlink()
    world.script("apus-local", "#!/bin/sh\necho text; kill -9 $$\n")
    assert world.deliver(b"joe@d.org") == "Zqmail-local crashed.\n"


# Several users, which needs root

UID, GID = 41001, 41002


@pytest.fixture
def several():
    if os.getuid() != 0:
        pytest.skip("needs root: an installation with several users")
    path = Path(tempfile.mkdtemp(prefix="apus-", dir="/tmp"))
    path.chmod(0o755)
    nobody = pwd.getpwnam("nobody")
    # alias is nobody; the owner of the queue is root, whose messages the test can write.
    world = World(path / "w", ["root", str(nobody.pw_uid), *"41003 41004 41005 0 41007 41008 41009 41010".split()])
    os.chown(world.home, UID, GID)
    yield world
    shutil.rmtree(path)


def test_rights_of_the_recipient(several):
    several.qmail("", "|id -u; id -g; id -G; grep CapEff /proc/self/status\n")
    several.assign({b"": b"", b"!joe\0": record("joe", UID, GID, several.home, "", "")})
    assert several.deliver(b"joe@d.org") == (
        f"K{UID}\n{GID}\n{GID}\nCapEff:\t0000000000000000\ndid 0+0+1\n")


@pytest.mark.parametrize("uid,gid,text", [
    (0, 0, "ZNot allowed to perform deliveries as root.\n"), (0, GID, "ZNot allowed to perform deliveries as root.\n"),
    (4294967295, GID, "ZInternal qmail-lspawn bug.\n"),
])
def test_never_as_root(several, uid, gid, text):
    several.qmail("", "|id -u\n")
    several.assign({b"": b"", b"!joe\0": record("joe", uid, gid, several.home, "", "")})
    assert several.deliver(b"joe@d.org") == text


def test_getpw_runs_as_its_own_user(several):
    (several.bin / "apus-getpw").unlink()
    several.script("apus-getpw", f"#!/bin/sh\nprintf 'joe\\0%s\\0%s\\0%s\\0-\\0%s\\0' {UID} {GID} {several.home} "
                                 "$(id -u)-$(id -g)-$(id -G | tr ' ' ,)\n")
    several.qmail("-default", "|echo $EXT\n")
    assert several.deliver(b"joe@d.org") == "K41005-41010-41010\ndid 0+0+1\n"


def test_accounts(several):
    def ask(local):
        result = subprocess.run([several.bin / "apus-getpw", local], capture_output=True)
        return result.returncode, result.stdout.split(b"\0")

    # Neither root nor who does not own a home.
    nobody = pwd.getpwnam("nobody")
    for local in (b"root", b"nobody", b"nosuchuser-ext"):
        assert ask(local) == (0, [b"nobody", *(str(n).encode() for n in (nobody.pw_uid, nobody.pw_gid)),
                                  str(several.path / "alias").encode(), b"-", local, b""])


def test_missing_alias_user(several):
    fields = [several.path, "root", *["41099"] * 9]
    (several.path / "record").write_bytes(b"".join(str(f).encode() + b"\0" for f in fields).ljust(1024, b"\0"))
    program = several.bin / "apus-getpw"
    program.unlink()
    subprocess.run(["objcopy", "--update-section", f".apus.home={several.path / 'record'}", BUILD / program.name,
                    program], check=True, stderr=subprocess.PIPE)
    assert subprocess.run([program, "nosuchuser"], capture_output=True).returncode == 116


def test_exec_of_a_missing_local_program_by_another_user(several):
    several.assign({b"": b"", b"!joe\0": record("joe", UID, GID, several.home, "", "")})
    (several.bin / "apus-local").chmod(0o700)
    assert several.deliver(b"joe@d.org") == "DUnable to run qmail-local.\n"
