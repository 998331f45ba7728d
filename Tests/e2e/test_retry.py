"""The next hop is down: schedule, ALRM, lifetime, notices of every order, signals (spec send.md 3 to 10).

Nobody waits for a retry: a message's age is the mtime of its info file and its next try the mtime of local or remote,
so messages of every age are laid out while nothing runs. The schedule is read from the log's next= and from the
mtimes that a clean exit leaves.
"""

import errno
import math
import os
import re
import signal
import socket
import time

import pytest
from apus import SPLIT, envelope, run_queue, wait
from notices import TOO_LONG, Notice
from server import Server

LIFETIME = 604800
SKIP = {"local": 10, "remote": 20}
#: The attempt that comes after the lifetime.
LAST = {"local": 79, "remote": 40}
REFUSED = rb"Sorry, I wasn't able to establish an SMTP connection. (#4.4.1)" + b"\n"


class Hop:
    """A next hop that is down until up(): its port is taken, but nobody listens."""

    def __init__(self):
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.server = None

    def up(self, script=None):
        self.socket.listen(128)
        self.server = Server(script, listener=self.socket)
        return self.server

    def close(self):
        self.server.close() if self.server else self.socket.close()


@pytest.fixture
def hop(home):
    hop = Hop()
    home.control(smtproutes=f":127.0.0.1:{hop.port}")
    yield hop
    hop.close()


def after(birth, age, channel):
    """The next try of a pass that starts at this age."""
    return birth + (math.isqrt(max(age, 0)) + SKIP[channel]) ** 2


def age_of(attempt, channel):
    """The message's age when its n-th attempt is due."""
    return (SKIP[channel] * (attempt - 1)) ** 2


def tried(apus, number):
    """How often a delivery of the message was started."""
    return len(apus.log.find(rf"^starting delivery \d+: msg {number} to "))


def deferrals(apus, number):
    """The next= of each deferral of the message, in order."""
    return [int(fact["next"]) for fact in apus.log.facts(program="send", event="deferral", msg=number)]


def await_deferrals(apus, number, count):
    return wait(
        lambda: f"{count} deferrals of {number}:\n{apus.log.text()[-2000:]}",
        lambda: len(found := deferrals(apus, number)) >= count and found,
    )


def mtime(home, kind, number):
    return int(home.file(kind, number).stat().st_mtime)


def set_mtime(home, kind, number, when):
    os.utime(home.file(kind, number), (when, when))


def hangup(apus):
    apus.sender.process.send_signal(signal.SIGHUP)


# The schedule ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", ["local", "remote"])
def test_every_attempt_of_a_life(home, apus, hop, channel):
    """One message for each line of the table, due now: next try (skip * n)^2 after birth; the last is the end."""
    home.control(concurrencylocal=30, concurrencyremote=30)
    home.alias("later", "|exit 111")
    recipient = {"local": "later@home.test", "remote": "r@far.test"}[channel]
    now = int(time.time())
    births = {}
    for attempt in range(1, LAST[channel] + 1):
        # at the first attempt the age is 0 however slowly this machine begins
        birth = now + 60 if attempt == 1 else now - age_of(attempt, channel)
        number = home.put("S5", b"n\n", "back@home.test", birth=birth,
                          **{channel: [recipient], f"next_{channel}": now})
        births[attempt] = birth, number
    apus.start_send()
    apus.log.expect(r"^delivery \d+: (deferral|failure)", LAST[channel], deadline=50)
    late = int(time.time())
    expected, found = {}, {}
    for attempt, (birth, number) in births.items():
        found[attempt] = deferrals(apus, number)
        # passes started between now and late; in the first second of it: birth + (skip * attempt)^2
        possible = {after(birth, moment - birth, channel) for moment in range(now, late + 1)}
        assert min(possible) == birth + (SKIP[channel] * attempt) ** 2
        expected[attempt] = [[next] for next in possible] if attempt < LAST[channel] else [[]]
    assert [n for n in found if found[n] not in expected[n]] == []
    (message,) = home.maildir().expect(1)
    notice = Notice.of(message, b"back@home.test")
    assert notice.reasons == {recipient.encode(): TOO_LONG if channel == "local" else REFUSED + TOO_LONG}
    last = births.pop(LAST[channel])[1]
    apus.log.expect(rf"^end msg {last}$")
    assert apus.stop_send() == 0
    for attempt, (birth, number) in births.items():
        assert mtime(home, channel, number) == found[attempt][0], attempt
        assert mtime(home, "info", number) == birth, "an attempt does not change the age"
        assert home.file(channel, number).read_bytes() == b"T" + recipient.encode() + b"\0"


