"""queue alone: spec pipes.md 1 and queue.md 6. Every exit code of its table that can be brought about."""

import contextlib
import os
import re
import resource
import select
import shutil
import signal
import stat
import subprocess
import time

import pytest
from apus import QUEUE_LINE, SPLIT, Feed, envelope, run_queue, start_queue, wait

MESSAGE = b"Subject: x\n\nbody\n"
ENVELOPE = envelope("s@a.test", ["r@b.test"])


def only(home, kind):
    files = [name for name in home.queue_files() if name.split("/")[0] == kind]
    assert len(files) == 1, home.queue_files()
    return files[0]


# What it makes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message", [b"", b"x", MESSAGE, bytes(range(256)) * 5, b"a\rb\r\nc\n\n\n", b"y" * 300_001],
    ids=["empty", "one byte", "plain", "all bytes", "CRs", "long"],
)
def test_state_s4_byte_for_byte(home, message):
    before = time.time()
    process, feeds = start_queue(home, message, envelope("s@a.test", ["r@b.test", "", "t u@c"]))
    assert process.wait(20) == 0
    mess = only(home, "mess")
    number = int(mess.split("/")[-1])
    assert home.queue_files() == sorted([f"intd/{number}", f"mess/{number % SPLIT}/{number}", f"todo/{number}"])
    status = os.stat(home.queue / mess)
    assert status.st_ino == number
    assert stat.S_IMODE(status.st_mode) == 0o644
    content = (home.queue / mess).read_bytes()
    line, rest = content.split(b"\n", 1)
    match = re.fullmatch(QUEUE_LINE, line + b"\n")
    assert match and int(match["pid"]) == process.pid and int(match["uid"]) == os.getuid()
    # not padded: spec queue.md 4.1
    now = time.gmtime(before)
    assert line.split(b"; ")[1].split(b" ")[:3] == [
        str(now.tm_mday).encode(), time.strftime("%b", now).encode(), str(now.tm_year).encode()
    ] or time.gmtime().tm_mday != now.tm_mday
    assert rest == message
    todo = home.queue / "todo" / str(number)
    assert todo.read_bytes() == b"u%d\0p%d\0Fs@a.test\0Tr@b.test\0T\0Tt u@c\0" % (os.getuid(), process.pid)
    intd = os.stat(home.queue / "intd" / str(number))
    assert intd.st_ino == os.stat(todo).st_ino and intd.st_nlink == 2
    assert stat.S_IMODE(intd.st_mode) == 0o644


def test_no_recipients_is_accepted(home):
    assert run_queue(home, MESSAGE, b"Fs@a.test\0\0").returncode == 0
    assert (home.queue / only(home, "todo")).read_bytes().endswith(b"\0Fs@a.test\0")


def test_bytes_after_the_final_nul_are_not_read(home):
    reading, writing = os.pipe()
    os.write(writing, ENVELOPE + b"Tx@y\0\0junk")
    os.close(writing)
    process, _ = start_queue(home, MESSAGE, reading)
    assert process.wait(10) == 0
    os.close(reading)
    assert (home.queue / only(home, "todo")).read_bytes().endswith(b"\0Fs@a.test\0Tr@b.test\0")


def test_ends_at_the_final_nul_though_the_pipe_stays_open(home):
    assert run_queue(home, MESSAGE, ENVELOPE, hold_envelope=True, timeout=10).returncode == 0


def test_reads_the_envelope_after_the_message(home):
    process, feeds = start_queue(home, MESSAGE, ENVELOPE, hold_message=True)
    time.sleep(0.3)
    assert process.poll() is None, "did not wait for the end of the message"
    assert not [name for name in home.queue_files() if name.startswith(("intd", "todo"))]
    os.close(feeds[0].writing)
    assert process.wait(10) == 0


def test_pulls_the_trigger_with_one_nul(home):
    trigger = os.open(home.queue / "lock" / "trigger", os.O_RDONLY | os.O_NONBLOCK)
    assert run_queue(home, MESSAGE, ENVELOPE).returncode == 0
    assert select.select([trigger], [], [], 5)[0]
    assert os.read(trigger, 10) == b"\0"
    os.close(trigger)


