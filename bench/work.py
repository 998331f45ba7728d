"""The work that is given to each mail system, and the limits of the machine without one."""
import os
import pwd
import re
import shlex
import socket
import subprocess
import time

from measure import Span, SystemCalls, Tracepoints
from peers import LOCAL, SINK, SINK_PORT, USER, empty_maildirs, maildir, run_command


class Failed(Exception):
    """The work was not finished, or not in time."""


def wait_for(what, done, cap, every=0.01):
    """Waits until done() is true, which means that `what` is there.

    Looks seldom enough to cost at most a twentieth of one processor.
    """
    end = time.monotonic() + cap
    while True:
        start = time.monotonic()
        if done():
            return
        now = time.monotonic()
        if now > end:
            raise Failed(f"{what} not there after {cap:.0f} s")
        time.sleep(max(every, 20 * (now - start)))


def delivered(scratch, name=USER):
    return len(os.listdir(maildir(scratch, name) + "/new"))


class Clients:
    """Processes that hand in mail; `wait` returns the processor seconds they took."""

    def __init__(self, *commands, **more):
        self.processes = [
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **more)
            for command in commands]

    def wait(self, cap):
        end, cpu = time.monotonic() + cap, 0.0
        try:
            for process in self.processes:
                while True:
                    pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                    if pid:
                        break
                    if time.monotonic() > end:
                        raise Failed(f"client not done after {cap:.0f} s")
                    time.sleep(0.005)
                process.returncode = os.waitstatus_to_exitcode(status)
                cpu += usage.ru_utime + usage.ru_stime
                if process.returncode:
                    raise Failed("client: " + process.stderr.read().decode(errors="replace").strip()[-300:])
        finally:
            for process in self.processes:
                if process.returncode is None:
                    process.kill()
                    process.wait()
                process.stderr.close()
        return cpu


def smtp_source(peer, n, sessions, size, recipient, one_connection):
    command = ["smtp-source", "-M", "client.test", "-f", f"{USER}@{LOCAL}", "-t", recipient, "-m", str(n),
               "-s", str(min(sessions, n)), "-l", str(size)] + (["-d"] if one_connection else [])
    return Clients(command + [f"inet:127.0.0.1:{peer.port}"])


class Sink:
    """Postfix's smtp-sink, which counts the messages it throws away."""

    def __init__(self, scratch):
        self.path = scratch + "/smtp-sink.out"

    def __enter__(self):
        with open(self.path, "wb") as out:
            self.process = subprocess.Popen(
                ["smtp-sink", "-4", "-c", "-u", "nobody", f"127.0.0.1:{SINK_PORT}", "1000"], stdout=out,
                stderr=subprocess.DEVNULL)
        time.sleep(0.3)
        return self

    def messages(self):
        with open(self.path, "rb") as out:
            out.seek(max(0, out.seek(0, 2) - 200))
            counts = re.findall(rb"mesg=\s*(\d+)", out.read())
        return int(counts[-1]) if counts else 0

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def fresh(peer, warm=20):
    """Starts `peer` with an empty queue and lets it carry a few messages first."""
    peer.stop()
    peer.empty_queue()
    empty_maildirs(peer.scratch)
    peer.start()
    smtp_source(peer, warm, 5, 1000, f"{USER}@{LOCAL}", False).wait(30)
    wait_for("the first messages", lambda: delivered(peer.scratch) == warm, 30)
    wait_for("an empty queue", lambda: peer.queued() == 0, 15, 0.05)
    empty_maildirs(peer.scratch)


def carry(peer, n, clients, arrived, cap, inside=False):
    """Runs `clients()` and waits until arrived() == n and the queue is empty again.

    inside: the clients are in the control group of the mail system, and counted as its own.
    """
    span = Span(peer.group, peer.spool)
    row, client_cpu = {}, 0.0
    try:
        client_cpu = clients().wait(cap) * (not inside)
        accepted = span.seconds()
        try:
            wait_for("the last message", lambda: arrived() >= n, cap)
        except Failed as failed:
            raise Failed(f"{arrived()} of {n} arrived, {peer.queued()} queued: {failed}") from None
        done = span.seconds()
        wait_for("an empty queue", lambda: peer.queued() == 0, 15, 0.05)
        row = {"accepted_per_s": n / accepted, "delivered_per_s": n / done}
    finally:
        row |= span.finish(n, client_cpu) | {"arrived": arrived()}
    if row["arrived"] != n:
        raise Failed(f"{row['arrived']} arrived instead of {n}")
    return row


# --- scenarios: (peer, options) -> row --------------------------------------------------------------------------------

def inbound(peer, options, one_connection=True):
    fresh(peer)
    return carry(peer, options.n, lambda: smtp_source(
        peer, options.n, options.sessions, options.size, f"{USER}@{LOCAL}", one_connection),
        lambda: delivered(peer.scratch), options.cap)


def inbound_one(peer, options):
    return inbound(peer, options, one_connection=False)


def relay(peer, options):
    fresh(peer)
    with Sink(peer.scratch) as sink:
        return carry(peer, options.n, lambda: smtp_source(
            peer, options.n, options.sessions, options.size, f"user@{SINK}", True), sink.messages, options.cap)


