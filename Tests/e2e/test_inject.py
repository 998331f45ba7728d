"""inject, sendmail and qread as they were built: what goes in, what the queue program is given, how they end.

The queue program is a script that keeps what it is handed (QMAILQUEUE), so no queue is needed here.
"""

import calendar
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("APUS_BUILD") or ROOT / ".build-tiny" / "release").resolve()
PREFIX = b"qmail-inject: "


class Home:
    """A home with only what these programs need, stamped as `make install` does it."""

    def __init__(self, path):
        self.path = path
        self.captured = path / "captured"
        for name in ("bin", "control", "queue", "captured"):
            (path / name).mkdir()
        self.control(me="host.example.org", defaultdomain="example.org", plusdomain="plus.org")
        record = path / "record"
        fields = [str(path).encode(), b"rootless", str(os.getuid()).encode()]
        record.write_bytes(b"".join(field + b"\0" for field in fields).ljust(1024, b"\0"))
        for name in ("inject", "sendmail", "qread"):
            built = BUILD / f"apus-{name}"
            assert built.exists(), f"not built: {built}"
            command = ["objcopy", "--update-section", f".apus.home={record}", built, path / "bin" / f"apus-{name}"]
            subprocess.run(command, check=True)
        for link in ("sendmail", "mailq", "newaliases"):
            (path / "bin" / link).symlink_to("apus-sendmail")
        self.script("capture", 'n=$(ls captured | wc -l); cat >captured/$n.message; cat <&1 >captured/$n.envelope')
        self.environment = {"PATH": os.environ["PATH"], "QMAILQUEUE": "bin/capture", "USER": "user"}

    def control(self, **files):
        for name, value in files.items():
            (self.path / "control" / name).write_text(value + "\n")

    def script(self, name, body):
        file = self.path / "bin" / name
        file.write_text(f"#!/bin/sh\n{body}\n")
        file.chmod(0o755)

    def run(self, program, *arguments, message=b"", environment=None, **more):
        env = {**self.environment, **(environment or {})}
        env = {key: value for key, value in env.items() if value is not None}
        command = [str(self.path / "bin" / program), *arguments]
        return subprocess.run(command, input=message, capture_output=True, env=env, timeout=60, **more)

    def queued(self):
        """(message, sender, [recipient, ...]) of what the queue program was given, once."""
        message, = self.captured.glob("*.message")
        records = message.with_suffix(".envelope").read_bytes().split(b"\0")
        assert records[-2:] == [b"", b""], "envelope without end"
        assert records[0][:1] == b"F" and all(record[:1] == b"T" for record in records[1:-2])
        result = message.read_bytes(), records[0][1:], [record[1:] for record in records[1:-2]]
        message.unlink()
        return result


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


@pytest.fixture
def inject(home):
    def run(*arguments, message=b"", environment=None, **more):
        return home.run("apus-inject", *arguments, message=message, environment=environment, **more)

    return run


@pytest.fixture
def sendmail(home):
    def run(*arguments, message=b"", environment=None, name="sendmail", **more):
        return home.run(name, *arguments, message=message, environment=environment, **more)

    return run


def well(process):
    assert (process.returncode, process.stderr) == (0, b""), process
    return process.stdout


# inject: the message ----------------------------------------------------------------


def test_fields_are_added_in_order(home, inject):
    before = int(time.time())
    well(inject("a@b.c", message=b"Subject: x\n\nbody\n"))
    message, sender, recipients = home.queued()
    assert (sender, recipients) == (b"user@host.example.org", [b"a@b.c"])
    lines = message.split(b"\n")
    date = re.fullmatch(rb"Date: (\d{1,2} \w{3} \d{4} \d\d:\d\d:\d\d) -0000", lines[0])
    stamp = calendar.timegm(time.strptime(date[1].decode(), "%d %b %Y %H:%M:%S"))
    assert before <= stamp <= time.time()
    ident = re.fullmatch(rb"Message-ID: <(\d{14})\.[\d.]+\.qmail@host\.example\.org>", lines[1])
    assert ident[1].decode() == time.strftime("%Y%m%d%H%M%S", time.gmtime(stamp))
    assert lines[2:] == [
        b"From: user@host.example.org", b"Cc: recipient list not shown: ;", b"Subject: x", b"", b"body", b"",
    ]


