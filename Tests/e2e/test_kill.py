"""kill -9 of any one program while mail flows, restarted by a supervisor: nothing acknowledged is lost, nothing is torn.

Clients send by SMTP and by sendmail and write down which messages were acknowledged; each kill comes at a random moment.
`APUS_KILL_SEED` repeats a run, `APUS_KILLS` makes it longer.
"""

import contextlib
import os
import random
import re
import signal
import subprocess
import threading
import time

import pytest
from apus import LOCAL, QUEUE_LINE, RECEIVED, Raw, envelope, run_queue, start_queue, wait

SEED = int(os.environ.get("APUS_KILL_SEED", "20261121"))
KILLS = int(os.environ.get("APUS_KILLS", "5"))
#: Whatever a program does within this many seconds, it may be killed while doing it.
PAUSES = (0.02, 0.35)


# Killing ---------------------------------------------------------------------------------------------------


def parent(pid):
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rsplit(")", 1)[1].split()[1])


def is_alive(pid):
    """Not a zombie either."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def parent_or_none(pid):
    try:
        return parent(pid)
    except OSError:
        return None


def notice_children(home):
    pids = home.pids("send")
    return [pid for pid in pids if parent_or_none(pid) in pids]


def one_program(name):
    return lambda home: home.pids(name)


def main_process(name):
    """Pids of a program that we or send started: not its own children that have not become another program yet."""

    def pids(home):
        parents = {os.getpid()} if name in ("send", "listen") else set(home.pids("send"))
        return [pid for pid in home.pids(name) if parent_or_none(pid) in parents]

    return pids


daemon = main_process("send")


class Killer:
    """Finds victims and kills them."""

    def __init__(self, home, seed):
        self.home = home
        self.random = random.Random(seed)
        self.killed = []

    def kill(self, victims, deadline=15.0, pause=PAUSES):
        """Kills one of victims(home) after a random pause, as soon as there is one."""
        time.sleep(self.random.uniform(*pause))
        end = time.monotonic() + deadline
        while time.monotonic() < end:
            pids = victims(self.home)
            self.random.shuffle(pids)
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    if is_alive(pid):
                        os.kill(pid, signal.SIGKILL)
                        self.killed.append(pid)
                        return pid
            time.sleep(0.001)
        raise AssertionError(f"no victim within {deadline} s; killed so far: {len(self.killed)}")


# Mail ------------------------------------------------------------------------------------------------------


class Traffic:
    """Clients in threads. Each message has a token in its subject; `sent` is what was tried, `acknowledged` what was taken."""

    SIZES = (0, 200, 4000, 4000, 30_000, 400_000)

    def __init__(self, apus, seed, recipients, sender="s@elsewhere.test", smtp=3, scripts=1, pace=0.01, slow=0.0):
        self.apus, self.seed, self.recipients, self.sender = apus, seed, recipients, sender
        #: Seconds that a client rests within the text of a message.
        self.slow, self.pace = slow, pace
        self.sent, self.acknowledged = {}, {}
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.errors = []
        work = [self._smtp] * smtp + [self._script] * scripts
        self.threads = [
            threading.Thread(target=self._run, args=(client, number), daemon=True) for number, client in enumerate(work)
        ]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive(), "a client hangs"

    def _run(self, client, number):
        try:
            chance = random.Random(self.seed * 100 + number)
            count = 0
            while not self.stopping.is_set():
                count += 1
                client(chance, number, lambda: f"k{number}x{self._next():05d}x")
        except BaseException as error:  # noqa: BLE001  shown by the test
            self.errors.append(error)

    def _next(self):
        with self.lock:
            return len(self.sent)

    def _message(self, chance, token):
        lines = [f"Subject: {token}", "X-Dots: .", "", "."]
        left = chance.choice(self.SIZES)
        while left > 0:
            line = "." * chance.choice((0, 0, 1, 2)) + "%x" % chance.getrandbits(4 * chance.randrange(1, 250))
            lines.append(line)
            left -= len(line) + 1
        lines += ["From " + token, "end " + token]
        text = ("\n".join(lines) + "\n").encode()
        with self.lock:
            recipient = self.recipients[len(self.sent) % len(self.recipients)]
            self.sent[token] = (recipient, text)
        return recipient, text

    def _acknowledge(self, token):
        with self.lock:
            self.acknowledged[token] = self.sent[token]

    def _smtp(self, chance, number, new_token):
        """One session of several messages; whatever goes wrong, the next session begins."""
        try:
            with Raw(self.apus.port, timeout=30) as client:
                if not (client.reply() or "").startswith("220") or not (client.ask("EHLO client.test") or "").startswith("250"):
                    return
                for _ in range(chance.randrange(1, 8)):
                    if self.stopping.is_set():
                        break
                    token = new_token()
                    recipient, text = self._message(chance, token)
                    client.write(f"MAIL FROM:<{self.sender}>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n".encode())
                    replies = [client.reply() for _ in range(3)]
                    if [(reply or "")[:3] for reply in replies] != ["250", "250", "354"]:
                        return
                    wire = re.sub(rb"(?m)^\.", b"..", text).replace(b"\n", b"\r\n") + b".\r\n"
                    cut = chance.randrange(len(wire))
                    client.write(wire[:cut])
                    time.sleep(self.slow)
                    client.write(wire[cut:])
                    reply = client.reply()
                    if reply is None:
                        return
                    if reply.startswith("250"):
                        self._acknowledge(token)
                    time.sleep(self.pace)
                client.ask("QUIT")
        except OSError:
            time.sleep(0.02)
        except AssertionError as error:
            # A connection that ends within a line is what a killed smtpd looks like.
            if "within a line" not in str(error):
                raise

    def _script(self, chance, number, new_token):
        token = new_token()
        recipient, text = self._message(chance, token)
        home = self.apus.home
        with subprocess.Popen(
            [str(home.bin / "sendmail"), "-f", self.sender, recipient], stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=home.environment(), bufsize=0,
        ) as process:
            with contextlib.suppress(BrokenPipeError):
                cut = chance.randrange(len(text))
                write_all(process.stdin, text[:cut])
                time.sleep(self.slow)
                write_all(process.stdin, text[cut:])
            process.stdin.close()
            if process.wait(60) == 0:
                self._acknowledge(token)
        time.sleep(self.pace)


def write_all(pipe, data):
    while data:
        data = data[pipe.write(data):]


ADDED_BY_INJECT = rb"(?:(?:Date|Message-ID|From|Cc): [^\n]+\n)+"
HEADS = re.compile(
    rb"(?:Return-Path: <[^\n]*>\nDelivered-To: [^\n]+\n)?" + QUEUE_LINE + rb"(?:" + RECEIVED + rb"|" + ADDED_BY_INJECT
    + rb")(?=Subject: (?P<token>k\d+x\d+x)\n)"
)


class Arrivals:
    """What arrived in the Maildir and at the sink, each file and each transaction looked at once."""

    def __init__(self, maildirs=(), sink=None):
        self.maildirs, self.sink = maildirs, sink
        self.seen = set()
        self.copies = {}
        self.torn = []

    def look(self, traffic):
        for maildir in self.maildirs:
            for name in maildir.names():
                if name not in self.seen:
                    self.seen.add(name)
                    self._take((maildir.path / "new" / name).read_bytes(), traffic)
        if self.sink:
            for message in self.sink.messages:
                if id(message) not in self.seen:
                    self.seen.add(id(message))
                    self._take(message.text, traffic)
        return self

    def _take(self, content, traffic):
        head = HEADS.match(content)
        token = head["token"].decode() if head else None
        if token is None or token not in traffic.sent or content[head.end():] != traffic.sent[token][1]:
            self.torn.append(content[:1500])
        else:
            self.copies[token] = self.copies.get(token, 0) + 1


def leftovers(home):
    """Files of the queue that belong to no message in S4 or S5 but should not be there."""
    return [name for name in home.queue_files() if name.split("/")[0] not in ("pid", "mess", "intd")]


def deliver_all(apus, traffic, arrivals):
    """Until the queue is quiet: ALRM brings forward what a kill has deferred."""

    def done():
        arrivals.look(traffic)
        assert not arrivals.torn, f"{len(arrivals.torn)} torn, the first: {arrivals.torn[0]!r}"
        if not leftovers(apus.home) and not traffic.acknowledged.keys() - arrivals.copies.keys():
            return True
        apus.alarm()
        return False

    def missing():
        lost = sorted(traffic.acknowledged.keys() - arrivals.copies.keys())
        return (f"{len(lost)} of {len(traffic.acknowledged)} acknowledged messages {lost[:5]}, queue "
                f"{leftovers(apus.home)[:10]}, log:\n" + apus.log.text()[-3000:])

    wait(missing, done, 45, step=0.3)
    assert not traffic.errors, traffic.errors


def assert_only_killed_ones_died(apus, killer):
    """Nothing died of a signal but what was killed, and no death of a program is the end of a delivery."""
    for line in apus.smtp_log.lines():
        match = re.search(r"event=end pid=(\d+) .*signal=(\d+)", line)
        assert not match or int(match[1]) in killer.killed and match[2] == "9", line
    assert not apus.log.find("^delivery [0-9]+: failure:.*|^bounce msg .*")


PROGRAMS = {
    "send": daemon,
    "todo": one_program("todo"),
    "clean": one_program("clean"),  # there are two, the choice is random
    "lspawn": main_process("lspawn"),
    "rspawn": main_process("rspawn"),
    "local": one_program("local"),
    "remote": one_program("remote"),
    "queue": one_program("queue"),
    "smtpd": one_program("smtpd"),
    "listen": main_process("listen"),
    "inject": one_program("inject"),
    "getpw": one_program("getpw"),
}


#: Without their deaths nothing may come twice.
DELIVERERS = {"send", "todo", "clean", "lspawn", "rspawn", "local", "remote"}


@pytest.mark.parametrize("program", PROGRAMS)
def test_kill_one_program(home, far, apus, program):
    seed = SEED + sorted(PROGRAMS).index(program)
    apus.start(restart=True)
    killer = Killer(home, seed)
    recipients = ["one@home.test", "two@far.test"]
    slow = 0.05 if program in ("queue", "smtpd", "inject") else 0.0
    with Traffic(apus, seed, recipients, slow=slow) as traffic:
        wait("mail to flow", lambda: len(traffic.acknowledged) > 5)
        for _ in range(KILLS):
            before = len(traffic.acknowledged)
            killer.kill(PROGRAMS[program])
            wait("mail to flow again", lambda: len(traffic.acknowledged) > before + 3)
    assert len(killer.killed) == KILLS
    arrivals = Arrivals([home.maildir()], far)
    deliver_all(apus, traffic, arrivals)
    assert_only_killed_ones_died(apus, killer)
    if program in ("send", "todo", "clean", "lspawn", "rspawn"):
        wait("send to have been restarted", lambda: apus.sender.restarts > 0)
        assert apus.sender.restarts <= KILLS, (apus.sender.codes, apus.log.find("^alert.*"))
        assert set(apus.sender.codes) <= {-signal.SIGKILL, 0, 111}, apus.sender.codes
    elif program == "listen":
        wait("listen to have been restarted", lambda: apus.listener.restarts == KILLS)
    else:
        assert apus.sender.restarts == 0, "this death is nobody else's"
    # No kill, no second delivery; a delivery that was cut off comes again, but not without end.
    extra = sum(arrivals.copies.values()) - len(arrivals.copies)
    assert extra <= (KILLS * 30 if program in DELIVERERS else 0), extra


def test_kill_all_kinds_of_programs(home, far, apus):
    """Several at a time, the second while the first is being made good."""
    apus.start(restart=True)
    killer = Killer(home, SEED)
    with Traffic(apus, SEED, ["one@home.test", "two@far.test"]) as traffic:
        wait("mail to flow", lambda: len(traffic.acknowledged) > 5)
        for name in killer.random.sample(sorted(PROGRAMS), len(PROGRAMS)):
            for victims in (PROGRAMS[name], PROGRAMS[killer.random.choice(["send", "todo", "clean", "queue", name])]):
                with contextlib.suppress(AssertionError):  # the second may have nobody left to kill
                    killer.kill(victims, deadline=2, pause=(0, 0.1))
        before = len(traffic.acknowledged)
        wait("mail to flow again", lambda: len(traffic.acknowledged) > before + 3)
    assert len(killer.killed) > len(PROGRAMS)
    deliver_all(apus, traffic, Arrivals([home.maildir()], far))
    assert_only_killed_ones_died(apus, killer)


def test_kill_everything_at_once(home, far, apus):
    """All processes of the home, three times: as near to a power cut as kill -9 comes."""
    apus.start(restart=True)
    killed = Killer(home, SEED)
    with Traffic(apus, SEED, ["one@home.test", "two@far.test"]) as traffic:
        for _ in range(3):
            before = len(traffic.acknowledged)
            wait("mail to flow", lambda: len(traffic.acknowledged) > before + 5)
            for pid in home.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.killed.append(pid)
    deliver_all(apus, traffic, Arrivals([home.maildir()], far))
    assert_only_killed_ones_died(apus, killed)


def test_kill_queue_at_every_stage(home, apus):
    """queue alone, killed with more and more of its input read: S2 and S3, and nothing that could be delivered."""
    text, addresses = b"Subject: never\n\n" + b"x" * 5000, envelope("s@elsewhere.test", ["one@home.test"])
    stages = [(text[:cut], addresses, True, True) for cut in (0, 1, 4000, len(text))]
    stages += [(text, addresses[:cut], False, True) for cut in (0, 1, 10, len(addresses) - 1)]
    seen = set()
    for message, head, hold_message, hold_envelope in stages:
        process, feeds = start_queue(home, message, head, hold_message=hold_message, hold_envelope=hold_envelope)
        wait("queue to wait for more", lambda: is_asleep_in_read(process.pid))
        process.kill()
        assert process.wait(10) == -signal.SIGKILL
        for feed in feeds:
            feed.thread.join(10)
            if feed.hold:
                os.close(feed.writing)
        seen |= {name.split("/")[0] for name in home.queue_files()}
        assert not leftovers(home)
    assert seen == {"mess", "intd"}, "killed in S2 and in S3"
    apus.start()
    assert run_queue(home, b"Subject: after\n\n", addresses).returncode == 0
    home.maildir().expect(1)
    wait("the queue to be quiet", lambda: not leftovers(home))
    assert len(home.maildir()) == 1, "what was killed half way is delivered to nobody"
    assert len([name for name in home.queue_files() if name.startswith("mess/")]) == len(stages), "too young to be removed"


def is_asleep_in_read(pid):
    """Whether the process waits in a read of descriptor 0 or 1."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/syscall") as file:
        words = file.read().split()
        return words[:1] == ["0"] and words[1] in ("0x0", "0x1")
    return False


