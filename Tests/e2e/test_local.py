"""local alone: spec delivery.md 4 to 11. Each row: what is set up, and the exit code, output and effect."""

import fcntl
import os
import re
import stat
import subprocess
import time

import pytest
from apus import Maildir, envelope, wait

MESSAGE = b"Received: (qmail 1 invoked by uid 0); 1 Jan 2025 00:00:00 -0000\nSubject: x\n\nbody\nFrom here\n>From there\nend\n"
DTLINE = b"Delivered-To: big.Ext-a@home.test\n"


class Account:
    """A home directory and the message that is delivered into it."""

    def __init__(self, home, path):
        self.apus, self.path = home, path
        path.mkdir(mode=0o755)

    def qmail(self, name, text, mode=0o644):
        file = self.path / f".qmail{name}"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        file.chmod(mode)
        return file

    def deliver(self, message=MESSAGE, local="big.Ext-a", dash="-", ext="big.Ext-a", host="home.test",
                sender="s@elsewhere.test", default="./Maildir/", options=(), home=None, timeout=30, **more):
        file = self.apus.path / "message"
        file.write_bytes(message)
        with open(file, "rb") as stdin:
            return subprocess.run(
                [str(self.apus.program("local")), *options, "--", "joe", str(home or self.path), local, dash, ext, host,
                 sender, default],
                stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout,
                env=self.apus.environment(), cwd="/", **more)

    def maildir(self, name="Maildir"):
        return Maildir(self.path / name).make()


@pytest.fixture
def account(home):
    return Account(home, home.path / "joe")


def check(done, code, text):
    assert (done.returncode, done.stdout) == (code, text), done


# Steps 1 to 12 ---------------------------------------------------------------------------------------------


