"""remote alone against a scripted server: spec smtp.md 8 to 12 and pipes.md 5. Names and MX: test_dns.py."""

import os
import random
import re
import socket
import struct
import subprocess
import threading
import time

import pytest
from apus import free_port, wait
from server import CLOSE, HANG, Server

MESSAGE = b"Received: x\nSubject: y\n\nbody\n"
IP = b"127.0.0.1"
K = b"K127.0.0.1 accepted message.\nRemote host said: 250 2.0.0 taken\n"


@pytest.fixture
def remote(home, tmp_path):
    """remote(recipients..., message=, sender=, script=): (records, session); `r` records as they come."""
    servers = []

    def remote(*recipients, message=MESSAGE, sender="s@a.test", script=None, host="far.test", timeoutremote=5, server=None):
        server = server or Server(script)
        servers.append(server)
        home.control(smtproutes=f":127.0.0.1:{server.port}", timeoutremote=timeoutremote, timeoutconnect=3,
                     helohost="me.test")
        file = tmp_path / "message"
        file.write_bytes(message)
        encode = lambda text: text if isinstance(text, bytes) else text.encode("latin-1")
        with open(file, "rb") as stdin:
            done = subprocess.run(
                [str(home.program("remote")), host, encode(sender), *map(encode, recipients or ["r@far.test"])],
                stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=home.environment(), cwd="/", timeout=60)
        assert done.returncode == 0 and done.stderr == b"", done
        assert done.stdout.endswith(b"\0"), done.stdout
        records = done.stdout.split(b"\0")[:-1]
        assert all(r[:1] in b"rhs" for r in records[:-1]) and records[-1][:1] in b"KZD", records
        session = server.sessions[-1] if server.sessions else None
        if session:
            wait("the session to end", lambda: session.closed)
        return records, session

    remote.servers = servers
    yield remote
    for server in servers:
        server.close()


def verbs(session):
    return [command[:4].upper() for command in session.commands]


# What is said ----------------------------------------------------------------------------------------------


def test_a_message(remote):
    records, session = remote()
    assert records == [b"r", K]
    assert session.commands[0] == "EHLO me.test"
    assert verbs(session) == ["EHLO", "MAIL", "RCPT", "DATA", "QUIT"]
    (message,) = session.messages
    assert (message.sender, message.recipients, message.text) == ("s@a.test", ["r@far.test"], MESSAGE)


def test_several_recipients_in_one_run(remote):
    script = {"RCPT": [b"250 ok\r\n", b"550 no\r\n", b"450 wait\r\n", b"251 ok\r\n", b"499-a\r\n499 b\r\n", b"599 x\r\n"]}
    records, session = remote("a@far.test", "b@far.test", "c@far.test", "d@far.test", "e@far.test", "f@far.test",
                              script=script)
    dislikes = IP + b" does not like recipient.\nRemote host said: "
    assert records == [
        b"r", b"h" + dislikes + b"550 no\n", b"s" + dislikes + b"450 wait\n", b"r",
        b"s" + dislikes + b"499-a\n499 b\n", b"h" + dislikes + b"599 x\n", K]
    assert session.messages[0].recipients == ["a@far.test", "d@far.test"]


def test_a_thousand_recipients(remote):
    names = [f"r{n}@far.test" for n in range(1000)]
    script = {"RCPT": lambda line, _: b"550 no\r\n" if b"7@" in line else b"250 ok\r\n"}
    records, session = remote(*names, script=script)
    assert [r[:1] for r in records] == [b"h" if n % 10 == 7 else b"r" for n in range(1000)] + [b"K"]
    assert session.messages[0].recipients == [name for n, name in enumerate(names) if n % 10 != 7]


@pytest.mark.parametrize("extensions, message, parameters", [
    ([], MESSAGE, r""),
    (["SIZE"], MESSAGE, r" SIZE=\d+"), (["SIZE 1000000"], MESSAGE, r" SIZE=\d+"),
    (["8BITMIME"], MESSAGE, r"( BODY=7BIT)?"), (["8BITMIME"], b"X: y\n\n\xe4\n", r" BODY=8BITMIME"),
    (["size 0", "8bitmime"], b"X: y\n\n\xe4\n", r" SIZE=\d+ BODY=8BITMIME| BODY=8BITMIME SIZE=\d+"),
    (["AUTH LOGIN", "STARTTLS", "X-JUNK \xff"], MESSAGE, r""),
])
def test_mail_parameters(remote, extensions, message, parameters):
    lines = ["server.test", *extensions]
    reply = "".join(f"250{'-' if line is not lines[-1] else ' '}{line}\r\n" for line in lines).encode("latin-1")
    records, session = remote(message=message, script={"EHLO": reply})
    assert records == [b"r", K]
    mail = session.commands[1]
    assert re.fullmatch(r"MAIL FROM:<s@a\.test>(" + parameters + ")", mail), mail
    size = re.search(r"SIZE=(\d+)", mail)
    if size:
        assert int(size[1]) >= len(session.messages[0].wire)


