"""The next hop is down: schedule, ALRM, lifetime, bounces of every order (spec send.md 3 to 5, 10).

Nobody waits: a message's age is the mtime of its info file, and its next try the mtime of local or remote, so messages of
every age are laid out while the daemon is stopped; the schedule is read from the log's next= and from the mtimes that a
clean exit leaves.
"""

import math
import os
import re
import signal
import time

import pytest
from apus import SPLIT, free_port, wait
from server import Server

LIFETIME = 604800
AGES = [0, 1, 99, 100, 101, 399, 400, 1599, 1600, 3599, 3600, 6400, 40_000, 86_400, 300_000, 592_900, 604_000]


def schedule(birth, age, skip):
    return birth + (math.isqrt(max(age, 0)) + skip) ** 2


def deferrals(log):
    """{message number: [next, ...]} of a channel's deferral lines."""
    found = {}
    for fact in log.facts(program="send", event="deferral"):
        found.setdefault(int(fact["msg"]), []).append(int(fact["next"]))
    return found


@pytest.mark.parametrize("channel, skip", [("local", 10), ("remote", 20)])
def test_schedule(home, apus, channel, skip):
    """Every age: next = birth + (isqrt(age) + skip)^2, in the log and, after a clean exit, as mtime."""
    home.control(smtproutes=f":127.0.0.1:{free_port()}", concurrencylocal=20)
    home.alias("later", "|exit 111")
    recipient = {"local": "later@home.test", "remote": "r@far.test"}[channel]
    now = int(time.time())
    births = {}
    for age in AGES + [-1000]:
        number = home.put("S5", birth=now - age, next_local=now - 1, next_remote=now - 1, **{channel: [recipient]})
        births[number] = now - age
    apus.start_send()
    apus.log.expect(r"^delivery \d+: deferral", len(births), deadline=40)
    late = int(time.time())
    found = wait("all next times", lambda: (d := deferrals(apus.log)) and len(d) == len(births) and d)
    for number, birth in births.items():
        # age is counted at the start of the pass, between now and late
        possible = {schedule(birth, moment - birth, skip) for moment in range(now, late + 1)}
        assert found[number][0] in possible, (now - birth, found[number], possible)
    assert apus.stop_send() == 0
    for number in births:
        assert int(home.file(channel, number).stat().st_mtime) == found[number][0]
        assert int(home.file("info", number).stat().st_mtime) == births[number], "age does not change"


def test_attempts_one_after_the_other(home, apus):
    """The table of send.md 5: attempts 2, 3, 4, 5 of a remote message, each seen at its own time."""
    home.control(smtproutes=f":127.0.0.1:{free_port()}")
    number = home.put("S5", remote=["r@far.test"], birth=int(time.time()))
    for attempt in range(1, 6):
        # as if the message were as old as its last attempt is due
        birth = int(time.time()) - (20 * (attempt - 1)) ** 2
        os.utime(home.file("info", number), (birth, birth))
        os.utime(home.file("remote", number), (birth, birth))
        apus.start_send()
        apus.log.expect(r"^delivery \d+: deferral", attempt)
        wait("the next time", lambda: len(deferrals(apus.log).get(number, [])) == attempt)
        assert apus.stop_send() == 0
        assert deferrals(apus.log)[number][-1] == birth + (20 * attempt) ** 2
        assert int(home.file("remote", number).stat().st_mtime) == birth + (20 * attempt) ** 2


def test_not_before_its_time_but_at_alarm(home, apus):
    """A next try in the future is kept over a restart; ALRM retries at once."""
    with Server() as server:
        home.control(smtproutes=f":127.0.0.1:{server.port}")
        now = int(time.time())
        home.put("S5", remote=["r@far.test"], birth=now - 50, next_remote=now + 350)
        home.put("S5", local=["user@home.test"], birth=now - 50, next_local=now + 50)
        apus.start_send()
        time.sleep(1.5)
        assert not apus.log.find("^starting delivery")
        apus.alarm()
        apus.settle()
        assert server.recipients() == ["r@far.test"]
        home.maildir().expect(1)


def test_tried_again_when_due(home, apus):
    """The timer itself: due in two seconds, tried in two seconds, not before."""
    now = time.time()
    home.put("S5", local=["user@home.test"], birth=int(now) - 50, next_local=int(now) + 2)
    apus.start_send()
    home.maildir().expect(1, deadline=10)
    assert 1.0 < time.time() - now < 6