def inject(peer, options):
    """Shell loops that call sendmail, options.parallel at a time; the loops count as the mail system's processes."""
    fresh(peer)
    account, message = pwd.getpwnam(USER), peer.scratch + "/message"
    with open(message, "w") as file:
        file.write(f"From: {USER}@{LOCAL}\nTo: {USER}@{LOCAL}\nSubject: inject\n\n")
        file.write(("x" * 79 + "\n") * (options.size // 80))
    each = options.n // options.parallel
    line = shlex.join(peer.sendmail + [f"{USER}@{LOCAL}"])
    script = f"i=0; while [ $i -lt {each} ]; do {line} < {message} || exit 1; i=$((i+1)); done"

    def become_user():
        peer.group.enter()
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    return carry(peer, each * options.parallel, lambda: Clients(
        *[["/bin/sh", "-c", script]] * options.parallel, preexec_fn=become_user, cwd="/"),
        lambda: delivered(peer.scratch), options.cap, inside=True)


class OneMessage:
    """Sends one message to many recipients on one connection, with the interface of Clients."""

    def __init__(self, peer, recipients, size):
        self.peer, self.recipients, self.size = peer, recipients, size

    def wait(self, cap):
        start = time.thread_time()
        with socket.create_connection(("127.0.0.1", self.peer.port), timeout=cap) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            replies = connection.makefile("rb")

            def expect(code):
                while (line := replies.readline())[3:4] == b"-":
                    pass
                if not line.startswith(code):
                    raise Failed(f"reply {line!r}")
            expect(b"220")
            body = ("x" * 78 + "\r\n") * (self.size // 80)
            for command, code in [
                ("EHLO client.test", b"250"), (f"MAIL FROM:<{USER}@{LOCAL}>", b"250"),
                *((f"RCPT TO:<{name}@{LOCAL}>", b"250") for name in self.recipients), ("DATA", b"354"),
                (f"From: <{USER}@{LOCAL}>\r\nSubject: many\r\n\r\n{body}.", b"250"), ("QUIT", b"221"),
            ]:
                connection.sendall(command.encode() + b"\r\n")
                expect(code)
        return time.thread_time() - start


def recipients(peer, options):
    """One message to options.recipients local users; rates and costs are per recipient."""
    fresh(peer)
    names = [f"u{i}" for i in range(options.recipients)]
    waiting = list(names)

    def arrived():
        while waiting and delivered(peer.scratch, waiting[-1]):
            waiting.pop()
        if waiting and len(waiting) < 50:
            waiting[:] = [name for name in waiting if not delivered(peer.scratch, name)]
        return len(names) - len(waiting)
    row = carry(peer, len(names), lambda: OneMessage(peer, names, options.size), arrived, options.cap)
    if any(delivered(peer.scratch, name) != 1 for name in names):
        raise Failed("not every user has the message once")
    return row


def profile(peer, options):
    """Counts per message of the work of `inbound`: perf for syncs, execs and forks, then strace for all calls."""
    n = min(options.n, 300)
    fresh(peer, warm=60)

    def once():
        empty_maildirs(peer.scratch)
        return carry(peer, n, lambda: smtp_source(peer, n, options.sessions, options.size, f"{USER}@{LOCAL}", True),
                     lambda: delivered(peer.scratch), options.cap)
    with Tracepoints(peer.group, peer.scratch) as events:
        row = once()
    with SystemCalls(peer.group, peer.scratch) as calls:
        once()
    return {
        "perf": {key: count / n for key, count in events.counts.items()},
        "strace": {key: count / n for key, count in sorted(calls.counts.items(), key=lambda item: -item[1])},
        "system_calls_per_msg": sum(calls.counts.values()) / n,
    } | {key: value for key, value in row.items() if key.startswith("disk_")}


SCENARIOS = {
    "inbound": (inbound, "SMTP to one Maildir, many messages per connection"),
    "inbound-one": (inbound_one, "SMTP to one Maildir, one message per connection"),
    "inject": (inject, "sendmail from shell scripts to one Maildir"),
    "relay": (relay, "SMTP to a remote server (smtp-sink)"),
    "recipients": (recipients, "one message to many local users (per recipient)"),
    "profile": (profile, "counts per message of the first scenario"),
}


# --- limits of the machine --------------------------------------------------------------------------------------------

def in_company(processes, each, action):
    """Calls action(process, i) `each` times in each of `processes` processes; returns calls per second."""
    start = time.monotonic()
    children = []
    for number in range(processes):
        pid = os.fork()
        if pid == 0:
            try:
                for i in range(each):
                    action(number, i)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(pid)
    if any(os.waitpid(pid, 0)[1] for pid in children):
        raise Failed("a limit could not be measured")
    return processes * each / (time.monotonic() - start)


def limits(scratch, size):
    """What disk and kernel allow without any mail system: {name: per second}."""
    folder, program = scratch + "/limits", scratch + "/nothing"
    os.makedirs(folder + "/tmp")
    os.makedirs(folder + "/new")
    data = b"x" * size
    if not os.path.exists(program):
        run_command("cc", "-O2", "-static", "-x", "c", "-o", program, "-", input="int main(void) { return 0; }\n")

    def maildir_file(number, i):
        name = f"{number}.{i}"
        file = os.open(f"{folder}/tmp/{name}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        os.write(file, data)
        os.fsync(file)
        os.close(file)
        os.rename(f"{folder}/tmp/{name}", f"{folder}/new/{name}")
        directory = os.open(folder + "/new", os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(directory)
        os.close(directory)

    def spawn(*_):
        os.waitpid(os.posix_spawn(program, [program], {}), 0)

    row = {}
    for processes in (1, 4, 20):
        row[f"synced Maildir files, {processes} at a time"] = in_company(processes, 1000 // processes, maildir_file)
        run_command("find", folder, "-type", "f", "-delete")
        os.sync()
    for processes in (1, 4):
        row[f"spawned static programs, {processes} at a time"] = in_company(processes, 1000 // processes, spawn)
    run_command("rm", "-r", folder)
    return row