@pytest.mark.parametrize("channel", ["local", "remote"])
def test_passes_between_the_attempts(home, apus, hop, channel):
    """A pass at any other age: the root is the integer part, an age below 0 is 0, and the next try is later than now."""
    home.alias("later", "|exit 111")
    recipient = {"local": "later@home.test", "remote": "r@far.test"}[channel]
    now = int(time.time())
    ages = [-1000, 3, 8, 15, 98, 399, 1598, 3599, 40_100, 86_400, 300_000, 604_000]
    births = {
        home.put("S5", birth=now - age, **{channel: [recipient], f"next_{channel}": now}): now - age for age in ages
    }
    apus.start_send()
    apus.log.expect(r"^delivery \d+: deferral", len(ages), deadline=40)
    late = int(time.time())
    for number, birth in births.items():
        (found,) = deferrals(apus, number)
        assert found in {after(birth, moment - birth, channel) for moment in range(now, late + 1)}, now - birth
        assert found > late


def test_one_message_through_its_life(home, apus, hop):
    """The same message, its times moved into the past between attempts: 1 to 4, then 38, 39 and the 40th, the last."""
    number = home.enqueue(b"Subject: x\n\nx\n", "back@home.test", ["r@far.test"])
    for done, attempt in enumerate([1, 2, 3, 4, 38, 39, 40]):
        started = int(time.time())
        if attempt > 1:
            birth = started - age_of(attempt, "remote")
            set_mtime(home, "info", number, birth)
            set_mtime(home, "remote", number, started)
        apus.start_send()
        if attempt == 40:
            break
        found = await_deferrals(apus, number, done + 1)
        assert len(found) == done + 1
        birth = mtime(home, "info", number)
        possible = {after(birth, moment - birth, "remote") for moment in range(started, int(time.time()) + 1)}
        assert birth + (20 * attempt) ** 2 in possible and found[-1] in possible
        assert apus.stop_send() == 0
        assert mtime(home, "remote", number) == found[-1]
        assert mtime(home, "info", number) == birth
    (message,) = home.maildir().expect(1)
    assert Notice.of(message, b"back@home.test").reasons == {b"r@far.test": REFUSED + TOO_LONG}
    assert len(deferrals(apus, number)) == 6
    apus.settle()


def test_both_channels_have_their_own_times(home, apus, hop):
    home.alias("later", "|exit 111")
    before = int(time.time())
    number = home.put("S5", local=["later@home.test", "user@home.test"], remote=["r@far.test"], birth=before + 60,
                      next_local=before, next_remote=before)
    apus.start_send()
    await_deferrals(apus, number, 2)
    home.maildir().expect(1)
    assert apus.stop_send() == 0
    birth = before + 60
    assert mtime(home, "local", number) == birth + 100 and mtime(home, "remote", number) == birth + 400
    assert home.file("local", number).read_bytes() == b"Tlater@home.test\0Duser@home.test\0"
    facts = {fact["channel"]: int(fact["next"]) for fact in apus.log.facts(event="deferral", msg=number)}
    assert facts == {"local": birth + 100, "remote": birth + 400}


def test_not_before_it_is_due(home, apus):
    """Due in the future: not at the start; due in two seconds: in two seconds. What is not due keeps its time."""
    now = int(time.time())
    soon = home.put("S5", local=["soon@home.test"], birth=now - 50, next_local=now + 2)
    later = home.put("S5", local=["later@home.test"], remote=["later@far.test"], birth=now - 50, next_local=now + 300,
                     next_remote=now + 350)
    apus.start_send()
    (message,) = home.maildir().expect(1)
    assert message.delivered_to == "soon@home.test"
    assert message.path.stat().st_mtime >= now + 2
    apus.log.expect(rf"^end msg {soon}$")
    assert tried(apus, later) == 0
    assert apus.stop_send() == 0
    assert (mtime(home, "local", later), mtime(home, "remote", later)) == (now + 300, now + 350)


def test_alarm_tries_at_once_and_does_not_change_the_age(home, apus, hop):
    before = int(time.time())
    birth = before - 50
    number = home.put("S5", remote=["r@far.test"], birth=birth, next_remote=birth + 400)
    apus.start_send()
    apus.alarm()
    (found,) = await_deferrals(apus, number, 1)
    assert found in {after(birth, moment - birth, "remote") for moment in range(before, int(time.time()) + 1)}
    assert found >= birth + 27 ** 2
    assert mtime(home, "info", number) == birth
    server = hop.up()
    apus.alarm()
    apus.settle()
    assert server.recipients() == ["r@far.test"]


