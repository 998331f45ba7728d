"""Many recipients: each good one gets the message once, one notice names exactly the bad ones (spec send.md 4, 10)."""

import re
import smtplib
import threading

import pytest
from apus import wait
from notices import Notice
from server import Server

TEXT = b"Subject: to all\r\n\r\nHello all.\r\n.dot\r\n"


class Far:
    """The remote side: `-bad` is refused, `-later` is refused temporarily until `ready`."""

    def __init__(self):
        self.ready = threading.Event()
        self.asked = []

    def rcpt(self, line, _):
        address = re.search(rb"<(.*)>", line)[1].decode()
        self.asked.append(address)
        if "-bad@" in address:
            return b"550 5.1.1 no such user\r\n"
        if "-later@" in address and not self.ready.is_set():
            return b"450 4.2.0 come back later\r\n"
        return b"250 2.1.5 ok\r\n"


@pytest.fixture
def far_away(home):
    far = Far()
    with Server({"RCPT": far.rcpt}) as server:
        far.server = server
        home.control(smtproutes=f":127.0.0.1:{server.port}")
        yield far


def records(home, kind, number):
    """[(mark, address)] of queue/local or queue/remote."""
    return [(chr(record[0]), record[1:].decode()) for record in home.file(kind, number).read_bytes().split(b"\0")[:-1]]


def test_thousand_recipients(home, apus, far_away):
    """By SMTP to 500 local and 500 remote ones; on both sides some are bad, some temporarily so."""
    # local: no .qmail file fits the bad ones; those that come later wait for a file
    home.control(maxrcpt=1000, concurrencylocal=20, concurrencyremote=20)
    (home.path / "alias" / ".qmail-default").unlink()
    home.alias("good-default", "./Maildir/")
    home.alias("later-default", "|test -e ready || { echo busy; exit 111; }", "./Maildir/")
    back = home.alias("back", "./Maildir-back/")
    kinds = {0: "bad", 1: "later", 2: "bad"}
    local = [f"{kinds.get(n % 30, 'good')}-{n}@home.test" for n in range(500)]
    remote = [f"{n}-{kinds.get(n % 25, 'good')}@far.test" for n in range(500)]
    bad = {r for r in local + remote if "bad" in r}
    later = {r for r in local + remote if "later" in r}
    assert (len(bad), len(later)) == (34 + 40, 17 + 20)
    apus.start()
    with smtplib.SMTP("127.0.0.1", apus.port, "client.test", timeout=60) as client:
        assert client.sendmail("back@home.test", [r for pair in zip(local, remote) for r in pair], TEXT) == {}

    # the first pass: everybody is tried once
    apus.log.expect(r"^delivery \d+: ", 1000, deadline=60)
    number = int(apus.log.find(r"^new msg (\d+)$")[0][1])
    wait("the marks", lambda: [a for k in ("local", "remote") for m, a in records(home, k, number) if m == "T"]
         == [r for r in local + remote if r in later])
    assert [a for _, a in records(home, "local", number)] == local
    assert [a for _, a in records(home, "remote", number)] == remote
    named = re.findall(r"^<(.*)>:$", home.file("bounce", number).read_text(), re.M)
    assert sorted(named) == sorted(bad)
    assert len(back) == 0 and not apus.log.find("^bounce msg")

    # the second: only those that were busy
    (home.path / "alias" / "ready").touch()
    far_away.ready.set()
    apus.alarm()
    (message,) = back.expect(1)
    apus.settle()
    assert sorted(far_away.server.recipients()) == sorted(set(remote) - bad)
    assert sorted(far_away.asked) == sorted(remote + [r for r in remote if r in later])
    good = home.maildir().expect(len(set(local) - bad))
    assert sorted(m.delivered_to for m in good) == sorted(set(local) - bad)
    text = TEXT.replace(b"\r\n", b"\n")
    assert {m.from_smtp[1] for m in good} == {text}
    assert all(m.text.endswith(b"\n" + text) for m in far_away.server.messages)

    notice = Notice.of(message, b"back@home.test")
    assert {address.decode() for address in notice.reasons} == bad
    for address, reason in notice.reasons.items():
        if address.endswith(b"@home.test"):
            assert reason == b"Sorry, no mailbox here by that name. (#5.1.1)\n"
        else:
            said = b"Remote host said: 550 5.1.1 no such user\n"
            assert reason == b"127.0.0.1 does not like recipient.\n" + said + b"Giving up on 127.0.0.1.\n" + said
    assert notice.return_path == b"back@home.test" and notice.original.endswith(b"\n" + text)
    assert len(apus.log.find(r"^bounce msg \d+ qp \d+$")) == 1
    outcomes = [line[1] for line in apus.log.find(r"^delivery \d+: (\w+): ")]
    assert {kind: outcomes.count(kind) for kind in set(outcomes)} == {
        # one success more is that of the notice
        "success": 1000 - len(bad) + 1, "failure": len(bad), "deferral": len(later),
    }