def test_arguments(home, account):
    program = str(home.program("local"))
    good = ["--", "joe", str(account.path), "l", "", "", "d", "s", "./Maildir/"]
    for arguments in ([], good[:-1], good[:2] + ["relative"] + good[3:], ["-x"] + good, good + ["more"]):
        done = subprocess.run([program, *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=10)
        if arguments[-1:] == ["more"]:
            continue
        assert done.returncode == 100, arguments


def test_home_missing(account):
    assert account.deliver(home="/nonexistent/joe").returncode == 111


@pytest.mark.parametrize("mode, code, text", [
    (0o757, 111, b"Uh-oh: home directory is writable. (#4.7.0)\n"),
    (0o1755, 111, b"Home directory is sticky: user is editing his .qmail file. (#4.2.1)\n"),
    (0o775, 0, b"did 1+0+0\n"),
])
def test_home_modes(account, mode, code, text):
    account.maildir()
    account.path.chmod(mode)
    check(account.deliver(dash="", ext=""), code, text)


def test_default_delivery_to_a_maildir(account):
    maildir = account.maildir()
    check(account.deliver(dash="", ext=""), 0, b"did 1+0+0\n")
    (name,) = maildir.names()
    file = maildir.path / "new" / name
    assert file.read_bytes() == b"Return-Path: <s@elsewhere.test>\n" + DTLINE + MESSAGE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert re.fullmatch(r"\d{10,}\.M\d{1,6}P\d+Q\d+\.[^/:]+", name), name
    assert os.listdir(maildir.path / "tmp") == []


def test_message_without_final_lf_is_kept_as_it_is(account):
    maildir = account.maildir()
    text = b"Received: x\nSubject: y\n\nno end\0\xff\rx"
    assert account.deliver(text, dash="", ext="").returncode == 0
    assert (maildir.path / "new" / maildir.names()[0]).read_bytes().endswith(text)


@pytest.mark.parametrize("field, loops", [
    (DTLINE, True), (b"X: y\n" + DTLINE, True), (b"delivered-to: big.Ext-a@home.test\n", False),
    (b"Delivered-To: big.ext-a@home.test\n", False), (b"Delivered-To:  big.Ext-a@home.test\n", False),
    (b"\n" + DTLINE, False), (b"X: " + b"y" * 100_000 + b"\n" + DTLINE, True),
])
def test_loop(account, field, loops):
    account.maildir()
    done = account.deliver(field + b"Subject: x\n\nx\n", dash="", ext="")
    if loops:
        check(done, 100, b"This message is looping: it already has my Delivered-To line. (#5.4.6)\n")
    else:
        assert done.returncode == 0


# Which .qmail file -----------------------------------------------------------------------------------------

SEARCH = [
    ("-", "a", ["-a", "-default"]),
    ("-", "a-b", ["-a-b", "-a-default", "-default"]),
    ("-", "a-b-", ["-a-b-", "-a-b-default", "-a-default", "-default"]),
    ("-", "A.b-c", ["-a:b-c", "-a:b-default", "-default"]),
    ("-", "../../x", ["-::/::/x", "-default"]),
    ("", "", ["", "default"]),
    ("-", "", ["-", "-default"]),
]


@pytest.mark.parametrize("dash, ext, names", SEARCH, ids=[f"{d}{e}" for d, e, _ in SEARCH])
def test_search_order(account, dash, ext, names):
    for name in names:
        if "/" not in name:
            account.qmail(name, f"./{name or 'plain'}-box\n")
    for name in names:
        if "/" in name:
            continue
        done = account.deliver(dash=dash, ext=ext, options=["-n"])
        assert done.stdout.startswith(f"mbox ./{name or 'plain'}-box\n".encode()), (name, done)
        (account.path / f".qmail{name}").unlink()
    done = account.deliver(dash=dash, ext=ext, options=["-n"])
    if dash:
        check(done, 100, b"Sorry, no mailbox here by that name. (#5.1.1)\n")
    else:
        assert done.stdout.startswith(b"maildir ./Maildir/\n")


@pytest.mark.parametrize("ext, file, default", [
    ("A-B.c", "-default", "A-B.c"), ("A-B.c", "-a-default", "B.c"), ("x-Default", "-x-default", "Default"),
])
def test_default_variable(account, ext, file, default):
    account.qmail(file, "|echo \"<$DEFAULT>\"\n")
    assert account.deliver(ext=ext).stdout.startswith(f"<{default}>\n".encode())


def test_directory_in_the_place_of_a_qmail_file_is_skipped(account):
    (account.path / ".qmail-a").mkdir()
    account.qmail("-default", "#\n")
    check(account.deliver(ext="a"), 0, b"did 0+0+0\n")


@pytest.mark.parametrize("text, mode, code, output", [
    ("", 0o644, 0, b"did 1+0+0\n"),
    ("#only a comment\n", 0o644, 0, b"did 0+0+0\n"),
    ("\n./Maildir/\n", 0o644, 111, b"Uh-oh: first line of .qmail file is blank. (#4.2.1)\n"),
    ("  \t\n", 0o644, 111, b"Uh-oh: first line of .qmail file is blank. (#4.2.1)\n"),
    ("#\n\n./Maildir/\n", 0o644, 0, b"did 1+0+0\n"),
    ("./Maildir/", 0o644, 0, b"did 1+0+0\n"),
    ("./Maildir/  \t\n", 0o644, 0, b"did 1+0+0\n"),
    ("./Maildir/\n", 0o646, 111, b"Uh-oh: .qmail file is writable. (#4.7.0)\n"),
    ("./Maildir/\n", 0o744, 111, b"Uh-oh: .qmail has file delivery but has x bit set. (#4.7.0)\n"),
    ("|true\n", 0o744, 111, b"Uh-oh: .qmail has prog delivery but has x bit set. (#4.7.0)\n"),
    ("+list\n./Maildir/\n", 0o644, 111, b"Uh-oh: .qmail has file delivery but has x bit set. (#4.7.0)\n"),
    ("./Maildir/\n+list\n", 0o644, 0, b"did 1+0+0\n"),
    ("+other\n./Maildir/\n", 0o644, 0, b"did 1+0+0\n"),
    ("|true\n./Maildir/\n", 0o644, 0, b"did 1+0+1\n"),
    ("|exit 99\n./Maildir/\n", 0o644, 0, b"did 0+0+1\n"),
    ("|echo words; exit 100\n./Maildir/\n", 0o644, 100, b"words\n"),
    ("./nosuch/\n", 0o644, 111, b"Unable to chdir to maildir. (#4.2.1)\n"),
    ("|kill -9 $$\n", 0o644, 111, b"Aack, child crashed. (#4.3.0)\n"),
])
def test_instructions(account, text, mode, code, output):
    account.maildir()
    account.qmail("-a", text, mode)
    check(account.deliver(ext="a"), code, output)


@pytest.mark.parametrize("status, code", [
    (0, 0), (99, 0), (100, 100), (64, 100), (65, 100), (70, 100), (76, 100), (77, 100), (78, 100), (112, 100),
    (1, 111), (111, 111), (75, 111), (66, 111), (127, 111), (255, 111),
])
def test_exit_codes_of_programs(account, status, code):
    account.qmail("-a", f"|exit {status}\n")
    assert account.deliver(ext="a").returncode == code


def test_failure_stops_and_undoes_nothing(account):
    maildir = account.maildir()
    account.qmail("-a", "./Maildir/\n|exit 1\n./never\n&x@y.test\n")
    assert account.deliver(ext="a").returncode == 111
    assert len(maildir) == 1 and not (account.path / "never").exists() and account.apus.queue_is_empty()


def test_environment_of_programs(account):
    variables = ["SENDER", "NEWSENDER", "RECIPIENT", "USER", "HOME", "LOCAL", "HOST", "HOST2", "HOST3", "HOST4", "EXT",
                 "EXT2", "EXT3", "EXT4", "DEFAULT", "DTLINE", "RPLINE", "UFLINE"]
    account.qmail("-a-default", "".join(f'|printf "%s" "{name}=${name};"\n' for name in variables))
    done = account.deliver(local="joe-A-b-c", ext="A-b-c", host="x.y.home.test", sender="a b@q.test")
    assert done.returncode == 0
    text = done.stdout.decode()
    for expected in [
        "SENDER=a b@q.test;", "NEWSENDER=a b@q.test;", "RECIPIENT=joe-A-b-c@x.y.home.test;", "USER=joe;",
        f"HOME={account.path};", "LOCAL=joe-A-b-c;", "HOST=x.y.home.test;", "HOST2=x.y.home;", "HOST3=x.y;", "HOST4=x;",
        "EXT=A-b-c;", "EXT2=b-c;", "EXT3=c;", "EXT4=;", "DEFAULT=b-c;",
        "DTLINE=Delivered-To: joe-A-b-c@x.y.home.test\n;", 'RPLINE=Return-Path: <"a b"@q.test>\n;',
    ]:
        assert expected in text, (expected, text)
    assert re.search(r"UFLINE=From a-b@q\.test [A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}\n;", text), text


def test_programs_get_the_message_at_its_start_in_their_home(account):
    account.qmail("-a", "|cat >one; pwd\n|cat >two\n")
    done = account.deliver(ext="a")
    assert done.stdout == f"{account.path}\ndid 0+0+2\n".encode()
    assert (account.path / "one").read_bytes() == (account.path / "two").read_bytes() == MESSAGE


def test_hostile_sender_reaches_the_shell_as_data_only(account):
    account.qmail("-a", '|printf "%s\\n" "$SENDER" >seen\n')
    evil = "() { :; }; touch pwned; `touch pwned`$(touch pwned)'\"@x"
    assert account.deliver(ext="a", sender=evil).returncode == 0
    assert (account.path / "seen").read_text() == evil + "\n"
    assert not (account.path / "pwned").exists()


# mbox ------------------------------------------------------------------------------------------------------


def test_mbox(account):
    account.qmail("-a", "./box\n")
    for text in (MESSAGE, b"Subject: y\n\nno final lf"):
        check(account.deliver(text, ext="a", sender="a b@q.test"), 0, b"did 1+0+0\n")
    content = (account.path / "box").read_bytes()
    head = rb'From a-b@q\.test [^\n]{24}\nReturn-Path: <"a b"@q\.test>\n' + re.escape(DTLINE)
    quoted = MESSAGE.replace(b"\n>From", b"\n>>From").replace(b"\nFrom", b"\n>From")
    assert re.fullmatch(head + re.escape(quoted) + rb"\n" + head + rb"Subject: y\n\nno final lf\n\n", content), content
    assert stat.S_IMODE((account.path / "box").stat().st_mode) == 0o600


def test_mbox_write_error_is_truncated(account):
    """The file is as long as before."""
    import resource
    box = account.path / "box"
    box.write_bytes(b"before\n")
    account.qmail("-a", "./box\n")
    done = account.deliver(MESSAGE + b"y" * 300_000, ext="a",
                           preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (400_000 - 300_000, 100_000)))
    assert done.returncode == 111 and done.stdout.startswith(b"Unable to write ./box: ")
    assert box.read_bytes() == b"before\n"


