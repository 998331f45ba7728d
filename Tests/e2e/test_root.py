"""Root mode: the same programs under users of their own, and what each compartment may not do."""

import contextlib
import os
import pwd
import re
import shutil
import smtplib
import subprocess
import tempfile
from pathlib import Path

import pytest
from apus import BUILD, ROOT, Maildir, free_port, wait

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can install with users of their own")

ME = "root.test"


@pytest.fixture(scope="module")
def person():
    """An ordinary user with a Maildir."""
    name = f"apustest{os.getpid()}"
    # Not below pytest's own folder: nobody else may enter that one.
    base = Path(tempfile.mkdtemp(prefix="apus-root-", dir="/var/tmp"))
    base.chmod(0o755)
    subprocess.run(["useradd", "--create-home", "--home-dir", base / name, "--shell", "/bin/sh", name], check=True)
    entry = pwd.getpwnam(name)
    maildir = Maildir(base / name / "Maildir").make()
    for path in (maildir.path, *maildir.path.iterdir()):
        os.chown(path, entry.pw_uid, entry.pw_gid)
    try:
        yield entry, base
    finally:
        subprocess.run(["userdel", name], check=True)
        shutil.rmtree(base)


@pytest.fixture(scope="module")
def home(person):
    home = person[1] / "apus"
    environment = {name: value for name, value in os.environ.items() if name != "ROOTLESS"}
    subprocess.run(["sh", ROOT / "setup/install", home, BUILD], env=environment, check=True, stdout=subprocess.DEVNULL, timeout=120)
    for name, text in {"me": ME, "locals": ME, "rcpthosts": ME, "listen": f"smtp 127.0.0.1:{free_port()}"}.items():
        (home / "control" / name).write_text(text + "\n")
    return home


