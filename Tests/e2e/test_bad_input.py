"""Bad input: junk in control files and in the queue, lines of 10 MB, NULs, endless headers and envelopes, 200 MB.

Each gets the documented error; nothing is lost, nothing crashes, and memory stays bounded.
"""

import os
import random
import re
import subprocess
import threading
import time

import pytest
from apus import Raw, envelope, run_queue, wait

MB = 1 << 20
JUNK = {
    "binary": bytes(range(256)) * 20, "NULs": bytes(1000), "empty": b"", "blank lines": b"\n \n\t\n", "CRLF": b"x.test\r\ny.test\r\n",
    "10 MB line": b"x" * (10 * MB), "10 MB of short lines": b"a.test\n" * (10 * MB // 7), "no LF": b"x.test",
    "colons": b":::\n::\n:x:y:z\n", "numbers": b"-1\n", "word": b"ten\n", "huge number": b"9" * 400 + b"\n",
}
SEND_FILES = ["bouncefrom", "bouncehost", "concurrencylocal", "concurrencyremote", "doublebouncehost", "doublebounceto",
              "envnoathost", "percenthack", "queuelifetime", "virtualdomains"]
SMTPD_FILES = ["badmailfrom", "databytes", "localiphost", "smtpgreeting", "timeoutsmtpd", "maxrcpt", "smtpsofterrors",
               "smtpharderrors", "smtperrorsleep", "rcpthosts", "morercpthosts.cdb"]
REMOTE_FILES = ["helohost", "smtproutes", "timeoutconnect", "timeoutremote", "dnsservers"]
INJECT_FILES = ["defaultdomain", "defaulthost", "idhost", "plusdomain"]


class Watch:
    """The highest resident memory, in bytes, that each program of a home was seen with."""

    def __init__(self, home):
        self.home, self.peaks = home, {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        while not self._end.is_set():
            for pid in self.home.pids():
                try:
                    name = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
                    status = open(f"/proc/{pid}/status").read()
                except OSError:
                    continue
                # between fork and exec a child looks like its parent; that is the parent's memory
                peak = re.search(r"VmHWM:\s+(\d+) kB", status)
                if peak:
                    self.peaks[name] = max(self.peaks.get(name, 0), int(peak[1]) * 1024)
            time.sleep(0.02)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()


def no_crash(code):
    assert code >= 0, f"ended by signal {-code}"


# Control files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("junk", JUNK)
def test_junk_in_smtpd_control_files(home, junk):
    """A greeting or `421 unable to read controls`; never a crash, a forged line, or an open relay."""
    for name in SMTPD_FILES:
        file = home.path / "control" / name
        before = file.read_bytes() if file.exists() else None
        file.write_bytes(JUNK[junk])
        done = home.run("smtpd", input=b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<r@never.test>\r\nQUIT\r\n", timeout=60)
        no_crash(done.returncode)
        lines = done.stdout.split(b"\r\n")
        assert lines.pop() == b"" and all(re.match(rb"\d{3}[ -]", line) for line in lines), (name, lines[:5])
        assert lines[0].startswith((b"220 ", b"421 ")), (name, lines[0][:100])
        # after MAIL nobody may be accepted whom rcpthosts does not name
        assert not any(line.startswith(b"250 2.1.5") for line in lines), (name, lines)
        file.unlink() if before is None else file.write_bytes(before)


@pytest.mark.parametrize("junk", JUNK)
def test_junk_in_remote_and_inject_control_files(home, junk):
    home.control(smtproutes=":127.0.0.1:1", timeoutconnect=2)
    for name in REMOTE_FILES:
        file = home.path / "control" / name
        before = file.read_bytes() if file.exists() else None
        file.write_bytes(JUNK[junk])
        if name in ("smtproutes", "dnsservers"):
            home.control(**({"smtproutes": "far.test:[192.0.2.300]"} if name == "dnsservers" else {}))
        done = home.run("remote", "127.0.0.1", "s@a.test", "r@127.0.0.1", input=b"x\n", timeout=60)
        assert done.returncode == 0, (name, done)
        assert done.stdout[:1] in b"ZD" and done.stdout.endswith(b"\0"), (name, done.stdout[:200])
        file.unlink() if before is None else file.write_bytes(before)
        home.control(smtproutes=":127.0.0.1:1")
    for name in INJECT_FILES:
        file = home.path / "control" / name
        file.write_bytes(JUNK[junk])
        done = home.run("inject", "-n", "user", input=b"Subject: x\n\nx\n", timeout=60)
        assert done.returncode in (0, 100, 111), (name, done.returncode, done.stderr[:200])
        file.unlink()


@pytest.mark.parametrize("junk", JUNK)
def test_junk_in_control_files_of_send(home, apus, junk):
    """All at once: it starts, or says why not; and what can be delivered is delivered."""
    for name in SEND_FILES:
        (home.path / "control" / name).write_bytes(JUNK[junk])
    number = home.enqueue(b"x\n", "s@elsewhere.test", ["user@home.test"])
    process = apus._start_sender()
    apus.sender.process = process
    wait(lambda: f"start or refusal: {apus.log.text()[-500:]}", lambda: apus.log.find("^status: local") or process.poll() is not None)
    if process.poll() is not None:
        assert process.returncode == 111
        assert "alert: cannot start: unable to read controls" in apus.log.lines()
    else:
        wait(lambda: f"delivery: {apus.log.text()[-800:]}", lambda: len(home.maildir()) == 1)
        process.terminate()
        assert process.wait(20) == 0
        return
    assert home.file("mess", number).exists()


@pytest.mark.parametrize("value, limit", [("-1", 10), ("ten", 10), ("", 10), (" 5", 10), ("7 of them", 7), ("5\r", 5), ("999999", 120)])
def test_numbers(home, apus, value, limit):
    """control.md 1: leading digits, else the default; the spawner's byte is the most."""
    (home.path / "control" / "concurrencylocal").write_text(value + "\n")
    apus.start_send()
    assert apus.log.find(rf"^status: local 0/{limit} remote 0/20$"), apus.log.text()


@pytest.mark.parametrize("text, lines", [
    (b"home.test\r\n", 1), (b" home.test\n", 1), (b"ten\n", 1),
])
def test_odd_control_files_are_logged(home, apus, text, lines):
    name = "concurrencylocal" if text == b"ten\n" else "percenthack"
    (home.path / "control" / name).write_bytes(text)
    apus.start_send()
    assert apus.log.find(rf"control[/_]{name}"), apus.log.text()


def test_no_me_and_no_locals(home, apus):
    home.control(me=None, locals=None)
    process = apus._start_sender()
    apus.sender.process = process
    assert process.wait(20) == 111
    assert "alert: cannot start: unable to read controls" in apus.log.lines()


# In the queue ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [
    b"", b"\0", b"junk", b"u1\0p2\0", b"Fs@a.test\0Xjunk\0Tuser@home.test\0", b"ux\0py\0Fs@a.test\0Tuser@home.test\0",
    b"Tuser@home.test\0", bytes(range(256)) * 100, b"Fs@a.test\0T" + b"x" * (10 * MB) + b"\0", b"F" + b"y" * (10 * MB),
], ids=["empty", "NUL", "no NUL", "no F", "unknown letter", "bad numbers", "T first", "binary", "10 MB recipient", "10 MB sender"])
def test_damaged_todo_file_does_not_stop_the_others(home, apus, content):
    number = home.put("S4", recipients=["user@home.test"])
    home.file("todo", number).unlink()
    home.file("intd", number).unlink()
    home.file("todo", number).write_bytes(content)
    apus.start_send()
    with Watch(home) as watch:
        for n in range(5):
            apus.enqueue(b"x\n", recipients=[f"good{n}@home.test"])
        wait("the good ones", lambda: len([m for m in home.maildir().messages() if m.delivered_to.startswith("good")]) == 5)
    assert home.pids("send") and home.pids("todo")
    assert watch.peaks.get("apus-todo", 0) < 16 * MB, watch.peaks
    # the text is not thrown away, or it ended as a message without a recipient that could be read
    kept = any(str(number) in name for name in home.queue_files())
    assert kept or apus.log.find(rf"^end msg {number}$"), home.queue_files()
    warnings = [line for line in apus.log.lines() if line.startswith("warning")]
    assert len(warnings) < 30, "a damaged file must not fill the log"


def test_todo_without_mess(home, apus):
    (home.queue / "todo" / "12345").write_bytes(b"u0\0p1\0Fs@a.test\0Tuser@home.test\0")
    apus.start_send()
    apus.enqueue(b"x\n")
    home.maildir().expect(1)
    assert apus.log.find("^warning: unable to stat mess/17/12345")


@pytest.mark.parametrize("kind, content", [
    ("info", b""), ("info", b"junk\0"), ("info", b"Fno end"), ("info", bytes(1000)),
    ("local", b""), ("local", b"Xuser@home.test\0"), ("local", b"Tno end"), ("local", bytes(1000)), ("local", b"T\0"),
    ("local", b"T" + b"z" * (10 * MB) + b"\0"), ("bounce", bytes(range(256)) * 10), ("bounce", b""),
], ids=lambda v: v if isinstance(v, str) else repr(v[:12]))
def test_damaged_s5_files_do_not_stop_the_others(home, apus, kind, content):
    number = home.put("S5", b"x\n", "back@home.test", local=["user@home.test"] if kind != "bounce" else [],
                      birth=int(time.time()) - 10, bounce="b" if kind == "bounce" else None)
    home.file(kind, number).write_bytes(content)
    apus.start_send()
    with Watch(home) as watch:
        apus.enqueue(b"x\n", recipients=["good@home.test"])
        wait("the good one", lambda: [m for m in home.maildir().messages() if m.delivered_to == "good@home.test"])
        time.sleep(0.3)
    assert home.pids("send") and home.pids("todo") and apus.sender.process.poll() is None
    assert watch.peaks["apus-send"] < 24 * MB
    assert len([line for line in apus.log.lines() if line.startswith("warning")]) < 30


HOSTILE = [b"a\nb@home.test", b"a\rb@home.test", b"\x01\x02\x7f@home.test", b"\xff\x80@home.test", b"a%b c@home.test", b"@home.test",
           b"a@", b"@", b"", b"x" * 1002, b"../../../etc/passwd@home.test", b"a/b@home.test", b"-@home.test", b"--@home.test",
           b"user-" + b"e" * 900 + b"@home.test", b"a'`$(x)\"|;@home.test", b"default@home.test", b"." * 500 + b"@home.test"]


def test_hostile_addresses_through_the_queue(home, apus, far):
    """As sender and as recipient: no crash, no forged log line, each either delivered, relayed or bounced."""
    home.control(virtualdomains=None)
    for n, address in enumerate(HOSTILE):
        assert run_queue(home, b"n%d\n" % n, envelope(address, [address, f"good{n}@home.test"])).returncode == 0
    apus.start_send()
    wait("all to be taken up", lambda: len(apus.log.find(r"^info msg ")) >= len(HOSTILE))
    wait(lambda: f"the good recipients; {apus.log.text()[-1500:]}",
         lambda: len([1 for name in home.maildir().names()
                      if re.search(rb"^Delivered-To: good", (home.maildir().path / "new" / name).read_bytes(), re.M)]) == len(HOSTILE))
    for line in apus.log.text().split("\n"):
        assert re.fullmatch(r"[\x20-\x7e]*", line), line
        assert not line or re.match(r"(status:|new msg|info msg|starting delivery|delivery \d+:|end msg|bounce msg|triple|warning:|send |todo )", line), line
    assert home.pids("send") and home.pids("lspawn") and home.pids("rspawn")


# SMTP ------------------------------------------------------------------------------------------------------


@pytest.fixture
def client(running):
    with Raw(running.port, timeout=60) as client:
        assert client.reply().startswith("220 ")
        assert client.ask("EHLO x").startswith("250")
        yield client


def test_addresses_by_smtp(home, running, client):
    """NUL, control bytes, 2,000 bytes: refused, and the session goes on."""
    home.control(smtpsofterrors=0, smtpharderrors=0)
    with Raw(running.port, timeout=60) as client:
        client.reply()
        client.ask("EHLO x")
        for address in (b"a\0b@home.test", b"x" * 2000 + b"@home.test", b"x" * 1_000_000 + b"@home.test", b"\xff" * 1500):
            for verb in (b"MAIL FROM:<", b"RCPT TO:<"):
                reply = client.ask(verb + address + b">\r\n")
                assert reply[0] == "5", (verb, address[:10], reply)
        assert client.ask("MAIL FROM:<ok@a.test>")[:3] == "250"
        for address in (b"\x01\x02@home.test", b"a\tb@home.test", b"\x7f@home.test", b"\xe4@home.test"):
            assert client.ask(b"RCPT TO:<" + address + b">\r\n")[:1] in "25"
        assert client.ask("RCPT TO:<good@home.test>")[:3] == "250"
        assert client.ask("DATA")[:3] == "354"
        assert client.ask(b"x\r\n.\r\n")[:3] == "250"
    wait("the good one", lambda: any("good@home.test" == m.delivered_to for m in home.maildir().messages()))


@pytest.mark.parametrize("body", [b"x" * (10 * MB) + b"\r\n", b"\0" * (10 * MB) + b"\r\n", b"\r\n" * (5 * MB), b"..\r\n" * MB],
                         ids=["one line", "NULs", "empty lines", "dots"])
def test_10_mb_text_by_smtp(home, running, client, body):
    client.ask("MAIL FROM:<s@elsewhere.test>")
    client.ask("RCPT TO:<user@home.test>")
    client.ask("DATA")
    with Watch(home) as watch:
        assert client.ask(b"Subject: x\r\n\r\n" + body + b".\r\n")[:3] == "250"
        (message,) = home.maildir().expect(1)
    stored = body.replace(b"\r\n", b"\n")
    if body.startswith(b"."):
        stored = stored.replace(b"..", b".")
    assert message.from_smtp[1] == b"Subject: x\n\n" + stored
    assert max(watch.peaks.values()) < 16 * MB, watch.peaks


@pytest.mark.parametrize("header", [
    b"X-Endless: " + b"y" * (30 * MB) + b"\r\n", b"X: y\r\n" * (5 * MB), b"X: y\r\n" + b" more\r\n" * (4 * MB),
], ids=["one line", "many fields", "continued for ever"])
def test_header_that_never_ends_by_smtp(home, running, client, header):
    """It goes through as it is, in bounded memory, or is refused with an answer."""
    client.ask("MAIL FROM:<s@elsewhere.test>")
    client.ask("RCPT TO:<user@home.test>")
    client.ask("DATA")
    with Watch(home) as watch:
        reply = client.ask(header + b".\r\n")
        assert reply[:3] in ("250", "552", "554"), reply
        if reply[:3] == "250":
            (message,) = home.maildir().expect(1)
            assert message.from_smtp[1] == header.replace(b"\r\n", b"\n")
    assert max(watch.peaks.values()) < 16 * MB, watch.peaks
    assert client.ask("NOOP")[:3] == "250"


def test_10_mb_command_lines_by_smtp(home, running, client):
    with Watch(home) as watch:
        for command in (b"EHLO ", b"MAIL FROM:<", b"RCPT TO:<", b"X"):
            assert client.ask(command + b"y" * (10 * MB) + b"\r\n")[:3] == "500"
    assert client.ask("NOOP")[:3] == "250"
    assert max(watch.peaks.values()) < 16 * MB, watch.peaks


def test_random_bytes_by_smtp(home, running):
    """Whatever comes, a reply or the end; the listener goes on."""
    dice = random.Random(8)
    home.control(smtpsofterrors=0)
    for _ in range(20):
        with Raw(running.port) as client:
            client.reply()
            try:
                client.write(dice.randbytes(20_000) + b"\r\nQUIT\r\n")
                while (reply := client.reply()) is not None:
                    assert re.match(r"\d{3}[ -]", reply)
            except (ConnectionResetError, BrokenPipeError):
                pass
    assert running.accepts()
    assert running.listener.process.poll() is None


# sendmail --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [
    b"Subject: x\n\n" + b"y" * (10 * MB) + b"\n", b"X: " + b"y" * (10 * MB) + b"\n\nbody\n", b"\0" * 1000 + b"\n\nbody\n",
    b"To: " + b"a@home.test, " * 200_000 + b"\n\nx\n", b"To: " + b"(" * MB + b"\n\nx\n", b"From: " + b"<" * 100_000 + b"\n\nx\n",
    b"X: y\n" * (8 * MB), b"", b"\n", b"no header at all",
], ids=["long body line", "long field", "NULs", "200,000 recipients", "1 MB of parentheses", "angle brackets", "endless header", "empty",
        "one LF", "no header"])