def test_mbox_waits_for_a_lock(account):
    box = account.path / "box"
    box.touch()
    account.qmail("-a", "./box\n")
    with open(box, "r+b") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(subprocess.TimeoutExpired):
            account.deliver(ext="a", timeout=1)
        assert box.read_bytes() == b""
    assert account.deliver(ext="a").returncode == 0


def test_mbox_refuses_what_is_no_file(account):
    os.mkfifo(account.path / "fifo")
    (account.path / "directory").mkdir()
    for name in ("fifo", "directory", "no/such/place"):
        account.qmail("-a", f"./{name}\n")
        done = account.deliver(ext="a", timeout=10)
        assert done.returncode == 111 and done.stdout.startswith(f"Unable to open ./{name}: ".encode()), done


# Maildir ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing, text", [
    ("", b"Unable to chdir to maildir. (#4.2.1)\n"),
    ("tmp", b"Temporary error on maildir delivery. (#4.3.0)\n"),
    ("new", b"Temporary error on maildir delivery. (#4.3.0)\n"),
])
def test_maildir_spoilt(account, missing, text):
    maildir = account.maildir()
    (maildir.path / missing).rename(account.path / "away")
    check(account.deliver(dash="", ext=""), 111, text)
    if missing == "new":
        assert os.listdir(maildir.path / "tmp") == []