@pytest.mark.parametrize("spoil", ["missing", "file", "full"])
def test_the_trigger_does_not_matter(home, spoil):
    trigger = home.queue / "lock" / "trigger"
    holder = None
    if spoil == "full":
        holder = os.open(trigger, os.O_RDWR | os.O_NONBLOCK)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(holder, b"\0" * 4096)
    else:
        trigger.unlink()
        if spoil == "file":
            trigger.touch()
    assert run_queue(home, MESSAGE, ENVELOPE, timeout=10).returncode == 0
    only(home, "todo")


def test_needs_nothing_from_its_caller(home):
    """Spec queue.md 6: environment, cwd, umask, mask and dispositions are the caller's to spoil."""

    def spoil():
        os.umask(0o777)
        os.chdir("/")
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        for number in (signal.SIGCHLD, signal.SIGALRM, signal.SIGPIPE, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)

    junk = {"QMAILQUEUE": "/bin/false", "LD_PRELOAD": "/nonexistent", "HOME": "/", "TZ": "Asia/Tokyo", "QUEUEDIR": "/",
            "LC_ALL": "xx", "TMPDIR": "/nonexistent"}
    for env in ({}, junk):
        assert run_queue(home, MESSAGE, ENVELOPE, env=env, preexec_fn=spoil).returncode == 0
    for name in home.queue_files():
        assert stat.S_IMODE(os.stat(home.queue / name).st_mode) == 0o644, name
    line = (home.queue / [n for n in home.queue_files() if n.startswith("mess")][0]).read_bytes().split(b"\n")[0]
    hour = int(re.search(rb"(\d\d):\d\d:\d\d -0000", line)[1])
    assert (time.gmtime().tm_hour - hour) % 24 <= 1


# Failures: exit code, and nothing left behind (NEW: cleanup on 11, 53, 54, 65, 91) ------------------------


LONGEST = b"x" * 1002
CASES = {
    "sender of 1,002 bytes": (b"F" + LONGEST + b"\0Tr@b\0\0", 0),
    "sender of 1,003 bytes": (b"F" + LONGEST + b"x\0Tr@b\0\0", 11),
    "recipient of 1,002 bytes": (b"Fs@a\0T" + LONGEST + b"\0\0", 0),
    "recipient of 1,003 bytes": (b"Fs@a\0T" + LONGEST + b"x\0\0", 11),
    "second recipient too long": (b"Fs@a\0Tr@b\0T" + LONGEST + b"x\0\0", 11),
    "address of 1 MB": (b"Fs@a\0T" + b"x" * 1_000_000 + b"\0\0", 11),
    "address without end": (b"Fs@a\0T" + b"x" * 1003, 11),
    "no envelope": (b"", 54),
    "T first": (b"Tr@b\0\0", 91),
    "NUL first": (b"\0", 91),
    "lower case f": (b"fs@a\0Tr@b\0\0", 91),
    "unknown record": (b"Fs@a\0Tr@b\0Xy\0\0", 91),
    "second F": (b"Fs@a\0Fs@a\0\0", 91),
    "u and p records": (b"u0\0p1\0Fs@a\0Tr@b\0\0", 91),
    "LF instead of NUL": (b"Fs@a\nTr@b\n\n", 54),
}


@pytest.mark.parametrize("name", CASES)
def test_envelope(home, name):
    text, code = CASES[name]
    assert run_queue(home, MESSAGE, text).returncode == code
    if code == 0:
        assert len(home.queue_files()) == 3
    else:
        assert home.queue_is_empty(), home.queue_files()


def test_envelope_cut_at_every_place(home):
    whole = envelope("s@a", ["r@b", "t@c"])
    for cut in range(len(whole)):
        assert run_queue(home, b"x\n", whole[:cut]).returncode == 54, whole[:cut]
        assert home.queue_is_empty(), (whole[:cut], home.queue_files())


def directory(_):
    return os.open("/", os.O_RDONLY)


def writing_end(_):
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize("make", [directory, writing_end])
def test_unreadable_message_is_54(home, make):
    assert run_queue(home, make(home), ENVELOPE).returncode == 54
    assert home.queue_is_empty()


