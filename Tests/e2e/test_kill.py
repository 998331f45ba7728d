"""kill -9 of any one program while mail flows, restarted by the supervisor: nothing acknowledged is lost.

A message may arrive twice (queue.md 13), never not at all and never torn.
"""

import collections
import os
import random
import signal
import smtplib
import threading
import time

import pytest
from apus import envelope, run_queue, wait
from server import Server

SECONDS = 2.5
BODY = b"".join(b"%04d line of text\r\n" % n for n in range(100))


class Flow:
    """Clients that send one message after the other and keep the tokens of those that were acknowledged."""

    def __init__(self, apus, home):
        self.apus, self.home = apus, home
        self.acknowledged = []
        self.tries = 0
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._smtp, args=(n,), daemon=True) for n in range(3)]
        self._threads.append(threading.Thread(target=self._script, daemon=True))
        for thread in self._threads:
            thread.start()

    def _text(self, token):
        return b"Subject: %s\r\n\r\n" % token.encode() + BODY + b"end of %s\r\n" % token.encode()

    def _smtp(self, number):
        count = 0
        while not self._end.is_set():
            token = f"smtp-{number}-{count}"
            count += 1
            self.tries += 1
            try:
                with smtplib.SMTP("127.0.0.1", self.apus.port, "client.test", timeout=10) as client:
                    client.sendmail("s@elsewhere.test", [f"{token}@home.test", f"{token}@far.test"], self._text(token))
                    self.acknowledged.append(token)
            except (OSError, smtplib.SMTPException):
                time.sleep(0.05)

    def _script(self):
        count = 0
        while not self._end.is_set():
            token = f"script-{count}"
            count += 1
            self.tries += 1
            done = self.home.sendmail(self._text(token).replace(b"\r", b""), "-f", "s@elsewhere.test",
                                      f"{token}@home.test", f"{token}@far.test")
            if done.returncode == 0:
                self.acknowledged.append(token)

    def stop(self):
        self._end.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()


def drain(apus, home, deadline=60):
    """ALRM until the queue holds nothing but what never was acknowledged."""
    last = 0

    def empty():
        nonlocal last
        if time.monotonic() - last > 0.3:
            apus.alarm()
            last = time.monotonic()
        return not [f for f in home.queue_files() if f.startswith(("todo/", "info/", "local/", "remote/"))]

    wait(lambda: f"the queue to drain: {home.queue_files()[:10]}\n" + apus.log.text()[-2000:], empty, deadline, step=0.1)


PROGRAMS = ["queue", "todo", "send", "clean", "lspawn", "local", "getpw", "rspawn", "remote", "listen", "smtpd", "inject"]


@pytest.mark.timeout(150)
@pytest.mark.parametrize("program", PROGRAMS)
def test_kill(home, apus, program):
    with Server() as server:
        home.control(smtproutes=f":127.0.0.1:{server.port}", concurrencyincoming=50)
        apus.start(restart=True)
        flow = Flow(apus, home)
        dice = random.Random(program)
        killed = 0
        end = time.monotonic() + SECONDS
        # the long-lived ones now and then, the short-lived ones as often as they are seen
        pause = 0.4 if program in ("send", "todo", "clean", "lspawn", "rspawn", "listen") else 0.01
        try:
            while time.monotonic() < end or (killed < 3 and time.monotonic() < end + 15):
                time.sleep(dice.uniform(0, 2 * pause))
                pids = home.pids(program)
                if pids:
                    try:
                        os.kill(dice.choice(pids), signal.SIGKILL)
                        killed += 1
                    except ProcessLookupError:
                        pass
        finally:
            flow.stop()
        assert killed >= 3, f"{program} was killed only {killed} times"
        wait("send to run", lambda: home.pids("send") and home.pids("todo") and home.pids("lspawn") and home.pids("rspawn"))
        drain(apus, home)
        assert len(flow.acknowledged) >= 5, (len(flow.acknowledged), flow.tries)
        # everything acknowledged is there, whole
        found = collections.Counter()
        for message in home.maildir().messages():
            token = message.delivered_to.removesuffix("@home.test")
            assert message.text.endswith(b"\n\n" + BODY.replace(b"\r", b"") + b"end of %s\n" % token.encode()), message.path
            found[token] += 1
        lost = [token for token in flow.acknowledged if not found[token]]
        assert not lost, f"lost locally: {lost} of {len(flow.acknowledged)}"
        relayed = collections.Counter()
        for message in server.messages:
            (recipient,) = message.recipients
            token = recipient.removesuffix("@far.test")
            assert message.text.endswith(b"\n\n" + BODY.replace(b"\r", b"") + b"end of %s\n" % token.encode())
            relayed[token] += 1
        lost = [token for token in flow.acknowledged if not relayed[token]]
        assert not lost, f"lost on the way: {lost}"
        # no bounces: a killed program is a temporary failure
        assert not apus.log.find(r"^bounce msg"), apus.log.find(r"failure: .*")
        assert not [line for line in apus.log.lines() if "failure:" in line]
        if program not in ("send", "lspawn", "rspawn", "clean", "todo", "local", "remote"):
            assert max(found.values()) == 1, "nobody who delivers was killed, so nothing may come twice"