def test_message_ids_differ(home, inject):
    identities = set()
    for _ in range(50):
        well(inject("-a", "a@b.c"))
        identities.add(re.search(rb"Message-ID: .*", home.queued()[0])[0])
    assert len(identities) == 50


def test_n_prints_and_queues_nothing(home, inject):
    output = well(inject("-n", "-f", "a b@c", message=b"To: x\nBcc: y\nDate: d\nMessage-ID: m\n"))
    assert output == (
        b'Return-Path: <"a b"@c.example.org>\nFrom: user@host.example.org\nTo: x@host.example.org\n'
        b"Date: d\nMessage-ID: m\n"
    )
    assert not list(home.captured.iterdir())


ADDED = b"From: user@host.example.org\n"


@pytest.mark.parametrize(
    "message, result",
    [
        (b"To: a@b.c\nDate: d\nMessage-ID: m\n\nbody", b"To: a@b.c\nDate: d\nMessage-ID: m\n\nbody\n"),
        (b"To: a@b.c\nDate: d\nMessage-ID: m", b"To: a@b.c\nDate: d\nMessage-ID: m\n"),
        (b"To: a@b.c\nDate: d\nMessage-ID: m\nno field\n", b"To: a@b.c\nDate: d\nMessage-ID: m\n\nno field\n"),
        (b"To: a@b.c\nDate: d\nMessage-ID: m\n\n.\nmore\n", b"To: a@b.c\nDate: d\nMessage-ID: m\n\n.\nmore\n"),
        (b"To: a@b.c\nDate: d\nMessage-ID: m\n\n\0\r\n\xff", b"To: a@b.c\nDate: d\nMessage-ID: m\n\n\0\r\n\xff\n"),
        (b"To: a@b.c\nDate: d\nMessage-ID: m\nX: \0\n\n", b"To: a@b.c\nDate: d\nMessage-ID: m\nX: \0\n\n"),
        (b"From x y\nTo: a@b.c\nDate: d\nMessage-ID: m\n", b"MBOX-Line: From x y\nTo: a@b.c\nDate: d\nMessage-ID: m\n"),
    ],
)
def test_header_and_body(home, inject, message, result):
    well(inject(message=message))
    assert home.queued()[0] == ADDED + result


def test_untouched_address_fields_keep_their_bytes(home, inject):
    fields = b"To:   a@b.c ,\n\t\"J\xc3\xb6\" <d@e.f>\nFrom:x@y.z\nDate: d\nMessage-ID: m\n\n"
    well(inject(message=fields))
    assert home.queued()[0] == fields


def test_rewriting_uses_control_files_and_environment(home, inject):
    message = b"To: u, u@c, u@d+, u@e.f., <@r:u@s>, u@[]\n"
    home.control(defaulthost="dh")

    def to(**environment):
        well(inject("-H", message=message, environment=environment))
        queued = home.queued()
        return queued[2], re.search(rb"To: .*\n(?: .*\n)*", queued[0])[0]

    recipients, field = to()
    assert recipients == [
        b"u@dh.example.org", b"u@c.example.org", b"u@d.plus.org", b"u@e.f", b"u@s.example.org", b"u@[]",
    ]
    assert field == (
        b"To: u@dh.example.org, u@c.example.org, u@d.plus.org, u@e.f, <u@s.example.org>,\n  u@[]\n"
    )
    recipients, _ = to(QMAILDEFAULTHOST="env.host", QMAILDEFAULTDOMAIN="dd", QMAILPLUSDOMAIN="pd")
    assert recipients == [b"u@env.host", b"u@c.dd", b"u@d.pd", b"u@e.f", b"u@s.dd", b"u@[]"]


def test_without_control_files(home, inject):
    for file in (home.path / "control").iterdir():
        file.unlink()
    well(inject("u", message=b"To: u@c\n"))
    message, sender, recipients = home.queued()
    assert (sender, recipients) == (b"user@defaulthost.defaultdomain", [b"u@defaulthost.defaultdomain"])
    assert b".qmail@idhost>\n" in message and b"To: u@c.defaultdomain\n" in message


