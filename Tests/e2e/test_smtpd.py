"""smtpd alone on a socket pair, as any super-server would run it: spec smtp.md part A."""

import random
import re
import socket
import subprocess
import time

import pytest
from apus import RECEIVED, REPLY, Raw, free_port, wait

GREETING = "home.test"


@pytest.fixture
def smtpd(home):
    """smtpd(VARIABLE=...): a client of a fresh smtpd. Error limits are off unless a test sets them."""
    home.control(smtpsofterrors=0, smtpharderrors=0)
    running = []

    def smtpd(greet=True, **variables):
        ours, theirs = socket.socketpair()
        description = {"PROTO": "TCP", "TCPREMOTEIP": "192.0.2.7", "TCPLOCALIP": "192.0.2.1", "TCPREMOTEPORT": "4711"}
        description.update(variables)
        process = subprocess.Popen([str(home.program("smtpd"))], stdin=theirs, stdout=theirs, stderr=subprocess.PIPE,
                                   env=home.environment(**{k: v for k, v in description.items() if v is not None}), cwd="/")
        theirs.close()
        client = Raw.on(ours)
        client.process = process
        running.append(client)
        if greet:
            assert client.reply() == f"220 {GREETING} ESMTP"
        return client

    yield smtpd
    for client in running:
        client.close()
        if client.process.poll() is None:
            client.process.kill()
        client.process.wait()
        client.process.stderr.close()


def end(client, code=0):
    """Exit code once the server has closed; its log lines."""
    assert client.closed()
    client.close()
    log = client.process.stderr.read().decode("latin-1")
    assert client.process.wait(10) == code, log
    return log


def plain(reply):
    """A reply without the enhanced status code that ESMTP puts in front."""
    return re.sub(r"(?m)^(\d{3}[ -])[245]\.\d{1,3}\.\d{1,3} ", r"\1", reply)


def queue_content(home):
    """[(sender, recipients, text below queue's line)] of the queue."""
    found = []
    for name in home.queue_files():
        if name.startswith("todo/"):
            number = int(name.split("/")[1])
            records = home.file("todo", number).read_bytes().split(b"\0")
            found.append((
                [r[1:] for r in records if r[:1] == b"F"][0].decode("latin-1"),
                [r[1:].decode("latin-1") for r in records if r[:1] == b"T"],
                home.file("mess", number).read_bytes().split(b"\n", 1)[1]))
    return found


def open_transaction(client, hello="EHLO x.test"):
    assert client.ask(hello).startswith("250")
    assert plain(client.ask("MAIL FROM:<s@a.test>")) == "250 ok"
    assert plain(client.ask("RCPT TO:<r@home.test>")) == "250 ok"


# The dialogue ----------------------------------------------------------------------------------------------


def test_a_message(home, smtpd):
    client = smtpd()
    assert client.ask("EHLO client.test").split("\n")[0] == f"250-{GREETING}"
    assert plain(client.ask("MAIL FROM:<s@a.test>")) == "250 ok"
    assert plain(client.ask("RCPT TO:<r@home.test>")) == "250 ok"
    assert plain(client.ask("RCPT TO:<q@home.test>")) == "250 ok"
    assert client.ask("DATA") == "354 go ahead"
    before = int(time.time())
    reply = plain(client.ask(b"Subject: x\r\n\r\n..dot\r\nbody\r\n.\r\n"))
    match = re.fullmatch("250 " + REPLY, reply)
    assert match and before <= int(match["time"]) <= time.time(), reply
    assert plain(client.ask("QUIT")) == f"221 {GREETING}"
    log = end(client, 0)
    ((sender, recipients, text),) = queue_content(home)
    assert (sender, recipients) == ("s@a.test", ["r@home.test", "q@home.test"])
    received = re.match(RECEIVED, text)
    assert text[received.end():] == b"Subject: x\n\n.dot\nbody\n"
    assert text.startswith(b"Received: from unknown (HELO client.test) (192.0.2.7)\n  by 192.0.2.1 with ESMTP id ")
    # one id, everywhere
    assert received["id"].decode() == match["id"]
    assert re.search(rf"^smtpd id={match['id']} .*event=queued.*qp={match['qp']}", log, re.M), log