def test_sendmail(home, message):
    """0, 100 or 111, in bounded time and memory, with a word on stderr unless it is 0."""
    done = subprocess.run(
        ["sh", "-c", f"ulimit -v 400000; exec {home.bin}/sendmail -t -f s@elsewhere.test user@home.test"], input=message,
        capture_output=True, timeout=60, env=home.environment(USER="joe"))
    assert done.returncode in (0, 100, 111), done
    if done.returncode == 0:
        assert done.stderr == b"" or done.stderr.startswith(b"qmail-inject: warning: "), done.stderr[:200]
    else:
        assert done.stderr.startswith(b"qmail-inject: fatal: "), done.stderr[:200]
    files = [name for name in home.queue_files() if name.startswith("todo/")]
    assert len(files) == (1 if done.returncode == 0 else 0)


@pytest.mark.parametrize("recipient", ["x" * 2000 + "@home.test", "a\nb@home.test", "\x01\x7f@home.test", "@", "<>", "(", '"', "a@b@c,,;:"])
def test_sendmail_arguments(home, recipient):
    done = home.sendmail(b"Subject: x\n\nx\n", "-f", "s@elsewhere.test", recipient)
    assert done.returncode in (0, 100, 111), done
    if len(recipient) > 1500:
        assert done.returncode == 100 and b"address too long" in done.stderr, done
    assert (done.returncode == 0) == (done.stderr == b""), done