@pytest.mark.parametrize("victim", ["notice", "queue of a notice", "send"])
def test_kill_while_notices_are_sent(home, apus, victim):
    """The child of send that carries a notice, its queue program, or send itself: no notice is lost, none is torn."""
    home.control(me=LOCAL)
    maildir = home.alias("author", "./Maildir-author/")
    home.alias("bad", "|echo no such luck; exit 100")
    apus.start(restart=True)
    seed = SEED + len(victim)
    killer = Killer(home, seed)

    def queues_of_notices(home):
        children = notice_children(home)
        return [pid for pid in home.pids("queue") if parent_or_none(pid) in children]

    victims = {"notice": notice_children, "queue of a notice": queues_of_notices, "send": daemon}[victim]
    traffic = Traffic(apus, seed, ["bad@home.test"], sender="author@home.test", smtp=1)
    traffic.SIZES = (4000, 2_000_000)  # large ones are longer under way
    with traffic:
        for _ in range(KILLS):
            killer.kill(victims)
    assert len(killer.killed) == KILLS

    told = {}

    def all_told():
        for name in maildir.names():
            if name not in told:
                told[name] = check_notice((maildir.path / "new" / name).read_bytes(), traffic)
        if not leftovers(home) and traffic.acknowledged.keys() <= set(told.values()):
            return True
        apus.alarm()
        return False

    # A notice that could not be sent is tried again after 123 s (spec send.md 10), or at once after a restart.
    trouble = len(apus.log.find("trouble injecting bounce message"))
    if victim != "send":
        assert trouble >= 1, "the death of a carrier is noticed"
        os.kill(daemon(home)[0], signal.SIGTERM)
    wait(
        lambda: f"{sorted(traffic.acknowledged.keys() - set(told.values()))[:5]}, queue {leftovers(home)[:10]}, log:\n"
        + apus.log.text()[-3000:], all_told, 45, step=0.3,
    )
    assert not traffic.errors, traffic.errors