def test_ehlo_offers(smtpd):
    lines = smtpd().ask("EHLO x").split("\n")
    assert lines[0] == f"250-{GREETING}"
    words = {line[4:] for line in lines[1:]}
    assert {"PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES"} <= words and any(w.startswith("SIZE") for w in words)
    assert not any(w.startswith(("STARTTLS", "AUTH", "CHUNKING")) for w in words), "offered but not there"
    assert [line[3] for line in lines] == ["-"] * (len(lines) - 1) + [" "]


DIALOGUE = [
    # (command, reply)
    ("NOOP", "250 ok"), ("noop with words", "250 ok"), ("RSET", "250 flushed"),
    ("VRFY x", "252 send some mail, i'll try my best"), ("HELO", f"250 {GREETING}"), ("HELO x", f"250 {GREETING}"),
    ("HELP", re.compile(r"214 .+")), ("help me", re.compile(r"214 .+")),
    ("EXPN x", "502 unimplemented (#5.5.1)"), ("TURN", "502 unimplemented (#5.5.1)"), ("", "502 unimplemented (#5.5.1)"),
    ("AUTH LOGIN", "502 unimplemented (#5.5.1)"), ("STARTTLS", "502 unimplemented (#5.5.1)"),
    ("MAILFROM:<x>", "502 unimplemented (#5.5.1)"), ("MAIL\tFROM:<x>", "502 unimplemented (#5.5.1)"),
    ("RCPT TO:<r@home.test>", "503 MAIL first (#5.5.1)"), ("DATA", "503 MAIL first (#5.5.1)"),
    ("MAIL", re.compile("501 ")), ("MAIL FROM", re.compile("5(55|01) ")),
    ("MAIL FROM:<s@a.test>", "250 ok"),
    ("RCPT", re.compile("501 ")), ("DATA", "503 RCPT first (#5.5.1)"),
    ("RCPT TO:<r@elsewhere.test>", "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)"),
    ("DATA", "503 RCPT first (#5.5.1)"),
    ("RCPT TO:<r@home.test>", "250 ok"), ("rcpt to: <r2@home.test>", "250 ok"), ("RCPT TO:r3@home.test", "250 ok"),
    ("MAIL FROM:<new@a.test>", "250 ok"), ("DATA", "503 RCPT first (#5.5.1)"),
    ("RCPT TO:<r@home.test>", "250 ok"), ("EHLO x", re.compile("250-")), ("DATA", "503 MAIL first (#5.5.1)"),
    ("MAIL FROM:<s@a.test>", "250 ok"), ("RCPT TO:<r@home.test>", "250 ok"), ("RSET", "250 flushed"),
    ("DATA", "503 MAIL first (#5.5.1)"), ("RCPT TO:<r@home.test>", "503 MAIL first (#5.5.1)"),
    ("QUIT", f"221 {GREETING}"),
]


@pytest.mark.parametrize("ending", [b"\r\n", b"\n"], ids=["CRLF", "LF"])
def test_dialogue(home, smtpd, ending):
    client = smtpd()
    for command, expected in DIALOGUE:
        reply = plain(client.ask(command.encode() + ending))
        ok = expected.match(reply) if isinstance(expected, re.Pattern) else reply == expected
        assert ok, (command, reply)
    end(client, 0)
    assert home.queue_is_empty()


def test_pipelined_dialogue_in_one_write_and_byte_by_byte(home, smtpd):
    script = (b"EHLO x\r\nMAIL FROM:<s@a.test>\r\nRCPT TO:<r@home.test>\r\nRCPT TO:<no@elsewhere.test>\r\nDATA\r\n"
              b"a\r\n..b\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<r@home.test>\r\nDATA\r\nc\r\n.\r\nQUIT\r\n")
    codes = ["250", "250", "250", "553", "354", "250", "250", "250", "354", "250", "221"]
    for piecewise in (False, True):
        client = smtpd()
        if piecewise:
            for byte in script:
                client.write(bytes([byte]))
        else:
            client.write(script)
        assert [client.reply()[:3] for _ in codes] == codes
        end(client, 0)
    texts = sorted(text.split(b"\n", 2)[2] for _, _, text in queue_content(home))
    assert texts == [b"a\n.b\n", b"a\n.b\n", b"c\n", b"c\n"]