def test_odd_control_files_are_named(home, inject):
    home.control(idhost="with.cr\r")
    process = inject("-n", "a@b.c", message=b"To: a@b.c\n")
    assert process.returncode == 0
    assert process.stderr == PREFIX + b"warning: control/idhost: line 1 ends with CR\n"


# inject: the envelope -----------------------------------------------------------------

HEADER = b"To: t@b.c\nCc: c@b.c\nBcc: bc@b.c\nApparently-To: at@b.c\nFrom: f@b.c\n\n"
FROM_HEADER = [b"t@b.c", b"c@b.c", b"bc@b.c", b"at@b.c"]


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["x@y.z"], [b"x@y.z"]),
        ([], FROM_HEADER),
        (["-h", "x@y.z"], FROM_HEADER),
        (["-a", "x@y.z"], [b"x@y.z"]),
        (["-A", "x@y.z"], [b"x@y.z"]),
        (["-A"], FROM_HEADER),
        (["-H", "x@y.z"], [b"x@y.z"] + FROM_HEADER),
        (["-H", "t@B.C", "x@y.z"], [b"t@B.C", b"x@y.z"] + FROM_HEADER[1:]),
        (["--", "-x@y.z", "a b@c"], [b"-x@y.z", b"a b@c.example.org"]),
        (["a,b<c>@d.e"], [b"a,b<c>@d.e"]),
    ],
)
def test_recipients(home, inject, arguments, expected):
    well(inject(*arguments, message=HEADER))
    message, _, recipients = home.queued()
    assert recipients == expected
    assert b"bc@b.c" not in message and b"To: t@b.c\n" in message


def test_resent_recipients(home, inject):
    well(inject(message=HEADER.replace(b"\n\n", b"\nResent-To: r@b.c\nResent-Bcc: rb@b.c\n\n")))
    message, _, recipients = home.queued()
    assert recipients == [b"r@b.c", b"rb@b.c"]
    assert b"Resent-To: r@b.c\n" in message and b"rb@b.c" not in message and b"Resent-Cc" not in message
    assert message.startswith(b"Resent-Date: ") and b"\nResent-Message-ID: <" in message


@pytest.mark.parametrize(
    "arguments, field, environment, sender",
    [
        ([], b"", {}, b"user@host.example.org"),
        ([], b"Return-Path: <r@b.c>\n", {}, b"r@b.c"),
        (["-f", "f@b.c"], b"Return-Path: <r@b.c>\n", {"QMAILINJECT": "r"}, b"f@b.c"),
        (["-f", ""], b"Return-Path: <r@b.c>\n", {}, b""),
        (["-f", "f"], b"", {}, b"f@host.example.org"),
        ([], b"Return-Path: <>\n", {"QMAILINJECT": "r"}, b""),
        ([], b"Return-Path: <r@b.c>\n", {"QMAILINJECT": "r"}, b"r@b.c-@[]"),
        ([], b"Return-Path: <r@b.c>\n", {"QMAILINJECT": "s"}, b"user@host.example.org"),
        ([], b"", {"QMAILINJECT": "r"}, b"user-@host.example.org-@[]"),
        ([], b"", {"QMAILSUSER": "s", "QMAILSHOST": "h.i"}, b"s@h.i"),
    ],
)
def test_sender(home, inject, arguments, field, environment, sender):
    well(inject(*arguments, "x@y.z", message=field + b"To: x@y.z\n", environment=environment))
    message, queued, _ = home.queued()
    assert queued == sender
    assert b"Return-Path" not in message


def test_verp_for_each_message(home, inject):
    now = time.time()
    well(inject("x@y.z", environment={"QMAILINJECT": "mr"}))
    found = re.fullmatch(rb"user-(\d+)\.(\d+)-@host\.example\.org-@\[\]", home.queued()[1])
    assert abs(int(found[1]) - now) < 5 and int(found[2]) > 1