def check_notice(content, traffic):
    """The token of a notice that is whole."""
    head, copy = content.split(b"\n--- Below this line is a copy of the message.\n\nReturn-Path: <author@home.test>\n")
    assert b"\n\nHi. This is the qmail-send program at home.test.\n" in head
    assert head.endswith(b"\n\n<bad@home.test>:\nno such luck\n"), head[-200:]
    match = HEADS.match(copy)
    assert match, copy[:1000]
    token = match["token"].decode()
    assert copy[match.end():] == traffic.sent[token][1], token
    return token


def test_todo_that_outlives_its_send(home, apus):
    """send is killed while todo is at work, and todo goes on: what it preprocesses is found by the next send."""
    count = 300
    for number in range(count):
        home.put("S4", message=b"Subject: %d\n\nx\n" % number, recipients=["one@home.test"], qp=4000 + number)
    apus.start_send(restart=True)
    apus.log.expect("^new msg")
    (todo,) = home.pids("todo")
    os.kill(todo, signal.SIGSTOP)
    assert os.listdir(home.queue / "todo"), "stopped too late to show anything"
    killed = daemon(home)[0]
    os.kill(killed, signal.SIGKILL)
    apus.log.expect("^status: local 0/10 remote 0/20$", len(apus.log.find("^status: local 0/10 remote 0/20$")) + 1)
    wait("the new send to be there", lambda: [pid for pid in daemon(home) if pid != killed and is_idle(pid)])
    os.kill(todo, signal.SIGCONT)
    maildir = home.maildir()
    wait(lambda: f"{count} messages, there are {len(maildir)}", lambda: len(maildir) >= count)
    wait(lambda: f"the queue to be quiet: {leftovers(home)[:5]}", lambda: not leftovers(home))
    assert not is_alive(todo), "the todo of a dead send ends"