@pytest.mark.parametrize("address, wire", [
    ("", "<>"), ("plain", "<plain>"), ("a.b+c@x.y", "<a.b+c@x.y>"), ("a b@x.y", '<"a b"@x.y>'),
    (".a@x.y", '<".a"@x.y>'), ("a..b@x.y", '<"a..b"@x.y>'), ('a"\\b@x.y', '<"a\\"\\\\b"@x.y>'),
    ("a@b@x.y", '<"a@b"@x.y>'), ("a>b@x.y", '<"a>b"@x.y>'), ("#@[]", '<#@[]>'), ("a@[10.0.0.1]", "<a@[10.0.0.1]>"),
])
def test_addresses_are_quoted(remote, address, wire):
    records, session = remote(sender=address)
    assert session.commands[1].split(" SIZE")[0].split(" BODY")[0] == f"MAIL FROM:{wire}"
    if "@" in address and address != "#@[]":
        records, session = remote(address)
        assert [c for c in session.commands if c.startswith("RCPT")] == [f"RCPT TO:{wire}"]


@pytest.mark.parametrize("evil", ["a\r\nRCPT TO:<evil@x>@b.test", "a\nDATA\n@b.test", "a@b\r\nRSET", "a>\r\nQUIT@b", "a@b> X=Y", "a\r@b"])
def test_addresses_cannot_inject_commands(remote, evil):
    for arguments, sender in (([evil], "s@a.test"), (["r@far.test"], evil), ([evil, "good@far.test"], "s@a.test")):
        records, session = remote(*arguments, sender=sender)
        if session:
            for command in session.commands:
                assert re.match(r"(EHLO|HELO|MAIL FROM:<|RCPT TO:<|DATA$|QUIT$)", command), command
                assert "evil@x" not in command or '"' in command
            assert all("\r" not in c and "\n" not in c for c in session.commands)
            assert session.received.replace(b"\r\n", b"").count(b"\r") == 0
        assert records[-1][:1] in b"DZ" or len(arguments) == 2


def test_bad_recipient_does_not_spoil_the_good_one(remote):
    records, session = remote("a\r\nRSET@b.test", "good@far.test")
    assert [r[:1] for r in records] == [b"h", b"r", b"K"]
    assert session.messages[0].recipients == ["good@far.test"]


# Every reply in every place --------------------------------------------------------------------------------

START = b"Connected to " + IP
PLACES = {  # step: (records before, letter and text for 4xx, for 5xx)
    "connect": ([], b"Z" + START + b" but greeting failed.\n", b"Z" + START + b" but greeting failed.\n"),
    "HELO": ([], b"Z" + START + b" but my name was rejected.\n", b"Z" + START + b" but my name was rejected.\n"),
    "MAIL": ([], b"Z" + START + b" but sender was rejected.\n", b"D" + START + b" but sender was rejected.\n"),
    "DATA": ([b"r"], b"Z" + IP + b" failed on DATA command.\n", b"D" + IP + b" failed on DATA command.\n"),
    "dot": ([b"r"], b"Z" + IP + b" failed after I sent the message.\n", b"D" + IP + b" failed after I sent the message.\n"),
}
REPLIES = {
    "421": (b"421 go away\r\n", 4), "451": (b"451 4.3.0 later\r\n", 4), "multi 4": (b"450-one\r\n450-two\r\n450 three\r\n", 4),
    "500": (b"500 what\r\n", 5), "554": (b"554 5.7.1 no\r\n", 5), "multi 5": (b"552-one\r\n552-\r\n552 three\r\n", 5),
    "600": (b"600 what\r\n", 5), "999": (b"999 what\r\n", 5), "no text": (b"554\r\n", 5), "LF only": (b"554 no\n", 5),
    "CR inside": (b"554 a\rb\r\n", 5), "NUL inside": (b"554 a\0b\r\n", 5), "8 bit": (b"554 \xe4\xff\r\n", 5),
}