def test_next_hop_down_then_up(home, apus, hop):
    """Messages by SMTP are deferred, stay although the hop is up again, and all arrive at ALRM, each once."""
    count = 40
    apus.start()
    for n in range(count):
        apus.send(b"Subject: %d\r\n\r\nbody %d\r\n" % (n, n), recipients=[f"r{n}@far.test"])
    lines = apus.log.expect(r"^delivery \d+: deferral: (.*)$", count, deadline=60)
    assert {line[1] for line in lines} == {"Sorry,_I_wasn't_able_to_establish_an_SMTP_connection._(#4.4.1)/"}
    numbers = {int(line[1]) for line in apus.log.expect(r"^starting delivery \d+: msg (\d+) to remote r\d+@far\.test$")}
    assert len(numbers) == count
    for number in numbers:
        birth = mtime(home, "info", number)
        assert deferrals(apus, number)[0] - birth in {400, 441, 484, 529}, "tried first within 9 seconds"
    server = hop.up()
    apus.send(b"x\r\n", recipients=["fresh@far.test"])
    wait("the fresh one", lambda: server.recipients())
    assert server.recipients() == ["fresh@far.test"]
    apus.alarm()
    apus.settle()
    assert sorted(server.recipients()) == sorted(["fresh@far.test"] + [f"r{n}@far.test" for n in range(count)])
    for message in server.messages[1:]:
        n = message.recipients[0].removeprefix("r").split("@")[0].encode()
        assert message.text.endswith(b"\nSubject: %s\n\nbody %s\n" % (n, n))


def test_after_a_crash_it_is_tried_at_once(home, apus, hop):
    """No clean exit, no times: the mtimes are those of the preprocessing."""
    number = home.enqueue(b"x\n", "s@elsewhere.test", ["r@far.test"])
    apus.start_send()
    await_deferrals(apus, number, 1)
    apus.sender.stop(signal.SIGKILL)
    wait("the children to end", lambda: not home.pids("send", "lspawn", "rspawn", "clean", "todo"))
    server = hop.up()
    apus.start_send()
    apus.settle()
    assert server.recipients() == ["r@far.test"]


# The end of a message's life -------------------------------------------------------------------------------


def test_lifetime_exceeded(home, apus, hop):
    """The last Z becomes a failure, on both channels; a success or a real failure of the last pass stays what it is."""
    home.alias("later", "|echo not today; exit 111")
    home.alias("gone", "|echo gone; exit 100")
    now = int(time.time())
    old = home.put("S5", b"Subject: old\n\nold\n", "back@home.test", remote=["r@far.test"],
                   local=["later@home.test", "gone@home.test", "user@home.test"], birth=now - LIFETIME - 5)
    copy = home.file("mess", old).read_bytes()
    young = home.put("S5", b"x\n", "young@home.test", local=["later@home.test"], birth=now - LIFETIME + 100)
    apus.start_send()
    good, message = sorted(home.maildir().expect(2), key=lambda m: m.return_path, reverse=True)
    assert (good.return_path, good.delivered_to) == ("back@home.test", "user@home.test")
    assert message.delivered_to == "back@home.test"
    notice = Notice.of(message, b"back@home.test")
    assert notice.reasons == {
        b"later@home.test": b"not today\n" + TOO_LONG, b"gone@home.test": b"gone\n", b"r@far.test": REFUSED + TOO_LONG,
    }
    assert notice.return_path == b"back@home.test" and notice.original == copy
    apus.log.expect(rf"^end msg {old}$")
    logged = [f"delivery {n[1]}" for n in apus.log.find(rf"^starting delivery (\d+): msg {old} ")]
    outcomes = sorted(line.split(": ", 1)[1] for line in apus.log.lines() if line.split(": ")[0] in logged)
    too_long = "I'm_not_going_to_try_again;_this_message_has_been_in_the_queue_too_long./"
    assert outcomes == [
        f"failure: {REFUSED.decode().strip().replace(' ', '_')}/{too_long}", "failure: gone/",
        f"failure: not_today/{too_long}", "success: did_1+0+0/",
    ]
    assert len(await_deferrals(apus, young, 1)) == 1
    # the notice is a message of its own, which has to end as well
    wait("the young one alone", lambda: [f for f in home.queue_files() if f.startswith("mess/")]
         == [f"mess/{young % SPLIT}/{young}"])


def test_queuelifetime(home, apus):
    """The control file decides, and counts from birth."""
    home.control(queuelifetime=1000)
    home.alias("later", "|exit 111")
    now = int(time.time())
    home.put("S5", b"x\n", "old@home.test", local=["later@home.test"], birth=now - 1002)
    young = home.put("S5", b"x\n", "young@home.test", local=["later@home.test"], birth=now - 900)
    apus.start_send()
    (message,) = home.maildir().expect(1)
    assert Notice.of(message, b"old@home.test").reasons == {b"later@home.test": TOO_LONG}
    await_deferrals(apus, young, 1)
    assert len(home.maildir()) == 1