def test_next_hop_down_then_up(home, apus):
    """50 messages are deferred; when the server is there, ALRM brings them all."""
    port = free_port()
    home.control(smtproutes=f":127.0.0.1:{port}", concurrencyremote=20)
    apus.start()
    with apus.smtp() as client:
        for n in range(50):
            client.sendmail("s@elsewhere.test", [f"r{n}@far.test"], f"Subject: {n}\r\n\r\n{n}\r\n")
    apus.log.expect(r"^delivery \d+: deferral", 50, deadline=40)
    assert len([f for f in home.queue_files() if f.startswith("mess/")]) == 50
    assert apus.log.find(r"deferral: Sorry,_I_wasn't_able_to_establish_an_SMTP_connection\._\(#4\.4\.1\)/$")
    with Server(port=port) as server:
        apus.alarm()
        apus.settle()
        assert sorted(server.recipients()) == sorted(f"r{n}@far.test" for n in range(50))
        for message in server.messages:
            assert message.text.endswith(b"\n" + message.recipients[0].split("@")[0][1:].encode() + b"\n")


def test_crash_means_retry_at_once(home, apus):
    """Without a clean exit the mtimes are in the past."""
    port = free_port()
    home.control(smtproutes=f":127.0.0.1:{port}")
    home.enqueue(b"x\n", "s@elsewhere.test", ["r@far.test"])
    apus.start_send()
    apus.log.expect("deferral")
    apus.sender.stop(signal.SIGKILL)
    wait("the children to end", lambda: not home.pids("send", "lspawn", "rspawn", "clean", "todo"))
    with Server(port=port) as server:
        apus.start_send()
        apus.settle()
        assert server.recipients() == ["r@far.test"]


# The end of a message's life -------------------------------------------------------------------------------


QSBMF = rb"""Date: [^\n]+
From: MAILER-DAEMON@home\.test
To: %(to)s
Subject: failure notice

Hi\. This is the qmail-send program at home\.test\.
[^\n]+
(?:[^\n]+
)?
"""


def notice(message, to, kind=b"copy of the message"):
    """(recipient paragraphs, return path, original) of a notice; asserts its form (send.md 10)."""
    text = message.text
    head = re.match(QSBMF % {b"to": re.escape(to.encode())}, text)
    assert head, text[:500]
    body, original = text[head.end():].split(b"--- Below this line is " + (b"a " if kind[:4] == b"copy" else b"the ") + kind + b".\n\n", 1)
    paragraphs = [p for p in body.split(b"\n\n") if p]
    assert all(p.startswith(b"<") for p in paragraphs), paragraphs
    first, rest = original.split(b"\n", 1)
    assert first.startswith(b"Return-Path: <") and first.endswith(b">")
    assert b" for bounce)" in message.queue_line or b" by uid " in message.queue_line
    return paragraphs, first[len(b"Return-Path: <"):-1].decode(), rest


def test_lifetime_exceeded(home, apus):
    home.control(smtproutes=f":127.0.0.1:{free_port()}")
    home.alias("later", "|echo not today; exit 111")
    now = int(time.time())
    number = home.put("S5", b"Subject: old\n\nold\n", "back@home.test", local=["later@home.test"], remote=["r@far.test"],
                      birth=now - LIFETIME - 5)
    young = home.put("S5", b"x\n", "young@home.test", local=["later@home.test"], birth=now - LIFETIME + 30)
    apus.start_send()
    (message,) = home.maildir().expect(1)
    assert (message.return_path, message.delivered_to) == ("", "back@home.test")
    paragraphs, sender, original = notice(message, "back@home.test")
    tail = b"I'm not going to try again; this message has been in the queue too long."
    assert sorted(p.split(b"\n")[0] for p in paragraphs) == [b"<later@home.test>:", b"<r@far.test>:"]
    assert all(p.endswith(b"\n" + tail) for p in paragraphs)
    assert any(b"not today" in p for p in paragraphs)
    assert sender == "back@home.test"
    assert original.endswith(b"Subject: old\n\nold\n") and original.startswith(b"Received: (qmail 4711 invoked by uid 1000)")
    apus.log.expect(rf"^bounce msg {number} qp \d+$")
    apus.log.expect(rf"^end msg {number}$")
    wait("the young one alone in the queue", lambda: [f for f in home.queue_files() if f.startswith("mess/")]
         == [f"mess/{young % SPLIT}/{young}"])
    failures = apus.log.find(r"^delivery \d+: failure: .*too_long\./$")
    assert len(failures) == 2


def test_queuelifetime(home, apus):
    """The control file decides; touching info prolongs life."""
    home.control(queuelifetime=1000)
    home.alias("later", "|exit 111")
    now = int(time.time())
    home.put("S5", b"x\n", "old@home.test", local=["later@home.test"], birth=now - 1010)
    home.put("S5", b"x\n", "young@home.test", local=["later@home.test"], birth=now - 900)
    apus.start_send()
    assert [m.delivered_to for m in home.maildir().expect(1)] == ["old@home.test"]


