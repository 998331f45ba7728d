"""One message to 1,000 recipients, half local, half remote, some bad: one bounce that names exactly the bad ones."""

import re
import smtplib

from server import Server
from test_retry import notice


def refuse(line, _):
    if b"-bad@" in line:
        return b"550 5.1.1 no such user\r\n"
    return b"250 2.1.5 ok\r\n"


def test_thousand_recipients(home, apus):
    home.control(maxrcpt=1000, concurrencylocal=20, concurrencyremote=20)
    home.alias("back", "./Maildir-back/")
    home.alias("bad-default", "|echo No such user here.; exit 100")
    local = [f"{'bad-' if n % 50 == 0 else 'good'}{n}@home.test" for n in range(500)]
    remote = [f"r{n}{'-bad' if n % 40 == 0 else ''}@far.test" for n in range(500)]
    bad = {r for r in local if r.startswith("bad-")} | {r for r in remote if "-bad@" in r}
    assert len(bad) == 10 + 13
    text = b"Subject: to all\r\n\r\nHello all.\r\n"
    with Server({"RCPT": refuse}) as server:
        home.control(smtproutes=f":127.0.0.1:{server.port}")
        apus.start()
        with smtplib.SMTP("127.0.0.1", apus.port, timeout=60) as client:
            mixed = [r for pair in zip(local, remote) for r in pair]
            assert client.sendmail("back@home.test", mixed, text) == {}
        apus.settle(deadline=100)
        assert sorted(server.recipients()) == sorted(set(remote) - bad)
        assert all(m.text.endswith(text.replace(b"\r", b"")) for m in server.messages)
    good = home.maildir().expect(490)
    assert sorted(m.delivered_to for m in good) == sorted(set(local) - bad)
    assert {m.from_smtp[1] for m in good} == {text.replace(b"\r", b"")}
    (message,) = home.maildir("Maildir-back").expect(1)
    paragraphs, sender, original = notice(message, "back@home.test")
    named = [re.match(rb"<([^\n]*)>:\n", p)[1].decode() for p in paragraphs]
    assert sorted(named) == sorted(bad)
    for paragraph in paragraphs:
        if b"far.test" in paragraph.split(b"\n")[0]:
            assert b"does not like recipient.\nRemote host said: 550 5.1.1 no such user" in paragraph
        else:
            assert b"No such user here." in paragraph
    assert original.endswith(text.replace(b"\r", b""))
    assert len(apus.log.find(r"^bounce msg ")) == 1
    assert len(apus.log.find(r"^delivery \d+: failure: ")) == len(bad)
    assert len(apus.log.find(r"^delivery \d+: success: ")) == 1000 - len(bad) + 1