# Notices ---------------------------------------------------------------------------------------------------


def test_notice_byte_by_byte(home, apus):
    """All of it but Date and the two free lines, and what the log says about it."""
    home.alias("gone", "|echo first line; echo 'second line (#5.1.1)'; exit 100")
    text = b"Subject: x\nX: \xff\0\r\n\n.\nFrom me\n--- Below this line\n\nno last LF"
    number = home.put("S5", text, "back@home.test", local=["gone@home.test"], birth=int(time.time()))
    mess = home.file("mess", number).read_bytes()
    apus.start_send()
    (message,) = home.maildir().expect(1)
    notice = Notice.of(message, b"back@home.test")
    assert notice.paragraphs == [b"<gone@home.test>:\nfirst line\nsecond line (#5.1.1)\n"]
    assert notice.return_path == b"back@home.test"
    assert notice.original == mess
    free = message.text.split(b"home.test.\n", 1)[1].split(b"\n\n", 1)[0]
    date = re.match(rb"Date: [^\n]*\n", message.text)[0]
    assert message.text == (
        date + b"From: MAILER-DAEMON@home.test\nTo: back@home.test\nSubject: failure notice\n\n"
        b"Hi. This is the qmail-send program at home.test.\n" + free + b"\n\n"
        b"<gone@home.test>:\nfirst line\nsecond line (#5.1.1)\n\n"
        b"--- Below this line is a copy of the message.\n\nReturn-Path: <back@home.test>\n" + mess)
    (line,) = apus.log.expect(rf"^bounce msg {number} qp (\d+)$")
    assert message.queue_line.startswith(b"Received: (qmail %s invoked " % line[1].encode())
    apus.settle()
    order = [apus.log.lines().index(text) for text in (
        f"starting delivery 1: msg {number} to local gone@home.test",
        "delivery 1: failure: first_line/second_line_(#5.1.1)/", line[0], f"end msg {number}",
    )]
    assert order == sorted(order)
    assert [fact["qp"] for fact in apus.log.facts(event="bounce", msg=number)] == [line[1]]


def test_notice_to_a_remote_sender(home, apus, far):
    """On the wire its sender is <>."""
    home.enqueue(b"Subject: x\n\nx\n", "back@far.test", ["nobody@far.test", "gone@home.test"])
    home.alias("gone", "|exit 100")
    apus.start_send()
    apus.settle()
    (to,) = [m for m in far.messages if m.recipients == ["back@far.test"]]
    assert Notice.on_the_wire(to, b"back@far.test").reasons == {b"gone@home.test": b""}
    assert len(far.messages) == 2


def test_names_in_a_notice_are_quoted(home, apus):
    """bouncefrom, the recipient and the return path, where the header needs it; not in the recipient paragraph."""
    home.control(bouncefrom="Mail Daemon", bouncehost="bounce.test")
    home.alias("gone (x)", "|exit 100")
    home.enqueue(b"x\n", 'a "b"@home.test', ["gone (x)@home.test"])
    apus.start_send()
    (message,) = home.maildir().expect(1)
    assert message.delivered_to == 'a "b"@home.test'
    quoted = rb'"a \"b\""@home.test'
    notice = Notice.of(message, quoted, sender=b'"Mail Daemon"@bounce.test', host=b"bounce.test")
    assert notice.return_path == quoted
    assert notice.paragraphs == [b"<gone (x)@home.test>:\n"]


def test_hostile_reports_stay_in_their_paragraph(home, apus):
    """Blank lines, dashes, forged paragraphs, a recipient with LF (spec queue.md 4.5)."""
    forged = "--- Below this line is a copy of the message.\\n\\n<innocent@x.test>:\\nforged"
    home.alias("evil", f"|printf '\\n\\n{forged}\\n\\n\\n'; exit 100")
    home.alias("short", "|printf x; exit 100")
    home.alias("no\nbody", "|echo y; exit 100")
    home.enqueue(b"x\n", "back@home.test", ["evil@home.test", "short@home.test", "no\nbody@home.test"])
    apus.start_send()
    (message,) = home.maildir().expect(1)
    assert sorted(Notice.of(message, b"back@home.test").paragraphs) == [
        b"<evil@home.test>:\n//--- Below this line is a copy of the message.\n/<innocent@x.test>:\nforged\n/\n",
        b"<no_body@home.test>:\ny\n",
        b"<short@home.test>:\nx\n",
    ]


