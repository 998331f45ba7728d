"""Junk in control files of all programs: the documented error or default, a warning where control.md has one, no crash."""

import contextlib
import os
import random
import re
import signal
import socket
import subprocess

import pytest
from apus import Raw, assert_no_crash, free_port, wait

MEGABYTE = 1 << 20


def words(log):
    """A log with the blanks of key=value lines restored."""
    return log.replace("_", " ")


GOOD = {
    "me": b"home.test\n", "locals": b"home.test\n", "rcpthosts": b"home.test\nfar.test\n",
    "virtualdomains": b"virtual.test:alias\n", "percenthack": b"hack.test\n", "envnoathost": b"home.test\n",
    "concurrencylocal": b"5\n", "concurrencyremote": b"5\n", "queuelifetime": b"1000\n", "bouncefrom": b"MAILER-DAEMON\n",
    "bouncehost": b"home.test\n", "doublebounceto": b"postmaster\n", "doublebouncehost": b"home.test\n",
    "bouncemaxbytes": b"1000\n", "badmailfrom": b"bad@bad.test\n", "databytes": b"1000000\n", "localiphost": b"home.test\n",
    "smtpgreeting": b"home.test\n", "timeoutsmtpd": b"100\n", "smtpsessiontime": b"100\n", "maxrcpt": b"100\n",
    "smtpsofterrors": b"10\n", "smtpharderrors": b"20\n", "smtperrorsleep": b"1\n", "helohost": b"home.test\n",
    "timeoutconnect": b"10\n", "timeoutremote": b"10\n", "defaultdomain": b"test\n", "defaulthost": b"home.test\n",
    "idhost": b"home.test\n", "plusdomain": b"test\n", "rules.smtp": b"127.:allow\n", "concurrencyincoming": b"20\n",
    "concurrencyperip": b"10\n",
}
NUMBERS = [name for name, value in GOOD.items() if value.strip().isdigit()]
DIRECTORY = object()
RANDOM = random.Random(5).randbytes(5000)
#: What stands in the file, from what should; and what the warning must say, if it must warn.
JUNK = {
    "CRLF": (lambda good: good.replace(b"\n", b"\r\n"), "CR"),
    "leading blank": (lambda good: b" " + good, "blank|number"),
    "NULs": (lambda good: b"\0" + good[:-1] + b"\0\0\n", None),
    "line of 10 MB": (lambda good: b"x" * (10 * MEGABYTE) + b"\n" + good, None),
    "negative": (lambda good: b"-1\n", None),
    "huge number": (lambda good: b"99999999999999999999999999\n", None),
    "word": (lambda good: b"ten\n", None),
    "random bytes": (lambda good: RANDOM, None),
    "empty": (lambda good: b"", None),
    "directory": (lambda good: DIRECTORY, None),
}
NO_NUMBER = {"NULs", "line of 10 MB", "negative", "huge number", "word", "random bytes"}


@contextlib.contextmanager
def spoilt(home, kind, *names):
    """Control files as the kind of junk makes them; put right afterwards."""
    before = {}
    for name in names:
        file = home.path / "control" / name
        before[name] = file.read_bytes() if file.exists() else None
        content = JUNK[kind][0](before[name] or GOOD.get(name, b"x\n"))
        file.unlink(missing_ok=True)
        if content is DIRECTORY:
            file.mkdir()
        else:
            file.write_bytes(content)
    try:
        yield
    finally:
        for name, content in before.items():
            file = home.path / "control" / name
            if file.is_dir():
                file.rmdir()
            home.control(**{name: content})


def assert_warned(log, kind, names):
    """A warning line for each file where spec control.md says so."""
    pattern = JUNK[kind][1]
    for name in names:
        expected = "not a number" if kind in NO_NUMBER and name in NUMBERS else pattern
        if expected:
            assert re.search(rf"control/{re.escape(name)}: .*({expected})", words(log)), (name, log[-3000:])


SMTPD_FILES = [
    "me", "badmailfrom", "databytes", "localiphost", "rcpthosts", "smtpgreeting", "timeoutsmtpd", "smtpsessiontime",
    "maxrcpt", "smtpsofterrors", "smtpharderrors", "smtperrorsleep", "envnoathost", "morercpthosts.cdb",
]