def hello_too(step, reply):
    return {"EHLO": b"502 no\r\n", "HELO": reply} if step == "HELO" else {step: reply}


@pytest.mark.parametrize("step", PLACES)
def test_refusals(remote, step):
    before, soft, hard = PLACES[step]
    for name, (reply, kind) in REPLIES.items():
        records, session = remote(script=hello_too(step, reply))
        head = soft if kind == 4 else hard
        assert records[:-1] == before, (name, records)
        said = reply.replace(b"\r", b"").replace(b"\0", b"?")
        assert records[-1] == head + b"Remote host said: " + said, name
        assert session.messages == [], name
        # QUIT is sent before every final report
        assert session.commands[-1:] == ["QUIT"], (name, session.commands)


@pytest.mark.parametrize("step", ["MAIL", "RCPT"])
def test_other_codes_below_400_pass(remote, step):
    for code in (b"200", b"250", b"251", b"299", b"354", b"399", b"100"):
        assert remote(script={step: code + b" fine\r\n"})[0] == [b"r", K], code


@pytest.mark.parametrize("code", [b"250", b"221", b"200", b"354", b"000"])
def test_greeting_must_be_220(remote, code):
    records, _ = remote(script={"connect": code + b" hello\r\n"})
    assert records == [b"Z" + START + b" but greeting failed.\nRemote host said: " + code + b" hello\n"]


def test_ehlo_refused_then_helo(remote):
    for code in (b"500", b"502", b"554"):
        records, session = remote(script={"EHLO": code + b" no\r\n"})
        assert records == [b"r", K]
        assert session.commands[:3] == ["EHLO me.test", "HELO me.test", "MAIL FROM:<s@a.test>"]


def test_all_recipients_refused(remote):
    for reply, letter in ((b"550 no\r\n", b"h"), (b"450 no\r\n", b"s")):
        records, session = remote("a@far.test", "b@far.test", script={"RCPT": reply})
        text = letter + IP + b" does not like recipient.\nRemote host said: " + reply.replace(b"\r", b"")
        assert records[:-1] == [text, text]
        assert records[-1].startswith(b"DGiving up on " + IP + b".\n")
        assert session.messages == []


def test_all_recipients_refused_but_data_accepted(remote):
    """A server that answers 354 to the DATA that was pipelined: nothing may be sent as if it were text or command."""
    records, session = remote(script={"RCPT": b"550 no\r\n", "DATA": b"354 go on\r\n"})
    assert [r[:1] for r in records] == [b"h", b"D"]
    assert session.messages == []


@pytest.mark.parametrize("how", [CLOSE, HANG], ids=["close", "hang"])
@pytest.mark.parametrize("step", ["connect", "EHLO", "MAIL", "RCPT", "DATA", "dot"])
def test_lost_connection(remote, step, how):
    records, session = remote(script={step: how}, timeoutremote=1)
    duplicate = b"Possible duplicate! " if step == "dot" else b""
    assert records[-1] == b"ZConnected to " + IP + b" but connection died. " + duplicate + b"(#4.4.2)\n"
    assert records[:-1] == ([b"r"] if step in ("DATA", "dot") else [])


@pytest.mark.parametrize("how", [CLOSE, HANG], ids=["close", "hang"])
@pytest.mark.parametrize("tail", [b"2", b"250", b"250-ok\r\n", b"250 ok\r", b"354-go\r\n"])
def test_lost_within_a_reply(remote, tail, how):
    """Half a reply is no reply."""
    for step in ("MAIL", "dot"):
        # after the cut the server says nothing more; CLOSE is what it does when a command comes all the same
        script = {step: [tail], "QUIT": CLOSE, "RCPT": how, "DATA": how}
        if step == "dot":
            del script["RCPT"], script["DATA"]
        records, session = remote(script=script, timeoutremote=1)
        assert records[-1][:1] == b"Z", (step, records)
        assert b"connection died" in records[-1]


@pytest.mark.parametrize("step", ["connect", "EHLO", "MAIL", "RCPT", "DATA", "dot"])
@pytest.mark.parametrize("garbage", [b"hello\r\n", b"\r\n", b"\0\0\0\0\r\n", b"2\r\n", b"25O ok\r\n", b"\xff\xfe\xfd x\r\n",
                                     b"-250 ok\r\n", b" 250 ok\r\n", b"250\r250 ok\r\n", b"HTTP/1.1 400 Bad Request\r\n"])
