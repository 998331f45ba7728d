"""Thousands of messages, each once, byte for byte: Postfix's smtp-source and smtp-sink, and sendmail four at a time.

E2E_SCALE (default 1) multiplies the numbers, e.g. E2E_SCALE=0.1 for a quick look.
"""

import os
import re
import shutil
import subprocess

import pytest
from apus import RECEIVED, free_port, wait

SCALE = float(os.environ.get("E2E_SCALE", "1"))
MANY = max(40, int(2000 * SCALE))
SCRIPTED = max(20, int(1000 * SCALE))
SESSIONS = 20
SIZE = 4096
#: smtp-source -F sends an empty line after the file.
ADDED = b"\n"


def tool(name):
    path = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/usr/libexec/postfix")
    assert path, f"{name} is missing (Debian package postfix)"
    return path


def text():
    """4 KB of lines that test transparency: dots, 8 bit, long, empty, From."""
    lines = [b"Subject: volume", b"X-Odd:\tfield", b"", b".", b"..", b".x", b"From here", b">From there", b"", b"\xc3\xa4\xff\x80",
             b"y" * 900, b" leading", b"trailing \t", b"", b""]
    body = b"\n".join(lines) + b"\n"
    n = 0
    while len(body) < SIZE - 40:
        body += b"%06d abcdefghijklmnopqrstuvwxyz\n" % n
        n += 1
    return body.ljust(SIZE - 1, b"z") + b"\n"