def test_mailing_lists_are_read_where_the_caller_is(home, inject, tmp_path):
    (tmp_path / "lists").write_text("# mine\nlist@b.c  \n")
    fields = b"To: LIST@B.C, x@y.z\nCc: c@b.c\n"
    well(inject(message=fields, environment={"QMAILMFTFILE": "lists"}, cwd=tmp_path))
    assert b"Mail-Followup-To: c@b.c,\n  LIST@B.C,\n  x@y.z\nTo: LIST" in home.queued()[0]
    well(inject(message=fields, environment={"QMAILMFTFILE": "no such file"}, cwd=tmp_path))
    assert b"Mail-Followup-To" not in home.queued()[0]


# inject: how it ends ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [(["a@)"], b""), (["-f", "a@("], b""), (["x@y.z"], b"From: a )\n"), ([""], b""), (["x@y.z"], b"Sender: \0\n")],
)
def test_what_cannot_be_parsed(home, inject, arguments, message):
    process = inject(*arguments, message=message)
    assert process.returncode == 100
    assert process.stderr.startswith(PREFIX + b"fatal: unable to parse this line:\n")
    assert b"\0" not in process.stderr
    assert not list(home.captured.iterdir())


@pytest.mark.parametrize("field", [b"To: a@b.c, (", b"To: a@b.c; >, d@e.f", b"To: \0@b.c, d@e.f"])
def test_recipient_field_that_cannot_be_parsed(home, inject, field):
    process = inject(message=field + b"\nCc: x@y.z\nBcc: ) secret@b.c\n")
    assert process.returncode == 0
    assert process.stderr.count(PREFIX + b"warning: unable to parse this line:\n") == 2
    message, _, recipients = home.queued()
    assert recipients == [b"x@y.z"]
    assert field + b"\n" in message and b"secret" not in message


def test_no_recipients(home, inject):
    process = inject(message=b"Subject: x\n")
    assert process.returncode == 0 and b"no recipients" in process.stderr
    assert home.queued()[2] == []


@pytest.mark.parametrize("arguments", [["-z"], ["-f"], ["-nq"]])
def test_usage(inject, arguments):
    process = inject(*arguments)
    assert process.returncode == 100 and process.stderr.startswith(PREFIX + b"usage: ")


@pytest.mark.parametrize(
    "script, status, text",
    [
        ("exit 11", 100, "envelope address too long for qq (#5.1.3)"),
        ("exit 31", 100, "mail server permanently rejected message (#5.3.0)"),
        ("exit 40", 100, "qq permanent problem (#5.3.0)"),
        ("exit 53", 111, "qq write error or disk full (#4.3.0)"),
        ("exit 54", 111, "qq read error (#4.3.0)"),
        ("exit 91", 111, "qq internal bug (#4.3.0)"),
        ("kill -9 $$", 111, "qq crashed (#4.3.0)"),
        ("cat >/dev/null; cat <&1 >/dev/null; printf 'Dno\\nway' >&6; exit 82", 100, "noway"),
        ("printf 'Zlater' >&4; exit 82", 111, "later"),
    ],
)
def test_the_queue_program_refuses(home, inject, script, status, text):
    home.script("refuse", script)
    # Larger than a pipe, so that the writer is told of the closed pipe.
    message = b"To: a@b.c\n\n" + b"x" * 300_000
    process = inject(message=message, environment={"QMAILQUEUE": "bin/refuse"})
    assert (process.returncode, process.stderr) == (status, PREFIX + b"fatal: " + text.encode() + b"\n")


def test_no_queue_program(inject):
    process = inject("a@b.c", environment={"QMAILQUEUE": "bin/none"})
    assert (process.returncode, process.stderr) == (111, PREFIX + b"fatal: unable to exec qq (#4.3.0)\n")
    # Without the variable it is bin/apus-queue of the home, which this one lacks.
    process = inject("a@b.c", environment={"QMAILQUEUE": None})
    assert (process.returncode, process.stderr) == (111, PREFIX + b"fatal: unable to exec qq (#4.3.0)\n")


def test_no_home(home, inject):
    shutil.move(home.path / "bin" / "apus-inject", home.path.parent / "apus-inject-moved")
    shutil.rmtree(home.path)
    process = subprocess.run([home.path.parent / "apus-inject-moved", "a@b.c"], input=b"", capture_output=True)
    assert process.returncode == 111 and b"home directory" in process.stderr