def test_garbage_is_never_success(remote, step, garbage):
    script = {step: garbage}
    if step == "EHLO":
        script["HELO"] = garbage
    records, session = remote(script=script, timeoutremote=1)
    if garbage == b"250\r250 ok\r\n":
        assert records[-1][:1] in b"KZD"  # begins with 250
        return
    assert records[-1][:1] in b"ZD", records
    assert session.messages == [] or step == "dot"


@pytest.mark.parametrize("step", ["connect", "EHLO", "MAIL", "RCPT", "DATA", "dot"])
def test_endless_replies_are_bounded(remote, step):
    """5 MB in one line, and in lines that continue."""
    for reply in (b"554 " + b"x" * 5_000_000 + b"\r\n", b"554-x\r\n" * 700_000 + b"554 x\r\n", b"554-" + b"y" * 5_000_000):
        script = {step: reply, "HELO": b"554 no\r\n"}
        started = time.monotonic()
        records, _ = remote(script=script, timeoutremote=2)
        assert time.monotonic() - started < 10
        assert all(len(record) < 6000 for record in records)
        assert records[-1][:1] in b"ZD"


def test_text_of_the_reply_is_kept_up_to_5000_bytes(remote):
    reply = b"".join(b"554-%04d\r\n" % n for n in range(700)) + b"554 end\r\n"
    records, _ = remote(script={"dot": reply})
    said = records[-1].split(b"Remote host said: ")[1]
    assert 4900 < len(said) <= 5100 and said.startswith(b"554-0000\n554-0001\n")


def test_replies_byte_by_byte(remote):
    # a server of its own: one byte per segment
    listener = socket.socket()
    listener.bind(("127.0.0.1", free_port()))
    listener.listen(1)
    heard = []

    def serve():
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def say(text):
            for byte in text:
                connection.sendall(bytes([byte]))
                time.sleep(0.001)

        stream = connection.makefile("rb")
        say(b"220-hi\r\n220 there\r\n")
        heard.append(stream.readline())
        say(b"250-me\r\n250 8BITMIME\r\n")
        heard.append(stream.readline())
        say(b"250 ok\r\n")
        heard.append(stream.readline())
        say(b"250 ok\r\n")
        heard.append(stream.readline())
        say(b"354 go\r\n")
        while (line := stream.readline()) != b".\r\n":
            heard.append(line)
        say(b"250 taken\r\n")
        connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()

    class Fake:
        port = listener.getsockname()[1]
        sessions = []

        def close(self):
            listener.close()

    records, _ = remote(server=Fake())
    assert records == [b"r", b"K127.0.0.1 accepted message.\nRemote host said: 250 taken\n"]
    thread.join(5)