def source(apus, *arguments, timeout=150):
    done = subprocess.run(
        [tool("smtp-source"), "-c", "-s", str(SESSIONS), "-m", str(MANY), "-f", "s@elsewhere.test", *arguments,
         f"127.0.0.1:{apus.port}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout)
    assert done.returncode == 0, done.stdout[-500:]
    assert b"warning" not in done.stdout and b"fatal" not in done.stdout, done.stdout[-500:]


@pytest.mark.timeout(300)
def test_smtp_source_to_a_maildir(home, running, tmp_path):
    """2,000 of 4 KB over 20 sessions; -N numbers the recipients, so each message is known by its Delivered-To."""
    file = tmp_path / "text"
    file.write_bytes(text())
    source(running, "-N", "-t", "n@home.test", "-F", str(file))
    running.settle(deadline=100)
    messages = home.maildir().expect(MANY)
    assert sorted(int(m.delivered_to.removesuffix("n@home.test")) for m in messages) == list(range(1, MANY + 1))
    ids = set()
    for message in messages:
        received, rest = message.from_smtp
        assert rest == text() + ADDED
        assert message.return_path == "s@elsewhere.test"
        ids.add(message.id)
    assert len(ids) == MANY, "one id per message"
    assert len(running.log.find(r"^delivery \d+: success")) == MANY
    assert {f["id"] for f in running.smtp_log.facts(program="smtpd", event="queued")} == ids
    assert {f["id"] for f in running.log.facts(program="send", event="end")} == ids


@pytest.mark.timeout(300)
def test_smtp_source_own_messages_in_one_connection_each(home, running):
    """smtp-source's own header and body, many messages in a connection (-d)."""
    source(running, "-d", "-N", "-t", "n@home.test", "-l", str(SIZE))
    running.settle(deadline=100)
    messages = home.maildir().expect(MANY)
    numbers, seen, bodies = set(), set(), set()
    for message in messages:
        head, body = message.from_smtp[1].split(b"\n\n", 1)
        assert re.fullmatch(rb"From: <s@elsewhere\.test>\nTo: <n@home\.test>\nDate: [^\n]+\nMessage-Id: <[^>]+>", head), head
        bodies.add(body)
        numbers.add(message.delivered_to)
        seen.add(head)
    assert len(numbers) == len(seen) == MANY
    (body,) = bodies
    assert re.fullmatch(rb"(?:[\dX]X*\n)+", body) and abs(len(body.replace(b"\n", b"\r\n")) - SIZE) <= 2


@pytest.mark.timeout(300)
def test_relayed_to_smtp_sink(home, apus, tmp_path):
    """2,000 relayed: smtp-sink dumps each with its envelope."""
    port = free_port()
    dump = tmp_path / "dump"
    dump.mkdir()
    dump.chmod(0o777)
    for above in dump.parents:
        if str(above).startswith("/tmp/pytest"):
            above.chmod(above.stat().st_mode | 0o011)
    user = ["-u", "nobody"] if os.getuid() == 0 else []
    sink = subprocess.Popen([tool("smtp-sink"), *user, "-d", f"{dump}/m.", f"127.0.0.1:{port}", "200"],
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        home.control(smtproutes=f":127.0.0.1:{port}")
        apus.start()
        file = tmp_path / "text"
        file.write_bytes(text())
        source(apus, "-N", "-t", "n@far.test", "-F", str(file))
        apus.settle(deadline=120)
    finally:
        sink.terminate()
        sink.wait(10)
        errors = sink.stderr.read()
        sink.stderr.close()
    files = list(dump.iterdir())
    assert len(files) == MANY, errors[-300:]
    numbers = []
    for file in files:
        head, rest = re.match(rb"(?s)(X-Client-Addr.*?\n)(Received: from .*)", file.read_bytes()).groups()
        assert b"X-Mail-Args: <s@elsewhere.test>" in head, head
        numbers.append(int(re.search(rb"X-Rcpt-Args: <(\d+)n@far\.test>\n", head)[1]))
        # smtp-sink's own line, queue's, smtpd's, and then what smtp-source sent
        received = re.search(RECEIVED, rest)
        # smtp-sink ends a dump with an empty line
        assert rest[received.end():] == text() + ADDED + b"\n", file
    assert sorted(numbers) == list(range(1, MANY + 1)), "each once"
    assert len(apus.log.find(r"^delivery \d+: success")) == MANY


@pytest.mark.timeout(200)
def test_sendmail_four_at_a_time(home, running, tmp_path):
    """1,000 from a shell script."""
    script = tmp_path / "script"
    script.write_text(f"""#!/bin/sh
# one message; the number is the argument
exec {home.bin}/sendmail -f script@elsewhere.test -t <<END
From: script@elsewhere.test
To: n$1@home.test
Date: Fri, 1 Jan 2021 00:00:00 +0000
Message-ID: <$1@script.test>
Subject: number $1

line one of $1
.
line three
END
""")
    script.chmod(0o755)
    done = subprocess.run(f"seq {SCRIPTED} | xargs -P 4 -n 1 sh {script}", shell=True, capture_output=True, timeout=150,
                          env=home.environment(USER="joe"))
    assert done.returncode == 0 and done.stderr == b"", done.stderr[-500:]
    running.settle(deadline=60)
    messages = home.maildir().expect(SCRIPTED)
    for message in messages:
        n = re.fullmatch(r"n(\d+)@home\.test", message.delivered_to)[1].encode()
        assert message.text == (
            b"From: script@elsewhere.test\nTo: n%s@home.test\nDate: Fri, 1 Jan 2021 00:00:00 +0000\n"
            b"Message-ID: <%s@script.test>\nSubject: number %s\n\nline one of %s\n.\nline three\n" % (n, n, n, n))
    assert len({m.delivered_to for m in messages}) == SCRIPTED


@pytest.mark.timeout(200)
def test_injection_does_not_starve_delivery(home, running, tmp_path):
    """While messages stream in, deliveries go on: todo works beside send."""
    file = tmp_path / "text"
    file.write_bytes(text())
    count = max(200, int(1000 * SCALE))
    injector = subprocess.Popen(
        [tool("smtp-source"), "-s", "20", "-m", str(count), "-d", "-f", "s@elsewhere.test", "-t", "n@home.test", "-F", str(file),
         f"127.0.0.1:{running.port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait("the first deliveries", lambda: len(home.maildir()) > 20, deadline=30)
        assert injector.poll() is None or count < 500, "delivery began only after the injection had ended"
        injector.wait(100)
    finally:
        if injector.poll() is None:
            injector.kill()
        injector.wait()
    running.settle(deadline=60)
    home.maildir().expect(count)