@pytest.mark.parametrize("limit, size", [(1, 1), (100, 100), (5000, 5000), (100_000, None), (0, None)])
def test_bouncemaxbytes(home, apus, limit, size):
    """So much of the message is copied, to the byte; 0 and more than there is: all."""
    home.control(bouncemaxbytes=limit)
    home.alias("gone", "|exit 100")
    number = home.put("S5", b"Subject: x\n\n" + b"0123456789abcdef\n" * 600, "back@home.test", local=["gone@home.test"],
                      birth=int(time.time()))
    mess = home.file("mess", number).read_bytes()
    assert len(mess) > 10_000
    apus.start_send()
    (message,) = home.maildir().expect(1)
    notice = Notice.of(message, b"back@home.test")
    assert notice.paragraphs == [b"<gone@home.test>:\n"]
    assert notice.original == mess[:size]


def test_one_notice_when_the_slowest_is_done(home, apus, hop):
    """A failure is kept in bounce/N while another recipient is waited for, over a restart."""
    home.alias("gone", "|echo gone; exit 100")
    number = home.enqueue(b"x\n", "back@home.test", ["gone@home.test", "r@far.test"])
    apus.start_send()
    await_deferrals(apus, number, 1)
    apus.log.expect(r"^delivery \d+: failure")
    assert apus.stop_send() == 0
    assert home.file("bounce", number).read_bytes() == b"<gone@home.test>:\ngone\n\n"
    assert not home.file("local", number).exists()
    assert not apus.log.find("^bounce msg")
    hop.up({"RCPT": b"550 5.1.1 unknown\r\n"})
    apus.start_send()
    apus.alarm()
    (message,) = home.maildir().expect(1)
    reasons = Notice.of(message, b"back@home.test").reasons
    assert list(reasons) == [b"gone@home.test", b"r@far.test"]
    assert b"550 5.1.1 unknown\n" in reasons[b"r@far.test"]
    apus.settle()
    assert len(apus.log.find("^bounce msg")) == 1


def test_notice_that_cannot_be_queued_is_kept(home, apus):
    """Injection fails: a warning, bounce/N stays, and it goes out later."""
    home.alias("gone", "|echo reason; exit 100")
    number = home.put("S5", b"x\n", "back@home.test", local=["gone@home.test"], birth=int(time.time()))
    queue = home.program("queue")
    kept = queue.with_name("kept")
    queue.rename(kept)
    queue.write_text("#!/bin/sh\ncat >/dev/null; cat <&1 >/dev/null; exit 53\n")
    queue.chmod(0o755)
    apus.start_send()
    apus.log.expect("^warning: trouble injecting bounce message, will try later$")
    assert home.file("bounce", number).read_bytes() == b"<gone@home.test>:\nreason\n\n"
    assert not apus.log.find(f"^end msg {number}$")
    assert apus.stop_send() == 0
    kept.rename(queue)
    apus.start_send()
    (message,) = home.maildir().expect(1)
    assert Notice.of(message, b"back@home.test").paragraphs == [b"<gone@home.test>:\nreason\n"]
    apus.settle()


# Double and triple bounces ---------------------------------------------------------------------------------


def test_double_bounce(home, apus):
    """The notice fails too: the double bounce goes to postmaster, from #@[], with the whole notice."""
    home.alias("gone", "|echo gone; exit 100")
    home.alias("postmaster", "./Maildir-postmaster/")
    apus.start()
    apus.send(b"Subject: x\r\n\r\nx\r\n", sender="gone@home.test", recipients=["gone@home.test"])
    (message,) = home.maildir("Maildir-postmaster").expect(1)
    assert message.delivered_to == "postmaster@home.test"
    double = Notice.of(message, b"postmaster@home.test", double=True)
    assert double.reasons == {b"gone@home.test": b"gone\n"}
    assert double.return_path == b""
    queue_line, inner = double.original.split(b"\n", 1)
    assert queue_line.startswith(b"Received: (qmail ")
    single = Notice(inner, b"gone@home.test")
    assert single.reasons == {b"gone@home.test": b"gone\n"} and single.return_path == b"gone@home.test"
    assert single.original.endswith(b"\nSubject: x\n\nx\n")
    apus.settle()
    assert len(apus.log.find("^bounce msg")) == 2
    assert len(home.maildir()) == 0


def test_double_bounce_by_control_files_to_a_remote_host(home, apus, far):
    """doublebounceto@doublebouncehost; the sender on the wire is #@[]."""
    home.control(doublebounceto="doctor", doublebouncehost="far.test", bouncefrom="MOTHER", bouncehost="bounce.test")
    home.alias("gone", "|exit 100")
    home.enqueue(b"x\n", "", ["gone@home.test"])
    apus.start_send()
    apus.settle()
    (message,) = far.messages
    assert message.recipients == ["doctor@far.test"]
    notice = Notice.on_the_wire(message, b"doctor@far.test", double=True, sender=b"MOTHER@bounce.test",
                                host=b"bounce.test")
    assert notice.paragraphs == [b"<gone@home.test>:\n"]


