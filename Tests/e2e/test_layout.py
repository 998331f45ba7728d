"""The queue directory as qmail writes it, laid out by hand, picked up and delivered; and what Apus writes, byte for byte."""

import os
import re
import stat
import time

import pytest
from apus import SPLIT, envelope, run_queue, wait

LOCAL_ADDRESS = "user@home.test"


def content(home, kind, number):
    return home.file(kind, number).read_bytes()


def test_s4_is_picked_up_at_start(home, apus, far):
    number = home.put("S4", b"Subject: hello\n\nby hand\n", "s@elsewhere.test",
                      recipients=["a@home.test", "b@far.test", "c@home.test"], qp=31337, uid=1000)
    apus.start_send()
    apus.settle()
    local = home.maildir().expect(2)
    assert {m.delivered_to for m in local} == {"a@home.test", "c@home.test"}
    assert {m.text for m in local} == {b"Subject: hello\n\nby hand\n"}
    assert [m.return_path for m in local] == ["s@elsewhere.test"] * 2
    assert far.recipients() == ["b@far.test"]
    size = len(b"Received: (qmail 31337 invoked by uid 1000); 5 Nov 2025 01:02:03 -0000\n") + 24
    assert f"new msg {number}" in apus.log.lines()
    assert f"info msg {number}: bytes {size} from <s@elsewhere.test> qp 31337 uid 1000" in apus.log.lines()


def test_s4_without_intd(home, apus):
    """A crash between the two unlinks of queue.md 7.8: intd is gone, todo is not."""
    number = home.put("S4", recipients=[LOCAL_ADDRESS])
    home.file("intd", number).unlink()
    apus.start_send()
    apus.settle()
    home.maildir().expect(1)


def test_s4_with_leftovers_of_an_interrupted_preprocessing(home, apus, far):
    """Crash after 7.3 to 7.7: partial info, local and remote are redone from todo."""
    number = home.put("S4", sender="right@elsewhere.test", recipients=[LOCAL_ADDRESS])
    for kind, text in (("info", b"Fwrong@x"), ("local", b"Twrong@home.test\0Tw"), ("remote", b"Twrong@far.test\0")):
        home.file(kind, number).write_bytes(text)
    apus.start_send()
    apus.settle()
    (message,) = home.maildir().expect(1)
    assert (message.return_path, message.delivered_to) == ("right@elsewhere.test", LOCAL_ADDRESS)
    assert far.messages == []
    assert not apus.log.find("wrong")


@pytest.mark.parametrize("tail", [b"", b"Tnever@home.test", b"T"], ids=["whole", "cut record", "cut letter"])
def test_final_unterminated_record_is_ignored(home, apus, tail):
    number = home.put("S4", recipients=[LOCAL_ADDRESS])
    with open(home.file("todo", number), "ab") as todo:
        todo.write(tail)
    apus.start_send()
    apus.settle()
    (message,) = home.maildir().expect(1)
    assert message.delivered_to == LOCAL_ADDRESS


def test_s5_with_some_recipients_done(home, apus, far):
    birth = int(time.time()) - 50
    home.put("S5", b"one\n", local=["D a@home.test", "b@home.test", "D c@home.test", "d@home.test"],
             remote=["D e@far.test", "f@far.test"], birth=birth, next_local=birth, next_remote=birth)
    home.put("S5", b"two\n", local=["D a@home.test", "g@home.test"], birth=birth)
    home.put("S5", b"three\n", remote=["h@far.test", "D i@far.test"], birth=birth)
    apus.start_send()
    apus.settle()
    assert sorted(m.delivered_to for m in home.maildir().expect(3)) == ["b@home.test", "d@home.test", "g@home.test"]
    assert sorted(far.recipients()) == ["f@far.test", "h@far.test"]


def test_s5_all_done_is_only_finished(home, apus):
    """Every recipient D, and no recipient files at all: nothing to deliver, the message ends."""
    first = home.put("S5", local=["D a@home.test"], birth=int(time.time()) - 50)
    second = home.put("S5", birth=int(time.time()) - 50)
    apus.start_send()
    apus.settle()
    assert len(home.maildir()) == 0
    for number in (first, second):
        assert f"end msg {number}" in apus.log.lines()