def test_maildir_file_size_limit_leaves_nothing(account):
    import resource
    maildir = account.maildir()
    done = account.deliver(MESSAGE + b"y" * 300_000, dash="", ext="",
                           preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)))
    check(done, 111, b"Temporary error on maildir delivery. (#4.3.0)\n")
    assert os.listdir(maildir.path / "tmp") == os.listdir(maildir.path / "new") == []


def test_maildir_twice_the_same_never_collides(account):
    maildir = account.maildir()
    account.qmail("-a", "./Maildir/\n" * 50)
    check(account.deliver(ext="a"), 0, b"did 50+0+0\n")
    assert len(maildir) == 50


# Forwarding ------------------------------------------------------------------------------------------------


def queued(home):
    """(sender, recipients, text below queue's line) of the only message in the queue."""
    (todo,) = [name for name in home.queue_files() if name.startswith("todo/")]
    number = int(todo.split("/")[1])
    records = home.file("todo", number).read_bytes().split(b"\0")[:-1]
    sender = [r[1:] for r in records if r[:1] == b"F"]
    text = home.file("mess", number).read_bytes().split(b"\n", 1)[1]
    return sender[0], [r[1:] for r in records if r[:1] == b"T"], text


def test_forward(home, account):
    account.qmail("-a", "&one@x.test\ntwo@x.test\n& <three@x.test> \n")
    done = account.deliver(ext="a")
    assert done.returncode == 0 and re.fullmatch(rb"did 0\+3\+0\nqp \d+\n", done.stdout), done
    assert queued(home) == (b"s@elsewhere.test", [b"one@x.test", b"two@x.test", b" <three@x.test>"], DTLINE + MESSAGE)


@pytest.mark.parametrize("owner, owner_default, sender, expected", [
    (False, False, "s@q.test", b"s@q.test"),
    (True, False, "s@q.test", b"joe-list-owner@home.test"),
    (True, True, "s@q.test", b"joe-list-owner-@home.test-@[]"),
    (False, True, "s@q.test", b"s@q.test"),
    (True, True, "", b""),
    (True, True, "#@[]", b"#@[]"),
])
def test_owner(home, account, owner, owner_default, sender, expected):
    account.qmail("-list", "&one@x.test\n")
    if owner:
        account.qmail("-list-owner", "")
    if owner_default:
        account.qmail("-list-owner-default", "")
    assert account.deliver(local="joe-list", ext="list", sender=sender).returncode == 0
    assert queued(home)[0] == expected


@pytest.mark.parametrize("code, ours, text", [
    (53, 111, b"Unable to forward message: qq write error or disk full (#4.3.0).\n"),
    (11, 100, b"Unable to forward message: envelope address too long for qq (#5.1.3).\n"),
    (31, 100, b"Unable to forward message: mail server permanently rejected message (#5.3.0).\n"),
])
def test_forward_refused(home, account, code, ours, text):
    account.qmail("-a", "&one@x.test\n")
    queue = home.program("queue")
    queue.unlink()
    queue.write_text(f"#!/bin/sh\ncat >/dev/null; cat <&1 >/dev/null; exit {code}\n")
    queue.chmod(0o755)
    check(account.deliver(ext="a"), ours, text)


def test_forward_after_99(home, account):
    account.qmail("-a", "&one@x.test\n|exit 99\n&two@x.test\n")
    assert account.deliver(ext="a").returncode == 0
    assert queued(home)[1] == [b"one@x.test"]


def test_dry_run_prints_and_does_nothing(home, account):
    maildir = account.maildir()
    account.qmail("-a", "#c\n./box\n./Maildir/\n|prog x\n&f@x\ng@x\n")
    check(account.deliver(ext="a", options=["-n"]), 0,
          b"mbox ./box\nmaildir ./Maildir/\nprogram prog x\nforward f@x\nforward g@x\ndid 2+2+1\n")
    assert len(maildir) == 0 and not (account.path / "box").exists() and home.queue_is_empty()


# Hostile .qmail files --------------------------------------------------------------------------------------


def test_qmail_of_10_mb_line_and_nuls(home, account):
    """Bounded: an answer, no crash."""
    for text in (b"#" + b"x" * 10_000_000 + b"\n", b"./a\0b\n", b"&" + b"y" * 5_000_000 + b"@x\n", b"\0\0\0\n"):
        account.qmail("-a", text)
        done = account.deliver(ext="a")
        assert done.returncode in (0, 100, 111), (text[:10], done)
        assert not [n for n in home.queue_files() if n.startswith("todo/")]