def test_triple_bounce_is_discarded_and_logged(home, apus):
    """From the sender's message to the end: two notices, then silence."""
    home.alias("gone", "|exit 100")
    home.alias("postmaster", "|exit 100")
    home.enqueue(b"x\n", "gone@home.test", ["gone@home.test"])
    apus.start_send()
    apus.settle()
    senders = [line[1] for line in apus.log.find(r"^info msg \d+: bytes \d+ from <(.*)> qp ")]
    assert senders == ["gone@home.test", "", "#@[]"]
    assert len(apus.log.find(r"^bounce msg \d+ qp \d+$")) == 2
    (discarded,) = apus.log.find(r"^triple bounce: discarding bounce/(\d+)$")
    assert apus.log.facts(program="send", event="triple_bounce_discarded", msg=discarded[1])
    assert apus.log.find(rf"^starting delivery 3: msg {discarded[1]} to local postmaster@home\.test$")
    assert len(apus.log.find(r"^end msg ")) == 3
    assert len(home.maildir()) == 0


@pytest.mark.parametrize("sender, to, double", [
    ("own@home.test", b"own@home.test", False),
    ("own-@home.test", b"own-@home.test", False),
    ("own-@home.test-@[]", b"own-@home.test", False),
    ("nohost", b"nohost", False),
    ("-@[]", b"postmaster@home.test", True),
    ("", b"postmaster@home.test", True),
])
def test_whom_a_notice_goes_to(home, apus, sender, to, double):
    home.alias("gone", "|exit 100")
    home.enqueue(b"x\n", sender, ["gone@home.test"])
    apus.start_send()
    (message,) = home.maildir().expect(1)
    assert message.delivered_to.encode() == to + (b"" if b"@" in to else b"@home.test")
    notice = Notice.of(message, to, double=double)
    assert notice.return_path == (b"" if double else to)
    apus.settle()
    assert not apus.log.find("triple")


def test_failure_of_a_message_from_the_double_bounce_sender(home, apus):
    """Its good recipient gets it; for the bad one nobody is told but the log."""
    home.alias("gone", "|exit 100")
    number = home.enqueue(b"x\n", "#@[]", ["gone@home.test", "user@home.test"])
    apus.start_send()
    apus.settle()
    (message,) = home.maildir().expect(1)
    assert (message.return_path, message.delivered_to) == ("#@[]", "user@home.test")
    assert len(apus.log.find("bounce/")) == 1
    assert f"triple bounce: discarding bounce/{number}" in apus.log.lines()
    assert not apus.log.find("^bounce msg")


# Signals and limits ----------------------------------------------------------------------------------------


def first_delivery(apus, recipient):
    """(channel, address) of the first delivery of a message that is queued now, while nothing is tried again."""
    seen = len(apus.log.find("^starting delivery "))
    # not by the message's number, which is used again
    apus.enqueue(b"x\n", "back@home.test", [recipient])
    line = apus.log.expect(r"^starting delivery \d+: msg \d+ to (\w+) (.*)$", seen + 1)[seen]
    return line[1], line[2]


def await_route(apus, recipient, channel, address):
    """HUP has no answer in the log: messages are sent until one takes this route."""
    wait(f"{recipient} to go {channel} as {address}", lambda: first_delivery(apus, recipient) == (channel, address))


def test_hangup_rereads_locals_and_virtualdomains(home, apus, hop):
    """A recipient changes its channel, and back; without HUP it does not. What is in the queue keeps its channel."""
    apus.start_send()
    assert first_delivery(apus, "a@far.test") == ("remote", "a@far.test")
    home.control(locals=["home.test", "far.test"], virtualdomains=["joe@other.test:joe", ".sub.test:sub"])
    assert first_delivery(apus, "b@far.test") == ("remote", "b@far.test")
    hangup(apus)
    await_route(apus, "c@far.test", "local", "c@far.test")
    assert first_delivery(apus, "joe@other.test") == ("local", "joe-joe@other.test")
    assert first_delivery(apus, "jim@other.test") == ("remote", "jim@other.test")
    assert first_delivery(apus, "jim@x.sub.test") == ("local", "sub-jim@x.sub.test")
    home.control(locals=None, virtualdomains=None)
    hangup(apus)
    await_route(apus, "d@far.test", "remote", "d@far.test")
    assert first_delivery(apus, "jim@x.sub.test") == ("remote", "jim@x.sub.test")
    assert first_delivery(apus, "user@home.test") == ("local", "user@home.test")
    home.control(locals=["home.test", "far.test"])
    hangup(apus)
    await_route(apus, "e@far.test", "local", "e@far.test")
    apus.alarm()
    apus.log.expect(r"^starting delivery \d+: msg \d+ to remote a@far\.test$", 2)
    assert not apus.log.find(r" to local a@far\.test$")


