"""clean alone: spec pipes.md 6, queue.md 10."""

import os
import signal
import subprocess
import time

import pytest

YEARS_AGO = 1_500_000_000


class Clean:
    def __init__(self, home):
        self.process = subprocess.Popen(
            [str(home.program("clean"))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
            env=home.environment(), cwd="/",
        )

    def ask(self, request):
        self.process.stdin.write(request)
        return self.process.stdout.read(1)

    def end(self):
        self.process.stdin.close()
        rest = self.process.stdout.read()
        code = self.process.wait(10)
        self.process.stdout.close()
        return code, rest


@pytest.fixture
def clean(home):
    clean = Clean(home)
    yield clean
    if clean.process.poll() is None:
        clean.process.kill()
        clean.process.wait()


def test_foop_and_todo(home, clean):
    number = home.put("S4", recipients=["a@b"])
    other = home.put("S4", recipients=["a@b"])
    assert clean.ask(b"todo/%d\0" % number) == b"+"
    assert not home.file("todo", number).exists() and not home.file("intd", number).exists()
    assert home.file("mess", number).exists()
    assert clean.ask(b"foop/%d\0" % number) == b"+"
    assert not home.file("mess", number).exists()
    # what is absent is no error
    assert clean.ask(b"foop/%d\0" % number) == b"+"
    assert clean.ask(b"todo/%d\0" % number) == b"+"
    assert clean.ask(b"foop/%d\0" % other) == b"+"
    assert home.queue_files() == [f"todo/{other}"]
    assert clean.end() == (0, b"")


def test_unlink_failure_is_reported(home, clean):
    number = home.put("S4", recipients=["a@b"])
    home.file("intd", number).unlink()
    home.file("intd", number).mkdir()
    assert clean.ask(b"todo/%d\0" % number) == b"!"
    assert home.file("todo", number).exists(), "todo/N must not go before intd/N"
    assert clean.ask(b"foop/%d\0" % number) == b"!"
    assert home.file("mess", number).exists()
    assert clean.end() == (0, b"")


MALFORMED = [
    b"foop/12x4\0", b"foop/ 123\0", b"foop/\0", b"todo/\0", b"todo/../lock\0", b"todo/-1\0", b"mess/123\0",
    b"FOOP/123\0", b"foop123\0", b"\0", b"x\0", b"foop/1/2\0", b"foop/" + b"1" * 200 + b"\0", b"foop/1\n\0",
    b"todo/" + b"9" * 90 + b"\0", b"A" * 100_000 + b"\0", b"foop/99999999999999999999999\0",
]


@pytest.mark.parametrize("request_", MALFORMED, ids=lambda r: repr(r[:20]))
def test_malformed_requests_get_one_x_and_touch_nothing(home, clean, request_):
    number = home.put("S4", recipients=["a@b"])
    before = home.queue_files()
    answer = clean.ask(request_)
    if request_ in (b"todo/" + b"9" * 90 + b"\0", b"foop/99999999999999999999999\0"):
        assert answer in (b"x", b"+"), "digits only: a name that does not exist, or refused"
    else:
        assert answer == b"x"
    assert home.queue_files() == before
    # exactly one answer: the next request gets its own
    assert clean.ask(b"todo/%d\0" % number) == b"+"
    assert clean.end() == (0, b"")


def test_requests_in_one_write_and_byte_by_byte(home, clean):
    numbers = [home.put("S4", recipients=["a@b"]) for _ in range(5)]
    clean.process.stdin.write(b"".join(b"todo/%d\0" % n for n in numbers))
    answers = b""
    while len(answers) < 5:
        answers += clean.process.stdout.read(5 - len(answers))
    assert answers == b"+++++"
    for byte in b"foop/%d\0" % numbers[0]:
        clean.process.stdin.write(bytes([byte]))
        time.sleep(0.002)
    assert clean.process.stdout.read(1) == b"+"
    assert not home.file("mess", numbers[0]).exists()


def test_half_a_request_before_the_end_does_nothing(home, clean):
    number = home.put("S4", recipients=["a@b"])
    clean.process.stdin.write(b"foop/%d" % number)
    assert clean.end() == (0, b"")
    assert home.file("mess", number).exists()


def test_old_pid_files_go_at_the_start(home):
    old, young = home.queue / "pid" / "1.2.3", home.queue / "pid" / "4.5.6"
    old.touch()
    young.touch()
    # ctime cannot be set back, and counts (queue.md 10, NEW): an old mtime alone does not make a file old
    os.utime(old, (YEARS_AGO, YEARS_AGO))
    clean = Clean(home)
    clean.ask(b"foop/1\0")
    assert clean.end() == (0, b"")
    assert young.exists()


def test_no_reader_is_100(home):
    clean = Clean(home)
    clean.process.stdout.close()
    clean.process.stdin.write(b"foop/1\0")
    assert clean.process.wait(10) == 100


def test_no_queue_is_111(home):
    home.queue.rename(home.path / "away")
    clean = Clean(home)
    assert clean.process.wait(10) == 111
    clean.process.stdin.close()
    clean.process.stdout.close()