def test_pipelined_commands_after_a_refused_data_are_commands(home, smtpd):
    """No 354: what follows is no text."""
    client = smtpd()
    client.write(b"EHLO x\r\nMAIL FROM:<s@a.test>\r\nRCPT TO:<no@elsewhere.test>\r\nDATA\r\nRSET\r\nQUIT\r\n")
    assert [client.reply()[:3] for _ in range(6)] == ["250", "250", "553", "503", "250", "221"]


ADDRESSES = [
    # (argument of RCPT TO, recipient in the queue or None for a refusal)
    ("<r@home.test>", "r@home.test"), ("<R@Home.TEST>", "R@Home.TEST"), ('<"a b"@home.test>', "a b@home.test"),
    ('<"a\\"b"@home.test>', 'a"b@home.test'), ("<a\\@b@home.test>", "a@b@home.test"),
    ("<@x.test,@y.test:r@home.test>", "r@home.test"), ("r@home.test", "r@home.test"), ("<r@home.test", "r@home.test"),
    ("<>", None), ("<@home.test>", None), ("<r@elsewhere.test@home.test>", "r@elsewhere.test@home.test"),
    ("<r@home.test@elsewhere.test>", None), ("<postmaster>", "postmaster"),
    ("<r@sub.home.test>", None), ("<r@xhome.test>", None), ("<r@home.test.>", None), ("<r@>", None),
    ("<" + "x" * 880 + "@home.test>", "x" * 880 + "@home.test"),
    ("<" + "x" * 900 + "@home.test>", None),
]


@pytest.mark.parametrize("argument, recipient", ADDRESSES, ids=[a[:30] for a, _ in ADDRESSES])
def test_addresses(home, smtpd, argument, recipient):
    client = smtpd()
    client.ask("HELO x")
    client.ask("MAIL FROM:<s@a.test>")
    reply = client.ask(f"RCPT TO:{argument}")
    assert (reply[:3] == "250") is (recipient is not None), reply
    if recipient is not None:
        client.ask("DATA")
        assert client.ask(b".\r\n").startswith("250")
        ((_, recipients, _),) = queue_content(home)
        assert recipients == [recipient]


def test_local_address_literal(home, smtpd):
    client = smtpd()
    client.ask("HELO x")
    client.ask("MAIL FROM:<>")
    assert client.ask("RCPT TO:<r@[127.0.0.1]>")[:3] == "250"
    assert client.ask("RCPT TO:<r@[198.51.100.77]>")[:3] == "553"
    client.ask("DATA")
    client.ask(b".\r\n")
    assert queue_content(home)[0][1] == ["r@home.test"]


def test_badmailfrom(home, smtpd):
    home.control(badmailfrom=["Bad@a.test", "@worse.test"])
    for sender, bad in (("bad@A.test", True), ("x@worse.test", True), ("good@a.test", False), ("x@sub.worse.test", False),
                        ("", False)):
        client = smtpd()
        client.ask("EHLO x")
        assert plain(client.ask(f"MAIL FROM:<{sender}>")) == "250 ok"
        reply = plain(client.ask("RCPT TO:<r@home.test>"))
        assert reply == ("553 sorry, your envelope sender is in my badmailfrom list (#5.7.1)" if bad else "250 ok"), sender


def test_rcpthosts(home, smtpd):
    home.control(rcpthosts=["one.test", ".two.test", "Three.Test"])
    client = smtpd()
    client.ask("EHLO x")
    client.ask("MAIL FROM:<>")
    for domain, accepted in (("one.test", True), ("ONE.test", True), ("a.one.test", False), ("two.test", False),
                             ("a.two.test", True), ("b.a.two.test", True), ("three.test", True), ("test", False)):
        assert (client.ask(f"RCPT TO:<r@{domain}>")[:3] == "250") is accepted, domain
    home.control(rcpthosts="")
    client = smtpd()
    client.ask("EHLO x")
    client.ask("MAIL FROM:<>")
    assert client.ask("RCPT TO:<r@one.test>")[:3] == "553", "an empty file refuses every domain"


def test_no_rcpthosts_is_no_open_relay(home, smtpd):
    home.control(rcpthosts=None)
    client = smtpd(greet=False)
    assert plain(client.reply()) == "421 unable to read controls (#4.3.0)"
    end(client, 1)
    client = smtpd(RELAYCLIENT="")
    client.ask("EHLO x")
    client.ask("MAIL FROM:<>")
    assert client.ask("RCPT TO:<r@anywhere.test>")[:3] == "250"