def test_unreadable_control_file(home, inject):
    (home.path / "control" / "me").unlink()
    (home.path / "control" / "me").mkdir()
    process = inject("a@b.c")
    assert process.returncode == 111 and b"control/me" in process.stderr


def test_descriptors_that_are_closed(home):
    program = home.path / "bin" / "apus-inject"
    for redirection in ("<&-", "</"):
        process = subprocess.run(["sh", "-c", f"{program} a@b.c {redirection}"], capture_output=True, env=home.environment)
        assert process.returncode == 111 and b"read error" in process.stderr
    process = subprocess.run(["sh", "-c", f"{program} -n a@b.c </dev/null >/dev/full"], capture_output=True)
    assert process.returncode == 111 and b"write error" in process.stderr
    assert not list(home.captured.iterdir())


# inject: size --------------------------------------------------------------------------


def peak(home, arguments, pieces):
    """Runs inject with a message given in pieces. (status, stderr, its largest memory in MB, None if nothing came)."""
    # The queue program's parent is inject. (The rusage of a child counts the memory of this test before the exec too.)
    home.script("count", "wc -c >captured/0.count; cat <&1 >captured/0.envelope; cat /proc/$PPID/status >captured/status")
    process = subprocess.Popen(
        [home.path / "bin" / "apus-inject", *arguments],
        stdin=subprocess.PIPE, stderr=subprocess.PIPE, env={**home.environment, "QMAILQUEUE": "bin/count"},
    )
    try:
        for piece in pieces:
            process.stdin.write(piece)
        process.stdin.close()
    except BrokenPipeError:
        pass
    error = process.stderr.read()
    status = process.wait(60)
    told = home.captured / "status"
    megabytes = int(re.search(r"VmHWM:\s+(\d+)", told.read_text())[1]) / 1024 if told.exists() else None
    return status, error, megabytes


def count(home):
    return int((home.captured / "0.count").read_text())