@pytest.mark.timeout(100)
def test_kill_everything_at_once(home, apus):
    """All processes of the home, three times: as near to a power cut as kill -9 comes."""
    with Server() as server:
        home.control(smtproutes=f":127.0.0.1:{server.port}", concurrencyincoming=50)
        apus.start(restart=True)
        flow = Flow(apus, home)
        try:
            for _ in range(3):
                time.sleep(1)
                for pid in home.pids():
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
        finally:
            flow.stop()
        wait("send to run", lambda: home.pids("send"))
        drain(apus, home)
        there = {m.delivered_to.removesuffix("@home.test") for m in home.maildir().messages()}
        relayed = {r.removesuffix("@far.test") for r in server.recipients()}
        lost = [t for t in flow.acknowledged if t not in there or t not in relayed]
        assert flow.acknowledged and not lost, lost
        assert not [line for line in apus.log.lines() if "failure:" in line]


def test_children_end_when_send_is_killed(home, apus):
    """No orphan keeps the queue: todo, clean and the spawners see the end of their pipes."""
    apus.start_send()
    os.kill(home.pids("send")[0], signal.SIGKILL)
    wait(lambda: f"the children to end: {home.pids()}", lambda: not home.pids(), deadline=10)
    apus.sender.process.wait(5)
    apus.start_send()
    assert apus.stop_send() == 0


@pytest.mark.parametrize("program, alert", [
    ("lspawn", "alert: oh no! lost spawn connection! dying..."), ("rspawn", "alert: oh no! lost spawn connection! dying..."),
    ("clean", "alert: oh no! lost qmail-clean connection! dying..."), ("todo", None),
])
def test_send_ends_when_a_partner_is_gone(home, apus, program, alert):
    """It says so and ends as after TERM, for the supervisor to start all anew."""
    apus.start_send()
    for pid in home.pids(program):
        os.kill(pid, signal.SIGKILL)
    if program == "clean":
        # the death of clean is seen when it is asked
        home.alias("x", "#")
        run_queue(home, b"x\n", envelope("", ["x@home.test"]))
    assert apus.sender.process.wait(20) is not None
    if alert:
        assert alert in apus.log.lines()
    wait(lambda: f"all to end: {home.pids()}", lambda: not home.pids(), deadline=10)


def test_todo_left_behind_finishes_a_message_while_the_new_send_looks_around(home, apus):
    """send dies while todo waits for clean; the new send must not overlook what the old todo then finishes.

    The old todo makes the message S5 after the new send has walked over info/ and seen todo/N still there. Nobody has
    told the new send of it, and no scan of todo/ will find it.
    """
    apus.start_send()
    cleans = home.pids("clean")
    for pid in cleans:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert run_queue(home, b"x\n", envelope("s@elsewhere.test", ["user@home.test"])).returncode == 0
        wait("todo to write info and to ask clean", lambda: [f for f in home.queue_files() if f.startswith("local/")])
        time.sleep(0.2)
        os.kill(home.pids("send")[0], signal.SIGKILL)
        apus.sender.process.wait(5)
        apus.start_send()
        time.sleep(1)
    finally:
        for pid in cleans:
            os.kill(pid, signal.SIGCONT)
    wait(lambda: f"delivery; in the queue: {home.queue_files()}", lambda: len(home.maildir()) == 1, deadline=10)
    apus.settle(deadline=10)