def test_relayclient(home, smtpd):
    client = smtpd(RELAYCLIENT="@suffix.test")
    open_transaction(client)
    assert client.ask("RCPT TO:<r@anywhere.test>")[:3] == "250"
    client.ask("DATA")
    client.ask(b".\r\n")
    assert queue_content(home)[0][1] == ["r@home.test@suffix.test", "r@anywhere.test@suffix.test"]


# Limits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["control", "environment"])
def test_databytes(home, smtpd, by):
    variables = {}
    if by == "control":
        home.control(databytes=100)
    else:
        home.control(databytes=5)
        variables = {"DATABYTES": "100"}
    for size, accepted in ((100, True), (101, False), (1_000_000, False)):
        client = smtpd(**variables)
        open_transaction(client)
        client.ask("DATA")
        # as stored: CRLF counts as one byte, stuffed dots do not count
        reply = plain(client.ask(b"..\r\n" + b"x" * (size - 3) + b"\r\n.\r\n"))
        assert (reply[:3] == "250") is accepted, (size, reply)
        if not accepted:
            assert reply == "552 sorry, that message size exceeds my databytes limit (#5.3.4)"
            assert client.ask("NOOP")[:3] == "250", "the text was read to its end"
    assert len(queue_content(home)) == 1
    client = smtpd(**variables)
    assert "SIZE 100" in client.ask("EHLO x")
    assert client.ask("MAIL FROM:<s@a.test> SIZE=101")[:3] == "552"
    assert client.ask("MAIL FROM:<s@a.test> SIZE=100")[:3] == "250"


@pytest.mark.parametrize("parameter, code", [
    ("SIZE=10", "250"), ("BODY=8BITMIME", "250"), ("body=7bit size=5", "250"), ("SIZE=", "5"), ("SIZE=x", "5"),
    ("BODY=BINARYMIME", "5"), ("X=Y", "555"), ("AUTH=<>", "5"), ("SIZE=99999999999999999999999", "5"),
])
def test_mail_parameters(smtpd, parameter, code):
    client = smtpd()
    client.ask("EHLO x")
    assert client.ask(f"MAIL FROM:<s@a.test> {parameter}").startswith(code)


def test_hop_limit(home, smtpd):
    for fields, accepted in (
        ([b"Received: x"] * 99, True), ([b"Received: x"] * 100, False),
        ([b"received: x"] * 50 + [b"Delivered-To: y"] * 50, False),
        ([b"X-Received: x"] * 200, True), ([b"Subject: x", b""] + [b"Received: x"] * 200, True),
    ):
        client = smtpd()
        open_transaction(client)
        client.ask("DATA")
        reply = plain(client.ask(b"\r\n".join(fields) + b"\r\n\r\nbody\r\n.\r\n"))
        if accepted:
            assert reply[:3] == "250"
        else:
            assert reply == "554 too many hops, this message is looping (#5.4.6)"


def test_error_limits(home, smtpd):
    home.control(smtpsofterrors=2, smtpharderrors=4, smtperrorsleep=1)
    client = smtpd()
    times = []
    for _ in range(4):
        started = time.monotonic()
        assert client.ask("JUNK")[:3] == "502"
        times.append(time.monotonic() - started)
    assert times[0] < 0.5 and times[2] > 0.9 and times[3] > 0.9, times
    assert client.ask("JUNK")[:3] == "421"
    end(client, 1)


def test_recipient_limit(home, smtpd):
    home.control(maxrcpt=100)
    client = smtpd()
    client.ask("EHLO x")
    client.ask("MAIL FROM:<s@a.test>")
    codes = [client.ask(f"RCPT TO:<r{n}@home.test>")[:3] for n in range(103)]
    assert codes == ["250"] * 100 + ["452"] * 3
    client.ask("DATA")
    assert client.ask(b".\r\n")[:3] == "250"
    assert queue_content(home)[0][1] == [f"r{n}@home.test" for n in range(100)], "452 means: not this one"


def test_command_length(smtpd):
    client = smtpd()
    client.ask("EHLO x")
    assert client.ask("NOOP " + "x" * 400)[:3] == "250"
    for length in (5_000, 100_000, 10_000_000):
        client.write(b"NOOP " + b"x" * length + b"\r\n")
        assert client.reply()[:3] == "500", length
        assert client.ask("NOOP")[:3] == "250", "the whole line was the error, its tail is no command"