def test_s5_with_a_bounce_sends_it_and_ends(home, apus):
    number = home.put("S5", b"Subject: x\n\nx\n", "back@home.test", birth=int(time.time()) - 50,
                      bounce=b"<bad@far.test>:\nIt was bad.\n\n")
    apus.start_send()
    apus.settle()
    (notice,) = home.maildir().expect(1)
    assert notice.delivered_to == "back@home.test" and notice.return_path == ""
    assert b"\n<bad@far.test>:\nIt was bad.\n\n" in notice.text
    assert apus.log.find(rf"^bounce msg {number} qp \d+$")


def test_s2_and_s3_that_are_young_are_left_alone(home, apus):
    """A live queue may own them."""
    number = home.put("S5", birth=int(time.time()))
    home.file("info", number).unlink()
    other = home.put("S4", recipients=[LOCAL_ADDRESS])
    home.file("todo", other).unlink()
    home.enqueue(b"x\n", "s@elsewhere.test", [LOCAL_ADDRESS])
    apus.start_send()
    home.maildir().expect(1)
    time.sleep(0.5)
    assert sorted(home.queue_files()) == sorted(
        [f"mess/{number % SPLIT}/{number}", f"mess/{other % SPLIT}/{other}", f"intd/{other}"])


def test_names_that_are_not_digits_are_skipped(home, apus):
    junk = ["todo/.hidden", "todo/12a", "todo/-5", "todo/0x1f", "info/3/README", "mess/4/core", "bounce/x",
            "todo/99999999999999999999999999"]
    for name in junk:
        (home.queue / name).write_bytes(b"Fx@y\0T" + LOCAL_ADDRESS.encode() + b"\0")
    home.put("S4", recipients=[LOCAL_ADDRESS])
    apus.start_send()
    home.maildir().expect(1)
    wait("only the junk to be left", lambda: set(home.queue_files()) <= set(junk))


def test_what_apus_writes_in_s5(home, apus):
    """todo/N becomes info, local, remote: bytes, names and modes of queue.md 2 to 4."""
    home.control(smtproutes=":127.0.0.1:1", concurrencylocal=0)  # nobody listens; local is on hold
    sender = "s@elsewhere.test"
    recipients = ["b@far.test", "a@home.test", "c@FAR.test", "d@Home.Test", "nohost", "e@far.test"]
    number = home.enqueue(b"Subject: x\n\nx\n", sender, recipients)
    mess = content(home, "mess", number)
    before = int(time.time())
    apus.start_send()
    apus.log.expect(r"^delivery \d+: deferral", 3)
    s = number % SPLIT
    assert home.queue_files() == sorted(
        [f"info/{s}/{number}", f"local/{s}/{number}", f"mess/{s}/{number}", f"remote/{s}/{number}"])
    assert content(home, "info", number) == b"Fs@elsewhere.test\0"
    assert content(home, "local", number) == b"Ta@home.test\0Td@Home.Test\0Tnohost@home.test\0"
    assert content(home, "remote", number) == b"Tb@far.test\0Tc@FAR.test\0Te@far.test\0"
    assert content(home, "mess", number) == mess
    for kind in ("info", "local", "remote"):
        assert stat.S_IMODE(home.file(kind, number).stat().st_mode) == 0o600, kind
    birth = home.file("info", number).stat().st_mtime
    assert before - 1 <= birth <= time.time()
    # clean exit: the next retry time of each channel goes into the mtime of its file
    assert apus.stop_send() == 0
    assert abs(home.file("remote", number).stat().st_mtime - (int(birth) + 400)) <= 41
    assert apus.log.lines()[-1] == "status: exiting"