def users_of(home):
    """program -> user, of the processes of this home. Daemons other than these have ended."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            program = Path(os.readlink(f"/proc/{pid}/exe"))
            if program.parent == home / "bin":
                uid = int(re.search(r"^Uid:\t(\d+)\t", Path(f"/proc/{pid}/status").read_text(), re.M)[1])
                found.setdefault(program.name.removeprefix("apus-"), set()).add(pwd.getpwuid(uid).pw_name)
    return found


@pytest.fixture(scope="module")
def running(home):
    environment = {"PATH": f"{home}/bin:/usr/bin:/bin"}
    with open(home / "send.log", "wb") as log, open(home / "smtpd.log", "wb") as smtp_log:
        send = subprocess.Popen([home / "bin/apus-start", "./Maildir/"], env=environment, stdin=subprocess.DEVNULL, stdout=log)
        listen = subprocess.Popen([home / "bin/apus-listen"], env=environment, stdin=subprocess.DEVNULL, stderr=smtp_log)
        try:
            wait("all daemons", lambda: {"send", "todo", "clean", "lspawn", "rspawn", "listen"} <= users_of(home).keys())
            wait("the port", lambda: b"event=ready" in (home / "smtpd.log").read_bytes())
            yield home
        finally:
            for process in (listen, send):
                process.terminate()
                process.wait(20)
    wait(lambda: f"the daemons to end: {users_of(home)}", lambda: not users_of(home))


def log(home):
    return (home / "send.log").read_text()


def become(entry):
    def change():
        os.setgroups([])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)

    return change


def sendmail(home, person, text, *arguments):
    return subprocess.run([home / "bin/sendmail", *arguments], input=text, preexec_fn=become(person), env={"USER": person.pw_name},
                          capture_output=True, timeout=20)


def test_each_program_has_its_user(running):
    assert wait("listen to drop root", lambda: users_of(running).get("listen") == {"apusd"}) is True
    assert users_of(running) == {
        "send": {"apuss"}, "todo": {"apuss"}, "clean": {"apusq"}, "lspawn": {"root"}, "rspawn": {"apusr"}, "listen": {"apusd"},
    }


def test_from_a_script_to_its_own_maildir(running, person):
    person = person[0]
    maildir = Maildir(Path(person.pw_dir) / "Maildir")
    before = set(maildir.names())
    done = sendmail(running, person, b"Subject: script\n\nhi\n", f"{person.pw_name}@{ME}")
    assert (done.returncode, done.stderr) == (0, b"")
    (name,) = wait("delivery", lambda: set(maildir.names()) - before)
    status = os.stat(maildir.path / "new" / name)
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (person.pw_uid, person.pw_gid, 0o600)
    text = (maildir.path / "new" / name).read_bytes()
    assert re.search(rb"^Received: \(qmail \d+ invoked by uid %d\); " % person.pw_uid, text, re.M), text


def test_from_the_network_with_one_id(running, person):
    person = person[0]
    maildir = Maildir(Path(person.pw_dir) / "Maildir")
    before = set(maildir.names())
    port = int((running / "control/listen").read_text().rsplit(":", 1)[1])
    with smtplib.SMTP("127.0.0.1", port, "client.test", timeout=20) as client:
        client.ehlo()
        for command in ("MAIL FROM:<s@elsewhere.test>", f"RCPT TO:<{person.pw_name}@{ME}>"):
            assert client.docmd(command)[0] == 250
        code, reply = client.data(b"Subject: network\r\n\r\nhi\r\n")
    assert code == 250
    identity = re.search(rb" id (\w{26})$", reply)[1]
    (name,) = wait("delivery", lambda: set(maildir.names()) - before)
    text = (maildir.path / "new" / name).read_bytes()
    assert re.search(rb"^Received: \(qmail \d+ invoked from network\); ", text, re.M), text
    assert b"with ESMTP id %s; " % identity in text
    wait("the end", lambda: re.search(rf"^send id={identity.decode()} msg=\d+ event=end$", log(running), re.M))


def test_a_script_cannot_choose_its_id(running, person):
    person = person[0]
    forged = b"01ARZ3NDEKTSV4RRFFQ69G5FAV"
    text = b"Received: from x (1.2.3.4)\n  by y with ESMTP id %s; 1 Jan 2026 00:00:00 -0000\nSubject: forged\n\nhi\n" % forged
    maildir = Maildir(Path(person.pw_dir) / "Maildir")
    before = len(maildir)
    assert sendmail(running, person, text, f"{person.pw_name}@{ME}").returncode == 0
    wait("delivery", lambda: len(maildir) == before + 1)
    assert forged.decode() not in log(running)


def test_alias_forward_and_bounce(running, person):
    person = person[0]
    maildir = Maildir(Path(person.pw_dir) / "Maildir")
    before = set(maildir.names())
    (running / "alias/.qmail-onward").write_text(f"&{person.pw_name}@{ME}\n")
    done = sendmail(running, person, b"Subject: x\n\nhi\n", f"onward@{ME}", f"nobody-by-that-name@{ME}", f"postmaster@{ME}")
    assert done.returncode == 0
    names = wait(lambda: "the forwarded one and the bounce: " + log(running)[-3000:], lambda: len(new := set(maildir.names()) - before) == 2 and new)
    texts = [(maildir.path / "new" / name).read_bytes() for name in names]
    assert sum(bool(re.search(rb"^Received: \(qmail \d+ invoked by alias\); ", text, re.M)) for text in texts) == 1
    (bounce,) = [text for text in texts if re.search(rb"^Received: \(qmail \d+ invoked for bounce\); ", text, re.M)]
    assert b"\n<nobody-by-that-name@root.test>:\n" in bounce
    (file,) = wait("postmaster's", lambda: os.listdir(running / "alias/Maildir/new"))
    assert pwd.getpwuid(os.stat(running / "alias/Maildir/new" / file).st_uid).pw_name == "apusa"


FORBIDDEN = [
    # nobody outside group apus enters the queue
    ("apusd", "ls queue"), ("apusp", "ls queue"), ("apusl", "ls queue"), ("apusa", "ls queue"), ("person", "ls queue"),
    # what runs for the network reads mess/ and nothing else, and changes nothing
    ("apusr", "ls queue/info/0"), ("apusr", "ls queue/bounce"), ("apusr", "touch queue/mess/0/x"), ("apusr", "touch queue/todo/x"),
    # the scheduler cannot take away texts and envelopes: that is clean's
    ("apuss", "touch queue/mess/0/x"), ("apuss", "touch queue/todo/x"), ("apuss", "touch queue/intd/x"), ("apuss", "ls queue/pid"),
    # and clean does not know who gets what
    ("apusq", "ls queue/info/0"), ("apusq", "ls queue/local/0"), ("apusq", "ls queue/remote/0"),
    # control files and programs are root's
    ("apuss", "touch control/me"), ("apusq", "touch bin/x"), ("apusd", "touch control/me"),
    ("person", "bin/apus-start"), ("person", "bin/apus-lspawn ./Maildir/"), ("apusd", "bin/apus-lspawn ./Maildir/"),
    ("apusd", "cat bin/apus-queue"),
]


@pytest.mark.parametrize("user,act", FORBIDDEN, ids=lambda value: value.replace(" ", "-").replace("/", "."))
def test_forbidden(home, person, user, act):
    entry = person[0] if user == "person" else pwd.getpwnam(user)
    done = subprocess.run(["sh", "-c", act], cwd=home, preexec_fn=become(entry), capture_output=True, text=True, timeout=20)
    assert done.returncode != 0 and "Permission denied" in done.stderr, (done.returncode, done.stderr)


def test_queue_refuses_to_run_as_anybody_else(home, person):
    """A copy without the set-uid bit, or with another owner, queues nothing."""
    copy = person[1] / "queue-copy"
    shutil.copy(home / "bin/apus-queue", copy)
    copy.chmod(0o755)
    done = subprocess.run([copy], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=20)
    assert done.returncode == 111, "as root"
    done = subprocess.run([copy], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, preexec_fn=become(person[0]), timeout=20)
    assert done.returncode == 62, "as somebody who may not enter the queue"
    wait("an empty queue", lambda: not [
        file for name in ("pid", "mess", "intd", "todo") for file in (home / "queue" / name).rglob("*") if file.is_file()
    ])