@pytest.mark.parametrize("kind", JUNK)
def test_control_files_of_smtpd(home, kind):
    queued = 0
    for name in SMTPD_FILES:
        with spoilt(home, kind, name):
            greeting, accepted, code, log = smtp_session(home)
            if kind == "directory":
                assert greeting == "421 unable to read controls (#4.3.0)" and code == 1, (name, greeting)
                assert f"control/{name}: " in words(log)
            else:
                # A greeting that would be empty, and a broken cdb that is asked, are errors too.
                assert greeting[:3] in ("220", "421"), (name, greeting[:100])
                assert code == (0 if greeting[:3] == "220" and accepted is not None else 1), (name, code)
                if name != "morercpthosts.cdb":
                    assert_warned(log, kind, [name])
            queued += bool(accepted)
            assert len(os.listdir(home.queue / "todo")) == queued, "acknowledged is queued, else nothing is"
    if kind != "directory":
        assert queued >= len(SMTPD_FILES) - 4


def smtp_session(home):
    """(greeting, whether the message was acknowledged or None if the server broke off, exit status, log) of one smtpd."""
    ours, theirs = socket.socketpair()
    with subprocess.Popen([str(home.program("smtpd"))], stdin=theirs, stdout=theirs, stderr=subprocess.PIPE,
                          env=home.environment(TCPREMOTEIP="192.0.2.7"), cwd="/") as process, Raw.on(ours, 30) as client:
        theirs.close()
        greeting = client.reply()
        accepted = None
        if greeting.startswith("220"):
            replies = [client.ask(c) for c in ("EHLO x.test", "MAIL FROM:<s@elsewhere.test>", "RCPT TO:<user@home.test>")]
            if None not in replies:
                accepted = False
                if replies[2].startswith("250") and client.ask("DATA").startswith("354"):
                    accepted = client.ask(b"Subject: x\r\n\r\nx\r\n.\r\n").startswith("250")
                assert client.ask("QUIT").startswith("221")
        client.close()
        log = process.stderr.read().decode("latin-1")
        return greeting, accepted, process.wait(30), log


SEND_FILES = [
    "me", "locals", "virtualdomains", "percenthack", "envnoathost", "concurrencylocal", "concurrencyremote",
    "queuelifetime", "bouncefrom", "bouncehost", "doublebounceto", "doublebouncehost", "bouncemaxbytes",
]


@pytest.mark.parametrize("kind", [kind for kind in JUNK if kind != "directory"])
def test_control_files_of_send_and_todo(home, far, apus, kind):
    """Both recipients are tried, wherever the junk leads them; with good files again, all that waited is delivered."""
    for number, names in enumerate([SEND_FILES[1:], ["me"], ["locals"], ["concurrencyremote"]], 1):
        home.enqueue(b"Subject: x\n\nx\n", "s@elsewhere.test", ["user@home.test", "user@virtual.test"])
        with spoilt(home, kind, *names):
            with open(apus.log.path, "wb"):
                pass
            apus.start_send()
            apus.log.expect(r"^delivery \d+: (success|deferral): ", 2)
            assert apus.stop_send() == 0
            assert_warned(apus.log.text(), kind, names)
            assert_no_crash(apus)
        apus.start_send()

        def delivered():
            apus.alarm()
            return home.queue_is_empty()

        wait(lambda: f"all, after {names}:\n" + apus.log.text()[-2000:], delivered, step=0.2)
        assert apus.stop_send() == 0
        assert not apus.log.find("failure"), "bad files are no reason to give up mail"
        assert len(home.maildir()) + len(far.messages) == 2 * number


def test_control_file_of_send_and_todo_that_is_a_directory(home, apus):
    home.enqueue(b"Subject: x\n\nx\n", "s@elsewhere.test", ["user@home.test"])
    for name in SEND_FILES:
        with spoilt(home, "directory", name):
            apus.sender.start()
            assert apus.sender.process.wait(20) == 111, name
            wait("the others to end", lambda: not home.pids())
            assert "alert: cannot start: unable to read controls\n" in apus.log.text()
            apus.log.path.unlink()
    apus.start_send()
    home.maildir().expect(1)
    # Files that HUP rereads: the old data stay.
    for number, name in enumerate(["locals", "virtualdomains"], 2):
        with spoilt(home, "directory", name):
            os.kill(apus.sender.process.pid, signal.SIGHUP)
            apus.log.expect(f"^alert: unable to reread control/{name}$")
            home.enqueue(b"Subject: x\n\nx\n", "s@elsewhere.test", ["user@home.test"])
            home.maildir().expect(number)


