"""One message all the way, by real clients: SMTP and sendmail to a Maildir, to another server, to a program."""

import email
import os
import re
import signal
import smtplib
import socket
import subprocess

import pytest
from apus import RECEIVED, REPLY, Raw, wait

NASTY = (b"From: s@elsewhere.test\nTo: user@home.test\nSubject: all kinds of lines\n\n.\n..\n.x\n\n\ttab\n\xc3\xa4\xff\0\n"
         + b"long " * 2000 + b"\nFrom the start\n\n\n")


def test_swaks_to_a_maildir(home, running, tmp_path):
    file = tmp_path / "message"
    file.write_bytes(b"Subject: by swaks\nX-Test: 1\n\n.dots\n..\nend\n")
    done = subprocess.run(
        ["swaks", "--server", "127.0.0.1", "--port", str(running.port), "--from", "s@elsewhere.test",
         "--to", "user@home.test,other@home.test", "--helo", "client.test", "--data", f"@{file}", "--pipeline"],
        capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    reply = re.search(REPLY, done.stdout)
    assert reply, done.stdout
    messages = home.maildir().expect(2)
    assert {m.delivered_to for m in messages} == {"user@home.test", "other@home.test"}
    for message in messages:
        received, text = message.from_smtp
        assert text.rstrip(b"\n") == file.read_bytes().rstrip(b"\n")
        assert message.id == reply["id"]
    running.settle()


def test_curl_to_a_maildir(home, running, tmp_path):
    file = tmp_path / "message"
    file.write_bytes(b"Subject: by curl\r\n\r\n.\r\nbody\r\n")
    done = subprocess.run(
        ["curl", "-sS", "-v", f"smtp://127.0.0.1:{running.port}/client.test", "--mail-from", "s@elsewhere.test",
         "--mail-rcpt", "user@home.test", "--upload-file", str(file)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (message,) = home.maildir().expect(1)
    assert message.from_smtp[1] == b"Subject: by curl\n\n.\nbody\n"


def test_smtplib_byte_for_byte(home, running):
    running.send(NASTY.replace(b"\0", b""), "s@elsewhere.test")
    (message,) = home.maildir().expect(1)
    assert message.from_smtp[1] == NASTY.replace(b"\0", b"")
    assert (message.return_path, message.delivered_to) == ("s@elsewhere.test", "user@home.test")


def test_sendmail_from_a_shell_script(home, running, tmp_path):
    script = tmp_path / "script"
    script.write_text(f"""#!/bin/sh
{home.bin}/sendmail -t -f script@elsewhere.test <<END
To: user@home.test
Bcc: hidden@home.test
Subject: from a script

body
.
after the dot
END
echo "exit $?"
""")
    done = subprocess.run(["sh", str(script)], capture_output=True, text=True, timeout=60, env=home.environment(USER="joe"))
    assert done.stdout == "exit 0\n" and done.stderr == "", done
    messages = home.maildir().expect(2)
    assert {m.delivered_to for m in messages} == {"user@home.test", "hidden@home.test"}
    for message in messages:
        assert message.return_path == "script@elsewhere.test"
        parsed = email.message_from_bytes(message.text)
        assert parsed["Subject"] == "from a script" and parsed["To"] == "user@home.test" and parsed["Bcc"] is None
        assert parsed["Date"] and parsed["Message-ID"].endswith("@home.test>") and parsed["From"]
        assert message.text.endswith(b"\n\nbody\n.\nafter the dot\n")
        assert b"by uid %d)" % os.getuid() in message.queue_line


def test_one_id_everywhere(home, running, far):
    """In the reply, in Received, and in the log of every program that touches the message (design.md 9)."""
    reply = running.send(b"Subject: x\n\nx\n", recipients=["user@home.test", "r@far.test"])
    identity = re.search(REPLY, reply)["id"]
    running.settle()
    (local,) = home.maildir().expect(1)
    (remote,) = far.messages
    assert local.id == identity
    assert f" id {identity}; ".encode() in remote.text
    assert [fact["event"] for fact in running.smtp_log.facts(program="smtpd", id=identity)] == ["queued"]
    qp = re.search(REPLY, reply)["qp"]
    assert running.smtp_log.facts(program="smtpd", id=identity)[0]["qp"] == qp
    events = [(fact["program"], fact["event"]) for fact in running.log.facts(id=identity)]
    assert ("todo", "new") in events and ("send", "end") in events
    assert events.count(("send", "success")) == 2
    assert f" qp {qp} uid {os.getuid()}" in running.log.text()
    # and it is nobody else's
    other = re.search(REPLY, running.send(b"Subject: y\n\ny\n"))["id"]
    assert other != identity


def test_id_belongs_to_one_message_only(home, running):
    """A message that is forwarded, or sent again by a script, carries the Received line of the first, but not its id."""
    home.alias("forward", "&user@home.test")
    first = re.search(REPLY, running.send(b"Subject: x\n\nx\n", recipients=["forward@home.test"]))["id"]
    (path,) = home.maildir().names() if wait("the message", lambda: len(home.maildir()) == 1) else ()
    text = (home.maildir().path / "new" / path).read_bytes()
    assert f" id {first};".encode() in text
    assert home.sendmail(text, "-f", "s@elsewhere.test", "again@home.test").returncode == 0
    running.enqueue(text, recipients=["third@home.test"])
    wait("the others", lambda: len(home.maildir()) == 3)
    running.settle()
    ids = [fact["id"] for fact in running.log.facts(program="todo", event="new")]
    assert len(ids) == 4 and len(set(ids)) == 4 and ids[0] == first, ids


def test_to_another_server(home, running, far):
    reply = running.send(NASTY.replace(b"\0", b""), recipients=["one@far.test", "two@far.test"])
    running.settle()
    assert sorted(far.recipients()) == ["one@far.test", "two@far.test"]
    for message in far.messages:
        assert message.sender == "s@elsewhere.test"
        assert message.text.endswith(NASTY.replace(b"\0", b""))
        head = message.text[:-len(NASTY) + 1]
        assert re.match(rb"Received: \(qmail \d+ invoked by uid \d+\); [^\n]+\n", head)
        assert re.search(RECEIVED, head)


def test_every_kind_of_qmail_line_in_one_file(home, running, far):
    home.alias("all", "./box", "./Maildir-all/", "|cat >program-was-here", "&forwarded@far.test", "again@home.test")
    maildir = home.maildir("Maildir-all").make()
    running.send(b"Subject: x\n\nbody\n", recipients=["all@home.test"])
    running.settle()
    (one,) = maildir.expect(1)
    assert one.from_smtp[1] == b"Subject: x\n\nbody\n"
    (other,) = [open(home.maildir().path / "new" / name, "rb").read() for name in home.maildir().names()]
    assert other.count(b"Delivered-To: ") == 2 and b"Delivered-To: again@home.test\n" in other
    assert far.recipients() == ["forwarded@far.test"]
    assert (home.path / "alias" / "box").read_bytes().startswith(b"From s@elsewhere.test ")
    assert b"\nbody\n" in (home.path / "alias" / "program-was-here").read_bytes()


def test_extensions_and_default(home, running):
    home.alias("list-default", "./Maildir-list/")
    home.alias("list-a:b", "./Maildir-ab/")
    for recipient in ("list-x-y@home.test", "list-A.b@home.test", "other@home.test"):
        running.send(b"x\n", recipients=[recipient])
    running.settle()
    assert [m.delivered_to for m in home.maildir("Maildir-list").expect(1)] == ["list-x-y@home.test"]
    assert [m.delivered_to for m in home.maildir("Maildir-ab").expect(1)] == ["list-A.b@home.test"]
    assert [m.delivered_to for m in home.maildir().expect(1)] == ["other@home.test"]


def test_forwarding_loop_ends_in_a_bounce(home, running):
    home.alias("loop", "&loop@home.test")
    running.send(b"Subject: x\n\nx\n", sender="back@home.test", recipients=["loop@home.test"])
    running.settle()
    (notice,) = home.maildir().expect(1)
    assert notice.delivered_to == "back@home.test"
    assert b"This message is looping" in notice.text


def test_virtualdomains_percenthack_and_case(home, running):
    home.control(virtualdomains=["virtual.test:list", "one@mixed.test:list-one", ".sub.test:sub"], percenthack="home.test",
                 rcpthosts=["home.test", "virtual.test", "mixed.test", ".sub.test"], locals=["home.test"])
    home.alias("list-default", "./Maildir-list/")
    home.alias("sub-default", "./Maildir-sub/")
    running.stop_send()
    running.start_send()
    for recipient in ("A@Virtual.TEST", "one@mixed.test", "x@deep.sub.test", "u%virtual.test@home.test", "U@HOME.test"):
        running.send(b"x\n", recipients=[recipient])
    running.settle()
    assert sorted(m.delivered_to for m in home.maildir("Maildir-list").expect(3)) == [
        "list-A@Virtual.TEST", "list-one-one@mixed.test", "list-u@virtual.test"]
    assert [m.delivered_to for m in home.maildir("Maildir-sub").expect(1)] == ["sub-x@deep.sub.test"]
    assert [m.delivered_to for m in home.maildir().expect(1)] == ["U@HOME.test"]


def test_hup_rereads_locals_and_virtualdomains(home, running):
    running.sender.process.send_signal(signal.SIGHUP)
    home.control(locals=["home.test", "new.test"], rcpthosts=["home.test", "new.test"], smtproutes=":127.0.0.1:1")
    running.sender.process.send_signal(signal.SIGHUP)
    wait("new.test to be local", lambda: running.send(b"x\n", recipients=["u@new.test"]) and running.log.find("to local u@new"))
    home.control(locals=["home.test"])
    (home.path / "control" / "virtualdomains").mkdir()
    running.sender.process.send_signal(signal.SIGHUP)
    running.log.expect("alert: unable to reread control/virtualdomains")
    running.send(b"x\n", recipients=["v@new.test"])
    running.log.expect("to local v@new.test")


def test_verp(home, running, far):
    home.alias("bounce-default", "./Maildir-verp/")
    running.send(b"x\n", sender="bounce-@home.test-@[]", recipients=["a@far.test", "b@far.test"])
    running.settle()
    assert sorted(m.sender for m in far.messages) == ["bounce-a=far.test@home.test", "bounce-b=far.test@home.test"]


def test_mutex(home, running):
    """A second start on the same queue refuses, and the first goes on."""
    done = subprocess.run([str(home.program("start")), "./Maildir/"], stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=30, env=home.environment())
    assert done.returncode == 111
    assert done.stdout == b"alert: cannot start: qmail-send is already running\n"
    running.send(b"x\n")
    home.maildir().expect(1)


def test_logger_argument(home, tmp_path):
    """start with a logger: the log goes through its pipe."""
    file = tmp_path / "logged"
    process = subprocess.Popen([str(home.program("start")), "./Maildir/", "tee", str(file)], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, env=home.environment())
    try:
        home.enqueue(b"x\n", "s@elsewhere.test", ["user@home.test"])
        home.maildir().expect(1)
        process.terminate()
        assert process.wait(20) == 0
        wait("the last line", lambda: file.read_text().endswith("status: exiting\n"))
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_messages_without_recipients_vanish(home, running):
    number = running.enqueue(b"x\n", recipients=[])
    running.settle()
    running.log.expect(rf"^end msg {number}$")


def test_concurrency_limits(home, apus, far):
    """Never more than concurrencylocal programs at once; 0 holds the channel."""
    home.control(concurrencylocal=3, concurrencyremote=0)
    home.alias("slow", "|sleep 0.1")
    home.enqueue(b"x\n", "s@elsewhere.test", ["slow@home.test"] * 30 + ["r@far.test"])
    apus.start_send()
    apus.log.expect("^delivery 30: success", deadline=30)
    statuses = [int(m[1]) for m in apus.log.find(r"^status: local (\d+)/3 remote 0/0")]
    assert max(statuses) == 3
    assert far.messages == []


def test_term_waits_for_running_deliveries(home, running):
    home.alias("slow", "|sleep 1; echo slept")
    running.send(b"x\n", recipients=["slow@home.test"])
    running.log.expect("^starting delivery")
    running.sender.unwatch()
    running.sender.process.send_signal(signal.SIGTERM)
    running.log.expect("exitasap$")
    assert running.sender.process.wait(20) == 0
    lines = running.log.lines()
    assert any(line.startswith("delivery 1: success: slept") for line in lines)
    assert lines[-1] == "status: exiting"


def test_mailq_shows_the_queue(home, apus):
    home.control(smtproutes=":127.0.0.1:1")
    apus.start_send()
    number = apus.enqueue(b"x\n", recipients=["r@far.test"])
    apus.log.expect("deferral")
    done = subprocess.run([str(home.bin / "mailq")], capture_output=True, timeout=30, env=home.environment())
    assert done.returncode == 0
    assert re.search(rb"GMT  #%d  \d+  <s@elsewhere\.test> \n\tremote\tr@far\.test\n" % number, done.stdout), done


def test_concurrencyincoming(home, apus):
    home.control(concurrencyincoming=3)
    apus.start_listen()
    clients = []
    for _ in range(3):
        client = Raw(apus.port)
        assert client.reply().startswith("220")
        clients.append(client)
    fourth = Raw(apus.port)
    fourth.socket.settimeout(0.7)
    with pytest.raises((socket.timeout, TimeoutError, AssertionError)):
        reply = fourth.reply()
        assert reply and reply.startswith("220"), "refused or closed is a limit, too"
    clients.pop().close()
    wait("room for one more", lambda: can_talk(apus.port) or can_read(fourth))
    for client in clients + [fourth]:
        client.close()


def can_talk(port):
    try:
        with Raw(port, timeout=1) as client:
            reply = client.reply()
            return reply is not None and reply.startswith("220")
    except OSError:
        return False


def can_read(client):
    try:
        reply = client.reply()
        return reply is not None and reply.startswith("220")
    except OSError:
        return False


def test_smtplib_refusals_are_what_people_know(home, running):
    with running.smtp() as client:
        with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
            client.sendmail("s@elsewhere.test", ["r@nowhere.test"], b"x")
        code, text = refused.value.recipients["r@nowhere.test"]
        assert code == 553 and b"rcpthosts" in text