# The queue program -----------------------------------------------------------------------------------------


def test_envelope_without_end(home):
    """30 MB of recipients and no final NUL: bounded memory, 54, nothing left."""
    records = b"Fs@a.test\0" + b"".join(b"Trecipient%08d@b.test\0" % n for n in range(1_200_000))
    with Watch(home) as watch:
        assert run_queue(home, b"x\n", records).returncode == 54
    assert home.queue_is_empty()
    assert watch.peaks["apus-queue"] < 8 * MB, watch.peaks


def test_a_hundred_thousand_recipients(home, apus):
    """The same, but with its end: accepted, and preprocessed in bounded memory."""
    records = envelope("s@elsewhere.test", [f"r{n}@home.test" for n in range(100_000)])
    home.control(concurrencylocal=0)
    assert run_queue(home, b"x\n", records).returncode == 0
    with Watch(home) as watch:
        apus.start_send()
        wait("preprocessing", lambda: not list((home.queue / "todo").iterdir()), deadline=60)
    (name,) = [n for n in home.queue_files() if n.startswith("local/")]
    assert (home.queue / name).read_bytes().count(b"\0") == 100_000
    assert watch.peaks["apus-todo"] < 16 * MB and watch.peaks["apus-send"] < 16 * MB, watch.peaks