def test_hangup_changes_what_notices_say(home, apus):
    """The prefix of a virtual domain is taken back by the map of today."""
    home.alias("list-default", "|test ! -e now && exit 111; exit 100")
    number = home.enqueue(b"x\n", "back@home.test", ["list-joe@virtual.test"])
    home.control(locals=["home.test", "virtual.test"])
    apus.start_send()
    await_deferrals(apus, number, 1)
    home.control(locals=["home.test"], virtualdomains=["virtual.test:list"])
    hangup(apus)
    await_route(apus, "user@virtual.test", "local", "list-user@virtual.test")
    (home.path / "alias" / "now").touch()
    apus.alarm()
    wait("its notice", lambda: apus.log.find(rf"^bounce msg {number} "))
    apus.settle()
    named = [address for m in home.maildir().messages() if m.return_path == ""
             for address in Notice.of(m, b"back@home.test").reasons]
    assert set(named) == {b"joe@virtual.test", b"user@virtual.test"}


@pytest.mark.parametrize("file", ["locals", "virtualdomains"])
def test_hangup_with_an_unreadable_file_keeps_the_old_lists(home, apus, hop, file):
    home.control(virtualdomains=["virtual.test:list"], locals=["home.test", "own.test"])
    apus.start_send()
    control = home.path / "control" / file
    control.unlink()
    control.mkdir()  # root reads everything but this
    hangup(apus)
    apus.log.expect(f"^alert: unable to reread control/{file}$")
    assert first_delivery(apus, "joe@virtual.test") == ("local", "list-joe@virtual.test")
    assert first_delivery(apus, "joe@own.test") == ("local", "joe@own.test")
    assert first_delivery(apus, "joe@far.test") == ("remote", "joe@far.test")


def open_for_writing(fifo):
    """A descriptor as soon as somebody reads, else None."""
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise


class Gate:
    """A local user whose deliveries stay until let in, one by one."""

    def __init__(self, home, name="gate"):
        self.path = home.path / "alias" / f"{name}.fifo"
        os.mkfifo(self.path)
        self.maildir = home.alias(name, f"|cat {name}.fifo", f"./Maildir-{name}/")

    def open(self):
        """Lets those in that wait; there must be one."""
        os.close(wait("a delivery at the gate", lambda: open_for_writing(self.path)))


def test_term_waits_for_running_deliveries_and_writes_times(home, apus, hop):
    """exitasap: nothing new begins, what runs ends, exit 0; what was queued meanwhile is for the next run."""
    home.control(concurrencylocal=1)
    gate = Gate(home)
    deferred = home.enqueue(b"x\n", "s@elsewhere.test", ["r@far.test"])
    apus.start_send()
    (next,) = await_deferrals(apus, deferred, 1)
    first_delivery(apus, "user@home.test")
    apus.log.expect("^end msg")
    first = apus.enqueue(b"x\n", recipients=["gate@home.test", "second@home.test"])
    apus.log.expect(rf"^starting delivery 3: msg {first} to local gate@home\.test$")
    apus.enqueue(b"x\n", recipients=["third@home.test"])
    send = apus.sender.process
    send.send_signal(signal.SIGTERM)
    apus.log.expect("^status: local 1/1 remote 0/20 exitasap$")
    # todo has been told as well
    wait("todo to end", lambda: not home.pids("todo"))
    assert run_queue(home, b"x\n", envelope("s@elsewhere.test", ["fourth@home.test"])).returncode == 0
    assert send.poll() is None and home.pids("lspawn") and home.pids("rspawn") and home.pids("clean")
    assert not apus.log.find("^status: exiting$")
    gate.open()
    assert send.wait(20) == 0
    apus.stop_send()
    lines = [line for line in apus.log.lines() if not line.startswith(("send ", "todo "))]
    assert lines[-4:] == [
        "status: local 1/1 remote 0/20 exitasap", "delivery 3: success: did_1+0+1/",
        "status: local 0/1 remote 0/20 exitasap", "status: exiting",
    ]
    gate.maildir.expect(1)
    assert len(home.maildir()) == 1 and len(apus.log.find("^starting delivery")) == 3
    assert home.file("local", first).read_bytes() == b"Dgate@home.test\0Tsecond@home.test\0"
    assert mtime(home, "remote", deferred) == next and len(os.listdir(home.queue / "todo")) == 1
    apus.start_send()
    users = sorted(m.delivered_to.removesuffix("@home.test") for m in home.maildir().expect(4))
    assert users == ["fourth", "second", "third", "user"]
    gate.maildir.expect(1)
    assert tried(apus, deferred) == 1