def test_server_that_answers_early_and_closes_during_the_text(remote):
    """552 in the middle of a long text: no success, no hang."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", free_port()))
    listener.listen(1)

    def serve():
        connection, _ = listener.accept()
        with connection, connection.makefile("rwb") as stream:
            def say(text):
                stream.write(text)
                stream.flush()
            say(b"220 x\r\n")
            stream.readline(); say(b"250 x\r\n")
            stream.readline(); say(b"250 x\r\n")
            stream.readline(); say(b"250 x\r\n")
            stream.readline(); say(b"354 x\r\n")
            stream.read(50_000)
            say(b"552 too big\r\n")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    threading.Thread(target=serve, daemon=True).start()

    class Fake:
        port = listener.getsockname()[1]
        sessions = []

        def close(self):
            listener.close()

    records, _ = remote(server=Fake(), message=b"X: y\n\n" + b"z" * 70 * 200_000 + b"\n")
    assert records[-1][:1] in b"ZD"


# The text --------------------------------------------------------------------------------------------------

WIRE = [
    (b"", [b""]), (b"\n", [b"\r\n"]), (b"a\n", [b"a\r\n"]), (b"a", [b"a\r\n"]), (b".\n", [b"..\r\n"]), (b".", [b"..\r\n"]),
    (b"..\n", [b"...\r\n"]), (b"a\n.\nb\n", [b"a\r\n..\r\nb\r\n"]), (b".a\n.b\n", [b"..a\r\n..b\r\n"]),
    (b"a\r\nb\n", [b"a\r\nb\r\n"]), (b"a\n\n.\n", [b"a\r\n\r\n..\r\n"]),
    (b"a\r.\nb\n", [b"a\r\n..\r\nb\r\n", b"a .\r\nb\r\n"]),
    (b"a\r.\r\nb\n", [b"a\r\n..\r\nb\r\n", b"a .\r\nb\r\n"]),
    (b"a\r\r\nb\n", [b"a\r\n\r\nb\r\n", b"a \r\nb\r\n", b"a\r\nb\r\n"]),
    (b"a\r", [b"a\r\n", b"a \r\n", b"a\r\n\r\n"]),
    (b"\r.\r", [b"\r\n..\r\n", b" . \r\n", b" .\r\n"]),
    (b"\0\xff\x80\n", [b"\0\xff\x80\r\n"]),
]


@pytest.mark.parametrize("text, wires", WIRE, ids=[repr(t) for t, _ in WIRE])
def test_wire_form(remote, text, wires):
    records, session = remote(message=text)
    assert records == [b"r", K]
    assert session.messages[0].wire in wires
    assert session.commands[-1] == "QUIT"


def test_no_text_can_end_itself(remote):
    """Whatever is in the queue: one message, one QUIT, no bare CR or LF on the wire."""
    dice = random.Random(11)
    server = Server()
    for _ in range(120):
        text = b"".join(dice.choice([b"\r", b"\n", b".", b"\r\n", b"\n.\n", b"a", b"\r\n.\r\n", b"\r.\r\n", b"\n.\r\n",
                                     b"MAIL FROM:<x>\r\n", b"QUIT\n"]) for _ in range(dice.randrange(1, 14)))
        records, session = remote(message=text, server=server)
        assert records == [b"r", K], text
        assert verbs(session) == ["EHLO", "MAIL", "RCPT", "DATA", "QUIT"], text
        (message,) = session.messages
        assert b"\r" not in message.wire.replace(b"\r\n", b""), text
        assert b"\n" not in message.wire.replace(b"\r\n", b""), text
        letters = lambda data: re.sub(rb"[\s.]", b"", data)
        assert letters(message.wire) == letters(text)


@pytest.mark.parametrize("size", [16383, 16384, 16385, 32767, 32768, 65536])
def test_dots_and_line_ends_across_buffers(remote, size):
    for tail in (b"\n.\n", b"\r\n.\r\nx", b".\n", b"\r.\n"):
        text = b"y" * size + tail
        for cut in (0, 1, 2):
            records, session = remote(message=text[cut:])
            assert records == [b"r", K]
            if b"\r." not in text:
                assert session.messages[0].text == text[cut:].replace(b"\r\n", b"\n") + (b"" if text[-1:] == b"\n" else b"\n")


def test_large_message(remote):
    text = b"Subject: x\n\n" + b"".join(b".%07d\n" % n for n in range(2_000_000))
    records, session = remote(message=text, server=Server(keep=False), timeoutremote=30)
    assert records == [b"r", K] and session.messages[0].text == text


def test_message_that_cannot_be_read(home, remote):
    with Server() as server:
        home.control(smtproutes=f":127.0.0.1:{server.port}")
        directory = os.open("/", os.O_RDONLY)
        done = subprocess.run([str(home.program("remote")), "far.test", "s@a", "r@far.test"], stdin=directory,
                              stdout=subprocess.PIPE, env=home.environment(), timeout=30)
        os.close(directory)
        assert done.stdout.split(b"\0")[-2] == b"ZUnable to read message. (#4.3.0)\n"
        assert server.messages == []


# Before the connection -------------------------------------------------------------------------------------


def record(home, *arguments, **more):
    done = subprocess.run([str(home.program("remote")), *arguments], stdin=subprocess.DEVNULL, capture_output=True,
                          env=home.environment(), timeout=30, cwd="/")
    assert done.returncode == 0
    return done.stdout


def test_usage(home):
    for arguments in ([], ["host"], ["host", "sender"]):
        assert record(home, *arguments) == b"DI (qmail-remote) was invoked improperly. (#5.3.5)\n\0"


def test_controls(home):
    home.control(smtproutes=":127.0.0.1:1")
    (home.path / "control" / "timeoutremote").mkdir()
    assert record(home, "h", "s", "r@h") == b"ZUnable to read control files. (#4.3.0)\n\0"
    (home.path / "control" / "timeoutremote").rmdir()
    home.control(me=None)
    assert record(home, "h", "s", "r@h") == b"ZUnable to read control files. (#4.3.0)\n\0"


def test_nobody_listens(home):
    home.control(smtproutes=f":127.0.0.1:{free_port()}")
    text = b"ZSorry, I wasn't able to establish an SMTP connection. (#4.4.1)\n\0"
    assert record(home, "h", "s", "r@h") == text
    # refused is no timeout
    assert (home.queue / "lock" / "tcpto").read_bytes() == bytes(1024)


@pytest.fixture
def deaf():
    """A port whose backlog is full: connections to it time out."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", free_port()))
    listener.listen(0)
    crowd = []
    for _ in range(4):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(listener.getsockname())
        crowd.append(sock)
    time.sleep(0.1)
    yield listener.getsockname()[1]
    for sock in crowd + [listener]:
        sock.close()