@pytest.mark.parametrize("make", [directory, writing_end])
def test_unreadable_envelope_is_54(home, make):
    assert run_queue(home, MESSAGE, make(home)).returncode == 54
    assert home.queue_is_empty()


@pytest.mark.parametrize("closed", [(0,), (1,), (0, 1), (0, 1, 2)], ids=str)
def test_closed_descriptors_are_54_and_no_file_takes_their_number(home, closed):
    """Were 0 or 1 free, the message file itself could be opened there and be read as message or envelope."""
    script = f"exec '{home.program('queue')}' " + " ".join(f"{n}<&-" for n in closed)
    done = subprocess.run(["/bin/sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=20)
    assert done.returncode == 54
    assert home.queue_is_empty(), home.queue_files()


def elsewhere(home, tmp_path):
    """queue of this home, but executable while the home is away."""
    copy = tmp_path / "queue-program"
    shutil.copy2(home.program("queue"), copy)
    return copy


def test_home_missing_is_61(home, tmp_path):
    program = elsewhere(home, tmp_path)
    home.path.rename(tmp_path / "away")
    try:
        assert run_queue(home, MESSAGE, ENVELOPE, program=program).returncode == 61
    finally:
        (tmp_path / "away").rename(home.path)


def test_queue_missing_is_62(home):
    home.queue.rename(home.path / "away")
    assert run_queue(home, MESSAGE, ENVELOPE).returncode == 62


@pytest.mark.parametrize("directory, code", [("pid", 63), ("mess", 64), ("intd", 65), ("todo", 66)])
@pytest.mark.parametrize("how", ["missing", "a file"])
def test_directory_missing(home, directory, code, how):
    (home.queue / directory).rename(home.path / "away")
    if how == "a file":
        (home.queue / directory).touch()
    assert run_queue(home, MESSAGE, ENVELOPE).returncode == code
    left = [name for name in home.queue_files() if name != directory]
    if code == 65:
        assert left == [], "cleanup on 65"
    if code == 63:
        assert left == []
    assert not [name for name in left if name.startswith("todo/")]


def test_pid_names_taken_is_63(home):
    """Nine collisions. The names hold pid and time, so take them for the next pids and seconds."""
    process, feeds = start_queue(home, MESSAGE, ENVELOPE, hold_message=True)
    process.kill()
    process.wait()
    pid_file = home.queue / "pid"
    now = int(time.time())
    # the stopped shell has a pid of its own, which exec keeps
    script = f"kill -STOP $$; exec '{home.program('queue')}'"
    shell = subprocess.Popen(["/bin/sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    for second in range(now - 1, now + 20):
        for seq in range(1, 10):
            (pid_file / f"{shell.pid}.{second}.{seq}").touch()
    wait("the shell to stop", lambda: f"State:\tT" in open(f"/proc/{shell.pid}/status").read())
    shell.send_signal(signal.SIGCONT)
    shell.stdin.close()
    assert shell.wait(20) == 63


FIRST = b"x" * 20_000


@pytest.mark.parametrize("number", [signal.SIGPIPE, signal.SIGVTALRM, signal.SIGPROF, signal.SIGQUIT, signal.SIGINT,
                                    signal.SIGHUP, signal.SIGXCPU, signal.SIGXFSZ])
def test_ignored_signals(home, number):
    process, feeds = start_queue(home, FIRST, ENVELOPE, hold_message=True)
    wait("queue to read", lambda: [n for n in home.queue_files() if n.startswith("mess")])
    process.send_signal(number)
    time.sleep(0.05)
    os.close(feeds[0].writing)
    assert process.wait(10) == 0
    assert len(home.queue_files()) == 3


@pytest.mark.parametrize("number, code", [
    (signal.SIGALRM, 52), (signal.SIGILL, 81), (signal.SIGABRT, 81), (signal.SIGFPE, 81), (signal.SIGBUS, 81),
    (signal.SIGSEGV, 81), (signal.SIGSYS, 81), (signal.SIGTERM, -signal.SIGTERM),
])
def test_deadly_signals(home, number, code):
    process, feeds = start_queue(home, FIRST, ENVELOPE, hold_message=True)
    wait("queue to read", lambda: [n for n in home.queue_files() if n.startswith("mess")])
    process.send_signal(number)
    assert process.wait(10) == code
    os.close(feeds[0].writing)
    # no cleanup: the 36-hour cleaner's work; but never accepted
    assert not [name for name in home.queue_files() if name.startswith("todo/")]


def test_file_size_limit_is_53(home):
    done = run_queue(home, b"x" * 500_000, ENVELOPE,
                     preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)))
    assert done.returncode == 53
    assert home.queue_is_empty(), home.queue_files()


@pytest.fixture
def small_queue(home, tmp_path):
    """The queue on a file system of its own, 1 MB of which is free: ext4 on a loop device, else tmpfs."""
    if os.getuid() != 0:
        pytest.skip("a full file system needs root for mount(8)")
    image = tmp_path / "image"
    kept = home.path / "queue-kept"
    shutil.copytree(home.queue, kept, ignore=lambda top, names: [n for n in names if n == "trigger"])
    with open(image, "wb") as file:
        file.truncate(6 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-m", "0", str(image)], check=True, timeout=30)
    done = subprocess.run(["mount", "-o", "loop", str(image), str(home.queue)], capture_output=True, timeout=30)
    kind = "ext4"
    if done.returncode != 0:
        kind = "tmpfs"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(home.queue)], capture_output=True)
        if done.returncode != 0:
            pytest.skip(f"neither loop device nor tmpfs can be mounted: {done.stderr.decode()}")
    try:
        subprocess.run(["cp", "-a", f"{kept}/.", str(home.queue)], check=True)
        yield home
    finally:
        subprocess.run(["umount", "-l", str(home.queue)], check=True)


def fill(home, leave):
    """Fills the file system up to `leave` free bytes."""
    with open(home.queue / "lock" / "filler", "wb", buffering=0) as filler:
        while True:
            free = os.statvfs(home.queue)
            room = free.f_bavail * free.f_frsize - leave
            if room <= 0:
                return
            try:
                filler.write(b"\0" * min(room, 65536))
            except OSError:
                return


@pytest.mark.parametrize("leave", [0, 4096, 8192, 200_000])
def test_full_disk_is_53_or_63(small_queue, leave):
    """Also the moment of the failure moves: creating, writing the message, writing the envelope."""
    home = small_queue
    fill(home, leave)
    text = b"x" * 300_000
    code = run_queue(home, text, envelope("s@a.test", ["r@b.test"])).returncode
    assert code == 53
    assert home.queue_is_empty(), home.queue_files()
    (home.queue / "lock" / "filler").unlink()
    assert run_queue(home, text, ENVELOPE).returncode == 0


def test_full_disk_at_the_envelope_is_53(small_queue):
    """The message fits, the envelope does not."""
    home = small_queue
    fill(home, 200_000)
    big = b"Fs@a.test\0" + b"".join(b"Tr%06d@b.test\0" % n for n in range(40_000)) + b"\0"
    assert run_queue(home, MESSAGE, big).returncode == 53
    assert home.queue_is_empty(), home.queue_files()


def test_no_inodes_left(small_queue):
    home = small_queue
    lock = home.queue / "lock"
    made = 0
    with contextlib.suppress(OSError):
        while made < 100_000:
            (lock / f"i{made}").touch()
            made += 1
    code = run_queue(home, MESSAGE, ENVELOPE).returncode
    assert code == 63
    (lock / "i0").unlink()
    assert run_queue(home, MESSAGE, ENVELOPE).returncode == 65, "one inode: the message's; none for intd"
    assert home.queue_is_empty(), home.queue_files()


def test_out_of_memory_is_no_crash_and_no_acceptance(home):
    """The smallest address space in which the program starts at all; a recipient list does not need memory."""
    big = b"Fs@a.test\0" + b"".join(b"Tr%06d@b.test\0" % n for n in range(200_000)) + b"\0"
    limit = 16 << 20
    done = run_queue(home, b"y" * 5_000_000, big,
                     preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
    assert done.returncode == 0