@pytest.mark.parametrize("held, other", [("local", "remote"), ("remote", "local")])
def test_concurrency_0_holds_a_channel(home, apus, far, held, other):
    """Nothing of it is started, not at ALRM either; the other channel flows; it goes out when the file is gone."""
    home.control(**{f"concurrency{held}": 0})
    apus.start_send()
    limits = {"local": 10, "remote": 20, held: 0}
    assert f"status: local 0/{limits['local']} remote 0/{limits['remote']}" in apus.log.lines()
    for n in range(3):
        apus.enqueue(b"x\n", recipients=[f"{n}@home.test", f"{n}@far.test"])
    arrived = {"local": lambda: len(home.maildir()), "remote": lambda: len(far.recipients())}
    wait(f"the {other} ones", lambda: arrived[other]() == 3)
    apus.alarm()
    apus.enqueue(b"x\n", recipients=["4@home.test", "4@far.test"])
    wait(f"the {other} ones", lambda: arrived[other]() == 4)
    assert not apus.log.find(rf"^starting delivery \d+: msg \d+ to {held} ") and arrived[held]() == 0
    assert apus.stop_send() == 0
    home.control(**{f"concurrency{held}": None})
    apus.start_send()
    apus.settle()
    assert (arrived[held](), arrived[other]()) == (4, 4)


def test_a_message_is_not_passed_again_while_its_last_pass_runs(home, apus):
    """ALRM in the middle of a pass: the recipient that was deferred waits with the one that is still running."""
    gate = Gate(home)
    home.alias("later", "|exit 111")
    number = home.put("S5", local=["gate@home.test", "later@home.test"], birth=int(time.time()) + 60, next_local=1)
    apus.start_send()
    (next,) = await_deferrals(apus, number, 1)
    apus.alarm()
    first_delivery(apus, "user@home.test")
    home.maildir().expect(1)
    assert tried(apus, number) == 2
    gate.open()
    gate.maildir.expect(1)
    first_delivery(apus, "user@home.test")
    home.maildir().expect(2)
    assert tried(apus, number) == 2
    apus.alarm()
    await_deferrals(apus, number, 2)
    assert apus.stop_send() == 0
    assert mtime(home, "local", number) == next == mtime(home, "info", number) + 100
    assert home.file("local", number).read_bytes() == b"Dgate@home.test\0Tlater@home.test\0"


def test_term_waits_for_a_notice_that_is_being_queued(home, apus):
    """Else the notice would go out, bounce/N stay, and the next run send a second one."""
    home.alias("gone", "|echo gone; exit 100")
    number = home.put("S5", b"x\n", "back@home.test", local=["gone@home.test"], birth=int(time.time()))
    queue = home.program("queue")
    kept, gate = queue.with_name("kept"), home.path / "gate.fifo"
    queue.rename(kept)
    queue.write_text(f"#!/bin/sh\nread line < {gate}\nexec {kept}\n")
    queue.chmod(0o755)
    os.mkfifo(gate)
    apus.start_send()
    writing = wait("the notice to be on its way", lambda: open_for_writing(gate))
    send = apus.sender.process
    send.send_signal(signal.SIGTERM)
    wait("todo to end", lambda: not home.pids("todo"))
    assert send.poll() is None
    os.close(writing)
    assert send.wait(20) == 0
    apus.stop_send()
    assert apus.log.find(rf"^bounce msg {number} ") and not home.file("bounce", number).exists()
    queue.unlink()
    kept.rename(queue)
    apus.start_send()
    apus.settle()
    (message,) = home.maildir().messages()
    assert Notice.of(message, b"back@home.test").paragraphs == [b"<gone@home.test>:\ngone\n"]


@pytest.mark.parametrize("wanted, given", [(1, 1), (120, 120), (121, 120), (100_000, 120)])
def test_concurrency_is_lowered_to_what_the_spawners_have(home, apus, wanted, given):
    home.control(concurrencylocal=wanted, concurrencyremote=wanted)
    apus.start_send()
    assert apus.log.lines()[0] == f"status: local 0/{given} remote 0/{given}"


def test_concurrency_is_a_limit(home, apus):
    """Seven wait at a gate for two: never more than two at once, each delivered once."""
    home.control(concurrencylocal=2)
    gates = [Gate(home, f"gate{n}") for n in range(7)]
    home.enqueue(b"x\n", "s@elsewhere.test", [f"gate{n}@home.test" for n in range(7)])
    apus.start_send()
    apus.log.expect("^status: local 2/2 ")
    for gate in gates:
        gate.open()
    apus.settle()
    running = [int(line[1]) for line in apus.log.find(r"^status: local (\d+)/2 remote 0/20$")]
    assert max(running) == 2
    assert [len(gate.maildir) for gate in gates] == [1] * 7