def test_only_the_letter_of_a_delivered_recipient_changes(home, apus, server):
    server.script = {"RCPT": lambda line, _: b"451 later\r\n" if b"no" in line else b"250 ok\r\n"}
    home.control(smtproutes=f":127.0.0.1:{server.port}")
    number = home.put("S5", remote=["yes1@far.test", "no1@far.test", "D before@far.test", "yes2@far.test"],
                      birth=int(time.time()) - 10)
    inode = home.file("remote", number).stat().st_ino
    apus.start_send()
    apus.log.expect(r"^delivery \d+: (success|deferral)", 3)
    wait("the marks", lambda: content(home, "remote", number)
         == b"Dyes1@far.test\0Tno1@far.test\0Dbefore@far.test\0Dyes2@far.test\0")
    assert home.file("remote", number).stat().st_ino == inode, "marked in place"


def test_what_apus_writes_into_bounce(home, apus, server):
    """queue.md 4.5: blank lines within a paragraph become slashes."""
    server.script = {"RCPT": lambda line, _: {b"bad1": b"550-first\r\n550-\r\n550 \r\n", b"bad2": b"553 no\r\n"}
                     .get(line[9:13], b"451 later\r\n")}
    home.control(smtproutes=f":127.0.0.1:{server.port}")
    number = home.put("S5", remote=["bad1@far.test", "bad2@far.test", "wait@far.test"], birth=int(time.time()) - 10)
    apus.start_send()
    apus.log.expect(r"^delivery \d+: (failure|deferral)", 3)
    text = wait("the bounce", lambda: home.file("bounce", number).exists() and content(home, "bounce", number))
    wait("both", lambda: content(home, "bounce", number).count(b"@far.test>:\n") == 2)
    text = content(home, "bounce", number)
    assert stat.S_IMODE(home.file("bounce", number).stat().st_mode) == 0o600
    assert text.endswith(b"\n\n")
    paragraphs = text[:-2].split(b"\n\n")
    assert len(paragraphs) == 2, text
    heads = {p.split(b"\n")[0] for p in paragraphs}
    assert heads == {b"<bad1@far.test>:", b"<bad2@far.test>:"}
    for paragraph in paragraphs:
        assert b"does not like recipient.\n" in paragraph
        assert b"Remote host said: 55" in paragraph


def test_log_lines_in_order_and_to_the_byte(home, apus):
    home.alias("bad", "|exit 100")
    number = home.enqueue(b"x\n", "s p%@home.test", ["user@home.test"])
    apus.start_send()
    apus.settle()
    apus.stop_send()
    lines = [line for line in apus.log.lines() if re.match(r"(status|new msg|info msg|starting|delivery|end msg|bounce)", line)]
    assert lines[0] == "status: local 0/10 remote 0/20"
    expected = [
        rf"new msg {number}",
        rf"info msg {number}: bytes \d+ from <s_p_@home\.test> qp \d+ uid {os.getuid()}",
        rf"starting delivery 1: msg {number} to local user@home\.test",
        r"status: local 1/10 remote 0/20",
        r"delivery 1: success: did_1\+0\+0/",
        r"status: local 0/10 remote 0/20",
        rf"end msg {number}",
    ]
    for line, pattern in zip(lines[1:], expected):
        assert re.fullmatch(pattern, line), (line, pattern)
    assert [line for line in lines[1 + len(expected):] if "status" not in line] == []
    assert lines[-1] == "status: exiting"
    for line in apus.log.lines():
        assert re.fullmatch(r"[\x20-\x7e]*", line)
        if line not in lines:
            assert re.match(r"(send|todo)( [a-z]+=[!-$&-~]*)+$", line), line


def test_number_is_reused_without_a_trace(home, apus):
    """The inode number comes back; nothing of the old message may cling to it."""
    apus.start_send()
    for round_ in range(30):
        text = envelope(f"s{round_}@elsewhere.test", [f"r{round_}@home.test"])
        assert run_queue(home, b"%d\n" % round_, text).returncode == 0
        apus.settle()
    messages = home.maildir().expect(30)
    for message in messages:
        n = int(message.text)
        assert message.return_path == f"s{n}@elsewhere.test" and message.delivered_to == f"r{n}@home.test"
    numbers = [m[1] for m in apus.log.find(r"^new msg (\d+)$")]
    assert len(numbers) == 30
    ids = [fact["id"] for fact in apus.log.facts(program="todo", event="new")]
    assert len(set(ids)) == 30, "ids are unique though numbers are not"