def test_stopped_and_started_in_the_middle(home, apus, far_away):
    """TERM during the passes, several times: each recipient still exactly once, one notice."""
    home.control(concurrencylocal=3, concurrencyremote=3)
    home.alias("bad-default", "|exit 100")
    local = [f"{'bad' if n % 10 == 3 else 'good'}-{n}@home.test" for n in range(120)]
    remote = [f"{n}-{'bad' if n % 10 == 7 else 'good'}@far.test" for n in range(120)]
    bad = {r for r in local + remote if "bad" in r}
    back = home.alias("back", "./Maildir-back/")
    home.enqueue(b"x\n", "back@home.test", local + remote)
    for stop in range(1, 5):
        apus.start_send()
        wait("some deliveries", lambda: len(apus.log.find(r"^delivery \d+: ")) >= 25 * stop)
        assert apus.stop_send() == 0
    assert len(apus.log.find(r"^delivery \d+: ")) < 240, "stopped too late to show anything"
    apus.start_send()
    (message,) = back.expect(1)
    apus.settle()
    assert sorted(m.delivered_to for m in home.maildir().messages()) == sorted(set(local) - bad)
    assert sorted(far_away.asked) == sorted(remote)
    assert sorted(far_away.server.recipients()) == sorted(set(remote) - bad)
    assert {a.decode() for a in Notice.of(message, b"back@home.test").reasons} == bad


# Virtual domains -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipient, stored, named", [
    ("joe@virtual.test", "list-joe@virtual.test", "joe@virtual.test"),
    ("joe@VIRTUAL.test", "list-joe@VIRTUAL.test", "joe@VIRTUAL.test"),
    ("list-joe@virtual.test", "list-list-joe@virtual.test", "list-joe@virtual.test"),
    ("joe@a.b.sub.test", "sub-joe@a.b.sub.test", "joe@a.b.sub.test"),
    ("joe@b.sub.test", "near-joe@b.sub.test", "joe@b.sub.test"),
    ("joe@elsewhere.test", "all-joe@elsewhere.test", "joe@elsewhere.test"),
    # keys of a whole address are not considered in notices: the prefix of the domain is
    ("jim@virtual.test", "jim-jim@virtual.test", "jim-jim@virtual.test"),
    ("joe@home.test", "joe@home.test", "joe@home.test"),
    ("list-joe@home.test", "list-joe@home.test", "list-joe@home.test"),
])
def test_the_prefix_of_a_virtual_domain_is_removed_in_the_notice(home, apus, recipient, stored, named):
    home.control(virtualdomains=[
        "virtual.test:list", "jim@virtual.test:jim", ".sub.test:sub", "b.sub.test:near", ":all", "back.test:",
    ], locals=["home.test", "postbox.test"])
    (home.path / "alias" / ".qmail-default").unlink()
    back = home.alias("back", "./Maildir-back/")
    home.enqueue(b"x\n", "back@postbox.test", [recipient])
    apus.start_send()
    (message,) = back.expect(1)
    assert apus.log.find(rf"^starting delivery 1: msg \d+ to local {re.escape(stored)}$")
    assert Notice.of(message, b"back@postbox.test").paragraphs == [
        b"<" + named.encode() + b">:\nSorry, no mailbox here by that name. (#5.1.1)\n"]