@pytest.mark.parametrize("line", [b"x" * 76 + b"\n", b"x" * 1000], ids=["lines", "one line"])
def test_200_megabytes(home, line):
    piece = line * 10_000
    pieces = -(-200_000_000 // len(piece))
    status, error, megabytes = peak(home, ["a@b.c"], [b"To: a@b.c\n\n"] + [piece] * pieces)
    assert (status, error) == (0, b"")
    assert pieces * len(piece) < count(home) < pieces * len(piece) + 1000
    assert megabytes < 8, megabytes


def test_200_megabytes_that_have_no_line_at_all(home):
    status, error, megabytes = peak(home, ["a@b.c"], [b"x" * 1_000_000] * 200)
    assert (status, error) == (0, b"")
    assert 200_000_000 < count(home) < 200_001_000
    assert megabytes < 8, megabytes


@pytest.mark.parametrize("line", [b"X: y\n", b" continued\n", b"x"], ids=["fields", "continuation", "one line"])
def test_header_that_never_ends(home, line):
    status, error, _ = peak(home, ["a@b.c"], [b"A: b\n "] + [line * 10_000] * 5000)
    assert (status, error) == (100, PREFIX + b"fatal: header is longer than 16777216 bytes\n")
    assert not list(home.captured.glob("0.*"))


def test_line_of_ten_megabytes(home, inject):
    subject = b"Subject: " + b"x" * 10_000_000 + b"\n"
    well(inject(message=b"To: a@b.c\n" + subject + b"\nbody\n"))
    assert subject in home.queued()[0]


def test_many_recipients(home, inject):
    names = [b"u%d@b.c" % n for n in range(100_000)]
    well(inject(message=b"Bcc: " + b",\n ".join(names) + b"\n"))
    assert home.queued()[2] == names


HOSTILE = {
    "open": b"(" * 1_000_000, "nested": b"(" * 500_000 + b")" * 500_000, "left": b"<" * 1_000_000,
    "angles": b"<>" * 400_000, "colons": b"a:" * 500_000, "commas": b"," * 1_000_000, "words": b"a " * 400_000,
    "literal": b"[" * 1_000_000, "backslashes": b"\\" * 1_000_001, "dots": b"." * 1_000_000, "quotes": b'""' * 400_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_fields(home, name):
    status, _, megabytes = peak(home, [], [b"To: ", HOSTILE[name], b"\n\nbody\n"])
    assert status == 0 and megabytes < 300
    status, _, _ = peak(home, ["x@y.z"], [b"From: ", HOSTILE[name], b"\n\nbody\n"])
    assert status in (0, 100)


# sendmail ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, recipients",
    [
        (["x@y.z"], [b"x@y.z"]),
        (["-t"], FROM_HEADER),
        (["-t", "x@y.z"], [b"x@y.z"] + FROM_HEADER),
        (["-i", "-oi", "-oem", "-em", "-m", "-v", "-x", "-bm", "-B8BITMIME", "-B", "7BIT", "-p", "q", "x@y.z"], [b"x@y.z"]),
        (["-N", "success", "-Rfull", "-V", "id", "-O", "a=b", "-L", "tag", "-U", "-G", "-Ewhat", "-J", "x@y.z"], [b"x@y.z"]),
        (["-o", "-t", "x@y.z"], [b"x@y.z"]),
        (["-b", "m", "--", "-t"], [b"-t@host.example.org"]),
        (["-ti"], FROM_HEADER),
    ],
)
def test_sendmail_options(home, sendmail, arguments, recipients):
    well(sendmail(*arguments, message=HEADER))
    assert home.queued()[2] == recipients


@pytest.mark.parametrize(
    "arguments, environment, sender, author",
    [
        ([], {}, b"user@host.example.org", b"user@host.example.org"),
        (["-f", "f@b.c"], {}, b"f@b.c", b"f@b.c"),
        (["-ff@b.c"], {"NAME": "N", "QMAILNAME": "Q", "MAILHOST": "h"}, b"f@b.c", b"f@b.c"),
        (["-f", "f"], {"QMAILHOST": "h.i"}, b"f@host.example.org", b"f@host.example.org"),
        (["-r", "f@b.c"], {}, b"f@b.c", b"f@b.c"),
        (["-F", "My Name"], {}, b"user@host.example.org", b'"My Name" <user@host.example.org>'),
        (["-F", "My Name", "-f", "f@b.c"], {"QMAILNAME": "Q"}, b"f@b.c", b'"My Name" <f@b.c>'),
        (["-f", "f@b.c", "-FMy Name"], {}, b"f@b.c", b'"My Name" <f@b.c>'),
        (["-f", ""], {}, b"", b"user@host.example.org"),
        (["-f", "<>"], {}, b"", b"user@host.example.org"),
        (["-f", "<f@b.c>"], {}, b"f@b.c", b"f@b.c"),
    ],
)
def test_sendmail_sender(home, sendmail, arguments, environment, sender, author):
    well(sendmail(*arguments, "x@y.z", message=b"To: x@y.z\n", environment=environment))
    message, queued, _ = home.queued()
    assert queued == sender
    assert b"\nFrom: " + author + b"\n" in message


def test_sendmail_dot_is_text(home, sendmail):
    well(sendmail("x@y.z", message=b"To: x@y.z\n\na\n.\nb\n"))
    assert home.queued()[0].endswith(b"\n\na\n.\nb\n")


def test_sendmail_ignores_q_and_says_so(home, sendmail):
    process = sendmail("-q30m")
    assert process.returncode == 0 and b"-q ignored" in process.stderr
    assert not list(home.captured.iterdir())
    process = sendmail("-q", "x@y.z")
    assert process.returncode == 0 and b"-q ignored" in process.stderr
    assert home.queued()[2] == [b"x@y.z"]


@pytest.mark.parametrize("arguments", [["-bd"], ["-bx"], ["-b"], ["-Z"], ["-f"], ["-iZ"], ["-h"], ["-bp", "-Z"]])
def test_sendmail_usage(home, sendmail, arguments):
    process = sendmail(*arguments)
    assert process.returncode == 100 and process.stderr.startswith(b"sendmail: usage: ")


def test_sendmail_passes_on_how_inject_ends(home, sendmail):
    assert sendmail("a@)").returncode == 100
    assert sendmail("a@b.c", environment={"QMAILQUEUE": "bin/none"}).returncode == 111
    (home.path / "bin" / "apus-inject").unlink()
    process = sendmail("a@b.c")
    assert process.returncode == 111 and process.stderr.startswith(b"sendmail: fatal: ")


def test_newaliases(sendmail):
    for process in (sendmail(name="newaliases"), sendmail("-bi")):
        assert process.returncode == 100 and b"aliases" in process.stderr


def test_sendmail_bs(home, sendmail):
    home.script("apus-smtpd", "pwd; env | sort; cat")
    told = {
        "RELAYCLIENT": "", "DATABYTES": "0", "PROTO": "TCP", "TCPLOCALIP": "127.0.0.1", "TCPLOCALHOST": "localhost",
        "TCPREMOTEIP": "127.0.0.1", "TCPREMOTEHOST": "localhost", "TCPREMOTEINFO": "sendmail-bs",
    }

    def environment(**given):
        output = well(sendmail("-bs", message=b"quit\n", environment=given)).decode().splitlines()
        assert output[0] == str(home.path) and output[-1] == "quit"
        values = dict(line.split("=", 1) for line in output[1:-1])
        return {key: values[key] for key in told if key in values}

    assert environment() == told
    assert environment(PROTO="SSL", TCPREMOTEIP="192.0.2.1") == {"PROTO": "SSL", "TCPREMOTEIP": "192.0.2.1"}


# qread -----------------------------------------------------------------------------------


class Queue:
    def __init__(self, home):
        self.path = home.path / "queue"
        for name in ("mess", "info", "local", "remote"):
            for part in range(23):
                (self.path / name / str(part)).mkdir(parents=True)
        (self.path / "bounce").mkdir()

    def put(self, number, time, info=b"Fs@b.c\0", size=0, **files):
        part = str(number % 23)
        (self.path / "mess" / part / str(number)).write_bytes(b"x" * size)
        file = self.path / "info" / part / str(number)
        file.write_bytes(info)
        os.utime(file, (time, time))
        for name, content in files.items():
            place = self.path / name if name == "bounce" else self.path / name / part
            (place / str(number)).write_bytes(content)


MAILQ = [("apus-qread", []), ("mailq", []), ("sendmail", ["-bp"])]


@pytest.mark.parametrize("program, arguments", MAILQ)
def test_qread(home, program, arguments):
    queue = Queue(home)
    queue.put(23, 1795238608, size=1234, local=b"Ta@b.c\0Dd\0", remote=b"Dx@y.z\0")
    queue.put(24, 0, info=b"F\0", bounce=b"text")
    queue.put(47, 951782400, info=b"F\xff\n\x1b@b.c\0", remote=b"T\x00Tr\t@b.c\0Tunfinished")
    queue.put(70, 1, info=b"")  # being preprocessed
    (queue.path / "info" / "1" / "junk").touch()
    (queue.path / "info" / "1" / "93").write_bytes(b"Fgone\0")  # its mess file has been removed
    assert well(home.run(program, *arguments)) == (
        b"21 Nov 2026 05:23:28 GMT  #23  1234  <s@b.c> \n\tlocal\ta@b.c\n  done\tlocal\td\n  done\tremote\tx@y.z\n"
        b"1 Jan 1970 00:00:00 GMT  #24  0  <>  bouncing\n"
        b"29 Feb 2000 00:00:00 GMT  #47  0  <___@b.c> \n\tremote\t\n\tremote\tr_@b.c\n"
    )


def test_qread_without_queue(home):
    process = home.run("apus-qread")
    assert process.returncode == 111 and b"directory of the queue" in process.stderr
    (home.path / "queue").rmdir()
    process = home.run("apus-qread")
    assert process.returncode == 111 and b"queue directory" in process.stderr


def test_qread_goes_on_after_a_bad_file(home):
    queue = Queue(home)
    queue.put(1, 0)
    queue.put(2, 0)
    (queue.path / "local" / "1" / "1").mkdir()
    process = home.run("apus-qread")
    assert process.returncode == 111 and b"trouble with #1: " in process.stderr
    assert b"#1 " in process.stdout and b"#2 " in process.stdout