def is_idle(pid):
    """Whether it used no processor time for a while."""

    def ticks():
        with open(f"/proc/{pid}/stat") as file:
            return sum(map(int, file.read().rsplit(")", 1)[1].split()[11:13]))

    before = ticks()
    time.sleep(0.3)
    return ticks() == before


@pytest.mark.parametrize("end", ["reads no orders", "says nothing more"])
def test_todo_lost_in_the_first_moment(home, apus, tmp_path, end):
    """send sees the death of todo by whatever pipe shows it first: by a write that fails as well as by an end of file."""
    program = home.program("todo")
    program.unlink()
    program.write_text(f"#!/bin/sh\necho $$ >{tmp_path}/pid\nsleep 0.5\n" + {
        "reads no orders": "exec <&-; printf 'R\\0'; exec sleep 60 2>&- 3>&-",
        "says nothing more": "printf 'R\\0'; exec >&-; exec sleep 60 2>&- 3>&-",
    }[end])
    program.chmod(0o755)
    apus.sender.start()
    try:
        assert apus.sender.process.wait(10) == 0
        assert apus.log.find("^alert: oh no! lost todo connection! dying...$")
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def running(home, program):
    """Its pids, as soon as all of its processes have become it."""
    pids = home.pids(program)
    return pids if len(pids) == (2 if program == "clean" else 1) else []