def test_double_bounce(home, apus):
    """The bounce itself fails: double bounce to postmaster, from #@[]."""
    home.control(smtproutes=f":127.0.0.1:{free_port()}")
    home.alias("gone", "|echo gone; exit 100")
    home.alias("postmaster", "./Maildir-postmaster/")
    apus.start()
    apus.send(b"Subject: x\n\nx\n", sender="gone@home.test", recipients=["gone@home.test"])
    (message,) = home.maildir("Maildir-postmaster").expect(1)
    assert (message.return_path, message.delivered_to) == ("#@[]", "postmaster@home.test")
    paragraphs, sender, original = notice(message, "postmaster@home.test", b"original bounce")
    assert [p.split(b"\n")[0] for p in paragraphs] == [b"<gone@home.test>:"]
    assert sender == ""
    # within it the first bounce, and within that the message
    assert b"\nSubject: failure notice\n" in original and b"Return-Path: <gone@home.test>\n" in original
    apus.settle()
    assert len(home.maildir()) == 0


def test_doublebounceto_and_host(home, apus):
    home.control(doublebounceto="doctor", doublebouncehost="home.test", bouncefrom="MOTHER", bouncehost="bounce.test")
    home.alias("gone", "|exit 100")
    home.alias("doctor", "./Maildir-doctor/")
    home.enqueue(b"x\n", "gone@home.test", ["gone@home.test"])
    apus.start_send()
    (message,) = home.maildir("Maildir-doctor").expect(1)
    assert message.delivered_to == "doctor@home.test"
    assert b"\nFrom: MOTHER@bounce.test\nTo: doctor@home.test\n" in message.text
    assert b"\n\nHi. This is the qmail-send program at bounce.test.\n" in message.text


def test_triple_bounce_is_discarded_and_logged(home, apus):
    home.alias("gone", "|exit 100")
    home.alias("postmaster", "|exit 100")
    home.enqueue(b"x\n", "gone@home.test", ["gone@home.test"])
    apus.start_send()
    apus.settle()
    assert apus.log.find(r"^triple bounce: discarding bounce/\d+$")
    assert len(apus.log.find(r"^bounce msg \d+ qp \d+$")) == 2
    assert apus.log.facts(program="send", event="triple_bounce_discarded")
    assert len(home.maildir()) == 0


@pytest.mark.parametrize("sender, to", [
    ("own-@home.test-@[]", "own-@home.test"), ("own@home.test", "own@home.test"), ("own-@home.test", "own-@home.test"),
])
def test_notice_goes_to_the_owner(home, apus, sender, to):
    home.alias("gone", "|exit 100")
    home.enqueue(b"x\n", sender, ["gone@home.test"])
    apus.start_send()
    (message,) = home.maildir().expect(1)
    assert message.delivered_to == to
    assert b"\nReturn-Path: <" + to.encode() + b">\n" in message.text


def test_notice_names_the_recipient_without_virtualdomain_prefix(home, apus):
    home.control(virtualdomains="virtual.test:list")
    home.alias("list-default", "|exit 100")
    home.enqueue(b"x\n", "back@home.test", ["joe@virtual.test"])
    apus.start_send()
    (message,) = home.maildir().expect(1)
    assert b"\n<joe@virtual.test>:\n" in message.text


def test_bounce_with_queue_failing_is_kept(home, apus):
    """Injection fails: warning, bounce/N kept, tried again later."""
    home.alias("gone", "|echo reason; exit 100")
    number = home.put("S5", b"x\n", "back@home.test", local=["gone@home.test"], birth=int(time.time()))
    queue = home.program("queue")
    queue.rename(queue.with_name("kept"))
    queue.write_text("#!/bin/sh\ncat >/dev/null; cat <&1 >/dev/null; exit 53\n")
    queue.chmod(0o755)
    apus.start_send()
    apus.log.expect("^warning: trouble injecting bounce message, will try later")
    assert home.file("bounce", number).read_bytes() == b"<gone@home.test>:\nreason\n\n"
    apus.stop_send()
    queue.with_name("kept").rename(queue)
    apus.start_send()
    (message,) = home.maildir().expect(1)
    assert b"\n<gone@home.test>:\nreason\n\n" in message.text
    apus.settle()


def test_hostile_report_in_a_notice(home, apus):
    """Blank lines, dashes and forged paragraphs in a report do not end or add a paragraph."""
    home.alias("evil", "|printf '\\n\\n--- Below this line is a copy of the message.\\n\\n<innocent@x.test>:\\nforged\\n\\n\\n'; exit 100")
    home.enqueue(b"x\n", "back@home.test", ["evil@home.test"])
    apus.start_send()
    (message,) = home.maildir().expect(1)
    paragraphs = message.text.split(b"\n\n")
    starts = [p.split(b"\n")[0] for p in paragraphs]
    assert b"<innocent@x.test>:" not in starts
    assert starts.count(b"<evil@home.test>:") == 1
    assert sum(s.startswith(b"--- Below") for s in starts) == 1