# 200 MB ----------------------------------------------------------------------------------------------------


@pytest.mark.timeout(240)
@pytest.mark.parametrize("way", ["smtp", "sendmail"])
def test_200_mb_in_bounded_memory(home, running, far, way, tmp_path):
    """In by SMTP or by sendmail, to a Maildir and to another server; no program needs more than a few MB."""
    line = b"%07d abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz\n"
    count = 200 * MB // len(line % 0) + 1
    text = b"Subject: large\n\n" + b"".join(line % n for n in range(count))
    assert len(text) > 200 * MB
    far.keep = False
    with Watch(home) as watch:
        if way == "smtp":
            with Raw(running.port, timeout=120) as client:
                client.reply()
                client.ask("EHLO x")
                client.ask("MAIL FROM:<s@elsewhere.test>")
                client.ask("RCPT TO:<user@home.test>")
                client.ask("RCPT TO:<r@far.test>")
                client.ask("DATA")
                assert client.ask(text.replace(b"\n", b"\r\n") + b".\r\n")[:3] == "250"
        else:
            done = home.sendmail(text, "-f", "s@elsewhere.test", "user@home.test", "r@far.test")
            assert done.returncode == 0, done.stderr
        running.settle(deadline=150)
    (name,) = home.maildir().names()
    with open(home.maildir().path / "new" / name, "rb") as file:
        content = file.read()
    body = text[text.index(b"\n\n"):]
    assert content.endswith(body)
    (message,) = far.messages
    assert message.text.endswith(body)
    del content, message, text
    needed = {"smtp": {"apus-smtpd"}, "sendmail": {"apus-inject"}}[way] | {"apus-queue", "apus-local", "apus-remote"}
    assert needed <= set(watch.peaks), watch.peaks
    assert max(watch.peaks.values()) < 8 * MB, watch.peaks