REMOTE_FILES = ["me", "helohost", "smtproutes", "timeoutconnect", "timeoutremote", "dnsservers"]


@pytest.mark.parametrize("kind", JUNK)
def test_control_files_of_remote(home, far, kind):
    home.control(dnsservers="127.0.0.1:1")  # there is nobody: routes are all there is
    taken = 0
    for name in REMOTE_FILES:
        with spoilt(home, kind, name):
            done = home.run("remote", "far.test", "s@elsewhere.test", "user@far.test", input=b"Subject: x\n\nx\n")
        assert done.returncode == 0 and done.stderr == b"", (name, done)
        report = re.fullmatch(rb"(?:[rhs][^\0]*\0)*([KZD])[^\0]*\0", done.stdout)
        assert report, (name, done.stdout[:300])
        if kind == "directory":
            assert done.stdout == b"ZUnable to read control files. (#4.3.0)\n\0", (name, done.stdout)
        taken += report[1] == b"K"
        wait(f"what was accepted, with {name}", lambda: len(far.messages) == taken)
        assert report[1] != b"D", (name, done.stdout[:300], "bad files are no reason to give up mail")
    assert kind == "directory" or taken >= 3
    for session in far.sessions:
        assert all(re.fullmatch(r"[ -~]*", command) for command in session.commands)


INJECT_FILES = ["me", "defaultdomain", "defaulthost", "idhost", "plusdomain"]


@pytest.mark.parametrize("kind", JUNK)
def test_control_files_of_inject(home, kind):
    home.control(**{name: GOOD[name] for name in INJECT_FILES})
    for name in INJECT_FILES:
        with spoilt(home, kind, name):
            done = home.run("inject", "-n", input=b"To: you, u@cs+, u@h\n\nx\n", env={"USER": "joe"})
        if kind == "directory":
            assert done.returncode == 111 and done.stderr.startswith(b"qmail-inject: fatal: "), (name, done)
            assert name.encode() in done.stderr
        elif kind in ("NULs", "random bytes"):
            assert done.returncode in (0, 111), (name, done)
        else:
            assert done.returncode in (0, 100, 111), (name, done.stderr[:300])
            if done.returncode == 0:
                assert_warned(done.stderr.decode(), kind, [name])
                assert done.stdout.endswith(b"\n\nx\n")
        if done.returncode:
            assert done.stderr.startswith((b"qmail-inject: fatal: ", b"qmail-inject: warning: ")), done.stderr[:300]


LISTEN_FILES = ["listen", "rules.smtp", "concurrencyincoming", "concurrencyperip", "me"]


@pytest.mark.parametrize("kind", JUNK)
def test_control_files_of_listen(home, apus, kind):
    apus.port = free_port()
    home.control(listen=f"smtp 127.0.0.1:{apus.port}")
    for name in LISTEN_FILES:
        with spoilt(home, kind, name):
            apus.listener.start()
            process = apus.listener.process
            if (name, kind) == ("me", "line of 10 MB"):
                # Too long for the environment of smtpd (execve(2)): no conversation, and the log says why.
                wait("the port", apus.accepts)
                apus.smtp_log.expect("^listen event=failed what=bin/apus-smtpd ")
                assert apus.listener.stop() == 0
                continue
            greeting = wait(f"listen with {name}", lambda: process.poll() is not None or greeted(apus.port))
            if process.poll() is None:
                assert greeting in ("220", "421")
                assert apus.listener.stop() == 0
                log = apus.smtp_log.text()
                if name != "me":
                    assert_warned(log, kind, [name])
            else:
                log = apus.smtp_log.text()
                assert process.returncode == 111, (name, process.returncode)
                assert re.search(r"(?m)^listen event=failed ", log), log[-2000:]
                assert name in ("listen", "rules.smtp") or kind == "directory", (name, log[-2000:])
            assert_no_crash(apus)
        apus.smtp_log.path.unlink(missing_ok=True)


def greeted(port):
    """The code of the first reply; nothing if there is none."""
    with contextlib.suppress(OSError), Raw(port) as client:
        return (client.reply() or "")[:3]