def test_children_end_when_send_is_killed(home, apus):
    """No orphan keeps the queue: todo, clean and the spawners see the end of their pipes."""
    apus.start_send()
    wait("all to be there", lambda: all(running(home, name) for name in ("lspawn", "rspawn", "clean", "todo")))
    os.kill(home.pids("send")[0], signal.SIGKILL)
    wait(lambda: f"the children to end: {home.pids()}", lambda: not home.pids(), deadline=10)
    apus.sender.process.wait(5)
    apus.start_send()
    assert apus.stop_send() == 0


@pytest.mark.parametrize("program, alert", [
    ("lspawn", "alert: oh no! lost spawn connection! dying..."), ("rspawn", "alert: oh no! lost spawn connection! dying..."),
    ("clean", "alert: oh no! lost qmail-clean connection! dying..."), ("todo", "alert: oh no! lost todo connection! dying..."),
])
def test_send_ends_when_a_partner_is_gone(home, apus, program, alert):
    """It says so and ends as after TERM, for the supervisor to start all anew."""
    apus.start_send()
    for pid in wait("all to be there", lambda: running(home, program)):
        os.kill(pid, signal.SIGKILL)
    if program == "clean":
        # the death of clean is seen when it is asked
        home.alias("x", "#")
        run_queue(home, b"x\n", envelope("", ["x@home.test"]))
    assert apus.sender.process.wait(20) == 0
    assert alert in apus.log.lines()
    wait(lambda: f"all to end: {home.pids()}", lambda: not home.pids(), deadline=10)


def test_todo_left_behind_finishes_a_message_while_the_new_send_looks_around(home, apus):
    """send dies while todo waits for clean; the new send must not overlook what the old todo then finishes.

    The old todo makes the message S5 after the new send has walked over info/ and seen todo/N still there. Nobody has
    told the new send of it, and no scan of todo/ will find it.
    """
    apus.start_send()
    cleans = wait("both to be there", lambda: running(home, "clean"))
    for pid in cleans:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert run_queue(home, b"x\n", envelope("s@elsewhere.test", ["user@home.test"])).returncode == 0
        wait("todo to write info and to ask clean", lambda: [f for f in home.queue_files() if f.startswith("local/")])
        time.sleep(0.2)
        os.kill(home.pids("send")[0], signal.SIGKILL)
        apus.sender.process.wait(5)
        apus.start_send()
        time.sleep(1)
    finally:
        for pid in cleans:
            os.kill(pid, signal.SIGCONT)
    wait(lambda: f"delivery; in the queue: {home.queue_files()}", lambda: len(home.maildir()) == 1, deadline=10)
    apus.settle(deadline=10)