@pytest.mark.parametrize("line", [b"NOOP\0junk", b"MAIL FROM:<a\0b@c>", b"\0", b"NO\rOP", b"MAIL FROM:<a\rb@c>"])
def test_nul_and_cr_in_commands(home, smtpd, line):
    client = smtpd()
    client.ask("EHLO x")
    assert client.ask(line + b"\r\n")[:1] == "5"
    assert client.ask("NOOP")[:3] == "250"


def test_timeout(home, smtpd):
    home.control(timeoutsmtpd=1)
    client = smtpd()
    assert plain(client.reply()) == "451 timeout (#4.4.2)"
    end(client, 1)
    client = smtpd()
    open_transaction(client)
    client.ask("DATA")
    client.write(b"half a message\r\n")
    assert plain(client.reply()) == "451 timeout (#4.4.2)"
    end(client, 1)
    wait("nothing to be queued", home.queue_is_empty)


def test_client_that_does_not_read(home, smtpd):
    """Replies pile up: a write timeout ends it in silence."""
    home.control(timeoutsmtpd=1)
    client = smtpd()
    client.socket.settimeout(5)
    started = time.monotonic()
    with pytest.raises((BrokenPipeError, ConnectionResetError, socket.timeout)):
        while time.monotonic() - started < 20:
            client.write(b"HELP\r\n" * 1000)
    assert client.process.wait(10) == 1


@pytest.mark.parametrize("where", range(6))
def test_connection_lost_anywhere_queues_nothing(home, smtpd, where):
    steps = [b"EHLO x\r\n", b"MAIL FROM:<s@a.test>\r\n", b"RCPT TO:<r@home.test>\r\n", b"DATA\r\n", b"text\r\n", b".\r"]
    client = smtpd()
    for step in steps[:where + 1]:
        client.write(step)
    time.sleep(0.1)
    client.close()
    assert client.process.wait(10) == 1
    wait("nothing to be queued", home.queue_is_empty)


# The end of the text ---------------------------------------------------------------------------------------

SMUGGLED = b"MAIL FROM:<smuggled@a.test>\r\nRCPT TO:<r@home.test>\r\nDATA\r\nevil\r\n.\r\n"


@pytest.mark.parametrize("false_end", [
    b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r", b"\n.\r", b"\r\n.\r\r\n", b"\r\n\0.\r\n", b"\r\n.\0\r\n",
    b"\r\r\n.\r\r\n",
])
def test_only_crlf_dot_crlf_ends_the_text(home, smtpd, false_end):
    """SMTP smuggling: whatever the server makes of it, nothing behind a false end is a command."""
    client = smtpd()
    open_transaction(client)
    client.ask("DATA")
    client.write(b"text" + false_end + SMUGGLED)
    reply = client.reply()
    bare = re.search(rb"(?<!\r)\n|\r(?!\n)", b"text" + false_end + b"M")
    assert reply[:3] in (("451", "554") if bare else ("250",)), reply
    client.socket.settimeout(1)
    rest = b""
    try:
        while (line := client.line()) is not None:
            rest += line + b"\n"
    except (socket.timeout, TimeoutError):
        pass
    assert b"354" not in rest and b"250" not in rest, rest
    assert all(sender != "smuggled@a.test" for sender, _, _ in queue_content(home))
    assert len(queue_content(home)) == (0 if bare else 1)


TEXTS = [
    (b".\r\n", b""), (b"\r\n.\r\n", b"\n"), (b"a\r\n.\r\n", b"a\n"), (b"..\r\n.\r\n", b".\n"), (b".a\r\n.\r\n", b"a\n"),
    (b"...\r\n.\r\n", b"..\n"), (b"a.\r\n.\r\n", b"a.\n"), (b"a\r\n..\r\nb\r\n.\r\n", b"a\n.\nb\n"),
    (b"\0\x80\xff\t\r\n.\r\n", b"\0\x80\xff\t\n"), (b"x" * 100_000 + b"\r\n.\r\n", b"x" * 100_000 + b"\n"),
]