def test_connect_timeouts_are_counted_in_tcpto(home, deaf):
    home.control(smtproutes=f":127.0.0.1:{deaf}", timeoutconnect=1)
    text = b"ZSorry, I wasn't able to establish an SMTP connection. (#4.4.1)\n\0"
    tcpto = home.queue / "lock" / "tcpto"
    started = time.monotonic()
    assert record(home, "h", "s", "r@h") == text
    assert time.monotonic() - started > 0.9
    entry = tcpto.read_bytes()[:16]
    assert entry[:8] == bytes([127, 0, 0, 1, 1, 0, 0, 0])
    assert abs(struct.unpack("<I", entry[8:12])[0] - time.time()) < 10 and entry[12:] == bytes(4)
    # within 120 s a second one is not counted
    assert record(home, "h", "s", "r@h") == text
    assert tcpto.read_bytes()[:16] == entry
    # two timeouts a while ago: not even tried
    recent = struct.pack("<4s4BI4x", bytes([127, 0, 0, 1]), 2, 0, 0, 0, int(time.time()) - 500)
    tcpto.write_bytes(recent + bytes(1008))
    started = time.monotonic()
    assert record(home, "h", "s", "r@h") == text
    assert time.monotonic() - started < 0.8
    # long ago: tried and counted
    old = struct.pack("<4s4BI4x", bytes([127, 0, 0, 1]), 2, 0, 0, 0, int(time.time()) - 7000)
    tcpto.write_bytes(bytes(16) + old + bytes(992))
    assert record(home, "h", "s", "r@h") == text
    assert tcpto.read_bytes()[16:21] == bytes([127, 0, 0, 1, 3])


def test_success_clears_tcpto(home, remote):
    tcpto = home.queue / "lock" / "tcpto"
    tcpto.write_bytes(struct.pack("<4s4BI4x", bytes([127, 0, 0, 1]), 5, 0, 0, 0, int(time.time()) - 7000) + bytes(1008))
    remote()
    assert tcpto.read_bytes()[4] == 0


@pytest.mark.parametrize("content", [None, b"", b"short", b"\xff" * 1024, b"\xff" * 5000])
def test_tcpto_spoilt_is_no_information(home, remote, content):
    tcpto = home.queue / "lock" / "tcpto"
    tcpto.unlink()
    if content is not None:
        tcpto.write_bytes(content)
    assert remote()[0] == [b"r", K]


@pytest.mark.parametrize("routes, host, hit", [
    ([":127.0.0.1:GOOD"], "x.y", True),
    (["x.y:127.0.0.1:GOOD", ":127.0.0.1:1"], "X.Y", True),
    ([".y:127.0.0.1:GOOD", ":127.0.0.1:1"], "a.x.y", True),
    ([".x.y:127.0.0.1:GOOD", ".y:127.0.0.1:1", ":127.0.0.1:1"], "a.x.y", True),
    (["y:127.0.0.1:1", ".x.y:127.0.0.1:1", ":127.0.0.1:GOOD"], "x.y", True),
    (["x.y:127.0.0.1:1", "x.y:127.0.0.1:GOOD"], "x.y", True),
    (["# c", "no colon", "x.y:127.0.0.1:GOOD  "], "x.y", True),
    (["x.y:127.0.0.1:GOODtrailing"], "x.y", True),
    (["x.y:127.0.0.1:1", ":127.0.0.1:GOOD"], "x.y", False),
])
def test_smtproutes(home, routes, host, hit):
    with Server() as server:
        home.control(smtproutes=[route.replace("GOOD", str(server.port)) for route in routes])
        assert (b"accepted message" in record(home, host, "s@a", "r@" + host)) is hit