# Variable envelope return paths ----------------------------------------------------------------------------


def unquoted(path):
    """The bare address of a path on the wire or in Return-Path."""
    local, at, domain = path.rpartition("@")
    return re.sub(r"\\(.)", r"\1", local[1:-1]) + at + domain if local.startswith('"') else path


@pytest.mark.parametrize("sender, expanded", [
    ("list-@home.test-@[]", "list-{box}={host}@home.test"),
    ("a@list-@home.test-@[]", "a@list-{box}={host}@home.test"),
    # not of the form P@H-@[] (spec delivery.md 1): as they are
    ("list-@home.test", "list-@home.test"),
    ("nohost-@[]", "nohost-@[]"),
    ("list-@home.test-@[]x", "list-@home.test-@[]x"),
])
def test_verp(home, apus, far, sender, expanded):
    """The sender of each delivery names its recipient; both are split at the last @."""
    local, remote = ["joe@home.test", "x=y-z@home.test"], ["jim@far.test", "a@b@far.test"]
    number = home.enqueue(b"x\n", sender, local + remote)
    apus.start_send()
    apus.settle()
    assert apus.log.find(rf"^info msg {number}: bytes \d+ from <{re.escape(sender)}> qp ")
    found = [(m.delivered_to, unquoted(m.return_path)) for m in home.maildir().expect(2)]
    found += [(unquoted(r), unquoted(m.sender)) for m in far.messages for r in m.recipients]
    expected = [(r, expanded.format(box=r.rpartition("@")[0], host=r.rpartition("@")[2])) for r in local + remote]
    assert sorted(found) == sorted(expected)


def test_verp_notice_goes_to_the_list(home, apus, far_away):
    """send's own notice goes to the sender without the mark, and names the recipients that failed."""
    home.alias("gone", "|exit 100")
    owner = home.alias("list-", "./Maildir-list/")
    recipients = ["gone@home.test", "x-bad@far.test", "joe@home.test", "x-good@far.test"]
    home.enqueue(b"x\n", "list-@home.test-@[]", recipients)
    apus.start_send()
    (message,) = owner.expect(1)
    assert message.delivered_to == "list-@home.test"
    notice = Notice.of(message, b"list-@home.test")
    assert set(notice.reasons) == {b"gone@home.test", b"x-bad@far.test"}
    assert notice.return_path == b"list-@home.test"
    apus.settle()
    assert [m.sender for m in far_away.server.messages] == ["list-x-good=far.test@home.test"]
    (delivered,) = home.maildir().messages()
    assert delivered.return_path == "list-joe=home.test@home.test"


# Nobody ----------------------------------------------------------------------------------------------------


def own_lines(apus):
    return [line for line in apus.log.lines() if not line.startswith(("send ", "todo "))]


def test_no_recipients(home, apus):
    """Accepted, logged and ended at once, without a delivery and without a notice."""
    apus.start_send()
    start = len(own_lines(apus))
    apus.enqueue(b"x\n", "back@home.test", [])
    apus.log.expect("^end msg ")
    apus.settle()
    new, info, end = own_lines(apus)[start:]
    number = re.fullmatch(r"new msg (\d+)", new)[1]
    assert re.fullmatch(rf"info msg {number}: bytes \d+ from <back@home\.test> qp \d+ uid \d+", info)
    assert end == f"end msg {number}"
    assert [fact["recipients"] for fact in apus.log.facts(program="todo", event="new")] == ["0"]
    assert len(apus.log.facts(program="send", event="end", msg=number)) == 1
    assert len(home.maildir()) == 0


def test_twice_in_the_envelope_is_twice(home, apus, far):
    """As qmail: each record is a recipient of its own, and each is delivered exactly once."""
    home.enqueue(b"x\n", "s@elsewhere.test", ["a@home.test", "a@home.test", "b@far.test", "b@far.test"])
    apus.start_send()
    apus.settle()
    assert [m.delivered_to for m in home.maildir().expect(2)] == ["a@home.test"] * 2
    assert far.recipients() == ["b@far.test"] * 2