@pytest.mark.parametrize("wire, stored", TEXTS, ids=[repr(w[:20]) for w, _ in TEXTS])
def test_text(home, smtpd, wire, stored):
    client = smtpd()
    open_transaction(client)
    client.ask("DATA")
    assert client.ask(wire)[:3] == "250"
    assert client.ask("NOOP")[:3] == "250"
    ((_, _, text),) = queue_content(home)
    assert text[re.match(RECEIVED, text).end():] == stored


def test_text_cut_at_random_places(home, smtpd):
    dice = random.Random(5)
    for _ in range(20):
        lines = [b"." * dice.randrange(4) + b"x" * dice.randrange(30) for _ in range(dice.randrange(40))]
        wire = b"".join((b"." if line.startswith(b".") else b"") + line + b"\r\n" for line in lines) + b".\r\n"
        client = smtpd()
        open_transaction(client)
        client.ask("DATA")
        while wire:
            cut = dice.randrange(1, 12)
            client.write(wire[:cut])
            wire = wire[cut:]
        assert client.reply()[:3] == "250"
        client.close()
        client.process.wait(10)
        expected = b"".join(line + b"\n" for line in lines)
        texts = [text[re.match(RECEIVED, text).end():] for _, _, text in queue_content(home)]
        assert expected in texts


# Received --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variables, hello, head", [
    ({}, "EHLO me", b"from unknown (HELO me) (192.0.2.7)\n  by 192.0.2.1 with ESMTP id "),
    ({}, "HELO me", b"from unknown (HELO me) (192.0.2.7)\n  by 192.0.2.1 with SMTP id "),
    ({"TCPREMOTEHOST": "Me"}, "EHLO mE", b"from Me (192.0.2.7)\n  by 192.0.2.1 with ESMTP id "),
    ({"TCPREMOTEHOST": "me", "TCPREMOTEINFO": "joe", "TCPLOCALHOST": "here"}, "EHLO you",
     b"from me (HELO you) (joe@192.0.2.7)\n  by here with ESMTP id "),
    ({"TCPREMOTEIP": None, "TCPLOCALIP": None}, "EHLO me", b"from unknown (HELO me) (unknown)\n  by unknown with ESMTP id "),
    ({"TCPREMOTEINFO": "a\nb c"}, "EHLO x_y(z)\x80<>\"", b"from unknown (HELO x?y?z?????) (a?b?c@192.0.2.7)\n  by "),
])
def test_received_line(home, smtpd, variables, hello, head):
    client = smtpd(**variables)
    open_transaction(client, hello)
    client.ask("DATA")
    assert client.ask(b".\r\n")[:3] == "250"
    text = queue_content(home)[0][2]
    assert text.startswith(b"Received: " + head), text
    assert re.fullmatch(RECEIVED, text)


def test_ids_are_unique(home, smtpd):
    client = smtpd()
    client.ask("EHLO x")
    ids = set()
    for _ in range(50):
        client.write(b"MAIL FROM:<>\r\nRCPT TO:<r@home.test>\r\nDATA\r\n.\r\n")
        ids.add(re.search(REPLY, [client.reply() for _ in range(4)][3])["id"])
    assert len(ids) == 50 and all(len(i) == 26 for i in ids)


# The queue program -----------------------------------------------------------------------------------------

QUEUE_EXITS = [
    (11, "554 envelope address too long for qq (#5.1.3)"), (115, "554 envelope address too long for qq (#5.1.3)"),
    (31, "554 mail server permanently rejected message (#5.3.0)"), (12, "554 qq permanent problem (#5.3.0)"),
    (40, "554 qq permanent problem (#5.3.0)"), (51, "451 qq out of memory (#4.3.0)"), (52, "451 qq timeout (#4.3.0)"),
    (53, "451 qq write error or disk full (#4.3.0)"), (54, "451 qq read error (#4.3.0)"),
    (55, "451 qq unable to read configuration (#4.3.0)"), (56, "451 qq trouble making network connection (#4.3.0)"),
    (61, "451 qq trouble in home directory (#4.3.0)"), (62, "451 qq trouble creating files in queue (#4.3.0)"),
    (66, "451 qq trouble creating files in queue (#4.3.0)"), (71, "451 mail server temporarily rejected message (#4.3.0)"),
    (72, "451 connection to mail server timed out (#4.4.1)"), (73, "451 connection to mail server rejected (#4.4.1)"),
    (74, "451 communication with mail server failed (#4.4.2)"), (81, "451 qq internal bug (#4.3.0)"),
    (91, "451 qq internal bug (#4.3.0)"), (111, "451 qq temporary problem (#4.3.0)"), (120, "451 unable to exec qq (#4.3.0)"),
    (10, "451 qq temporary problem (#4.3.0)"), (41, "451 qq temporary problem (#4.3.0)"), (1, "451 qq temporary problem (#4.3.0)"),
    (255, "451 qq temporary problem (#4.3.0)"), (82, "451 qq temporary problem (#4.3.0)"),
]


@pytest.fixture
def script(tmp_path):
    def script(text):
        file = tmp_path / "queue-program"
        file.write_text("#!/bin/sh\n" + text)
        file.chmod(0o755)
        return str(file)
    return script


def refused(client, text=b"x\r\n.\r\n"):
    open_transaction(client)
    client.ask("DATA")
    return plain(client.ask(text))


def test_exit_codes_of_queue(smtpd, script):
    for code, reply in QUEUE_EXITS:
        program = script(f"cat >/dev/null; cat <&1 >/dev/null; exit {code}\n")
        assert refused(smtpd(QMAILQUEUE=program)) == reply, code
    assert refused(smtpd(QMAILQUEUE=script("kill -9 $$\n"))) == "451 qq crashed (#4.3.0)"
    assert refused(smtpd(QMAILQUEUE="/nonexistent")) in ("451 unable to exec qq (#4.3.0)", "451 qqt failure (#4.3.0)")


@pytest.mark.parametrize("text, reply", [
    ("Dno way (#5.7.1)", "554 no way (#5.7.1)"), ("Zlater", "451 later"), ("D", "451 qq temporary problem (#4.3.0)"),
    ("D\\r\\n250 ok forged\\r\\n", None), ("Dx\\001\\033[31my", None), ("Z" + "y" * 1000, None),
])
@pytest.mark.parametrize("descriptor", [4, 6])
@pytest.mark.parametrize("code", [82, 88])
def test_custom_rejection(smtpd, script, text, reply, descriptor, code):
    program = script(f"cat >/dev/null; cat <&1 >/dev/null; printf '{text}' >&{descriptor}; exit {code}\n")
    client = smtpd(QMAILQUEUE=program)
    answer = refused(client)
    if reply:
        assert answer == reply
    else:
        assert answer[:3] in ("554", "451") and re.fullmatch(r"[\x20-\x7e]*", answer) and len(answer) < 300
    assert client.ask("NOOP")[:3] == "250", "no forged reply line in between"


def test_queue_that_reads_nothing_but_says_yes(smtpd, script):
    """Exit 0 counts only if everything was written."""
    client = smtpd(QMAILQUEUE=script("exit 0\n"))
    assert refused(client, b"x" * 1_000_000 + b"\r\n.\r\n") == "451 qq read error (#4.3.0)"


def test_full_queue_disk(home, smtpd):
    (home.queue / "mess").rename(home.path / "away")
    assert refused(smtpd()) == "451 qq trouble creating files in queue (#4.3.0)"


# Environment of the program --------------------------------------------------------------------------------


def test_controls_missing_or_unreadable(home, smtpd):
    home.control(me=None)
    client = smtpd(greet=False)
    assert plain(client.reply()) == "421 unable to read controls (#4.3.0)"
    end(client, 1)
    home.control(me="home.test", smtpgreeting="Good day")
    client = smtpd(greet=False)
    assert client.reply() == "220 Good day ESMTP"
    (home.path / "control" / "badmailfrom").mkdir()
    client = smtpd(greet=False)
    assert plain(client.reply()) == "421 unable to read controls (#4.3.0)"


def test_under_tcpserver_unchanged(home):
    """ucspi-tcp's tcpserver instead of listen."""
    port = free_port()
    server = subprocess.Popen(["tcpserver", "-HRl0", "127.0.0.1", str(port), str(home.program("smtpd"))],
                              env=home.environment(), stderr=subprocess.DEVNULL)
    try:
        def connect():
            try:
                return Raw(port)
            except OSError:
                return None
        with wait("tcpserver", connect) as client:
            assert client.reply().startswith("220 ")
            assert refused(client)[:3] == "250"
    finally:
        server.kill()
        server.wait()
    assert b"(127.0.0.1)" in queue_content(home)[0][2]
