"""The mail systems that are compared. Each is set up for the same task:

  local.test      local domain; users bench, u0, u1, ... with a Maildir each, on the disk of the queue
  other domains   to the SMTP server on 127.0.0.1, port SINK_PORT, without DNS
  127.0.0.1       may relay; no TLS, no filters

All of this happens inside the private /etc and the scratch folder that `run` makes.
"""
import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time

from measure import Group

LOCAL, SINK, SINK_PORT, USER = "local.test", "sink.test", 2925, "bench"
TREE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def write(path, text, mode=0o644):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, mode)


def count_files(*roots):
    return sum(len(files) for root in roots for _, _, files in os.walk(root))


def empty(*folders):
    """Deletes the files below the folders; the folders stay."""
    for folder in folders:
        for path, _, files in os.walk(folder):
            for name in files:
                os.unlink(f"{path}/{name}")


def run_command(*command, **more):
    done = subprocess.run(command, text=True, capture_output=True, timeout=120, **more)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: exit {done.returncode}: {(done.stdout + done.stderr)[-500:]}")
    return done.stdout


class Peer:
    """One mail system. Subclasses say how it is set up, started, emptied and asked."""
    name, port, spool, sendmail = "?", 0, "?", []

    def __init__(self, scratch):
        self.scratch, self.group, self.started = scratch, Group(self.name), []

    def set_up(self): ...       # once per run of the harness
    def launch(self): ...       # starts it, with self.spawn
    def leave(self): ...        # asks it to stop; what stays is ended
    def empty_queue(self): ...  # while it is stopped
    def queued(self): ...       # messages in the queue now
    def version(self): ...      # one line

    def spawn(self, *command, cwd="/"):
        with open(f"{self.scratch}/{self.name}.out", "ab") as log:
            self.started.append(subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=self.group.enter, cwd=cwd,
                env={"PATH": PATH}, start_new_session=True))

    def start(self, cap=30):
        self.launch()
        end = time.monotonic() + cap
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=cap) as connection:
                    if connection.recv(1024).startswith(b"220"):
                        connection.sendall(b"QUIT\r\n")
                        connection.recv(1024)
                        return
            except OSError:
                pass
            if time.monotonic() > end:
                raise RuntimeError(f"no answer on port {self.port}; see {self.scratch}/{self.name}.out")
            time.sleep(0.01)

    def stop(self):
        try:
            self.leave()
        finally:
            self.group.end_all()
            for process in self.started:
                process.wait(timeout=10)
            self.started = []


class Postfix(Peer):
    """Debian's package with its defaults; only addresses, folders and Maildir are set, chroot is off."""
    name, port, extra = "postfix", 2601, ()
    sendmail = ["/usr/sbin/sendmail", "-i", "-f", f"{USER}@{LOCAL}", "--"]
    queues = ("maildrop", "incoming", "active", "deferred")

    def __init__(self, scratch):
        super().__init__(scratch)
        self.home = f"{scratch}/{self.name}"
        self.spool = self.home + "/queue"

    def set_up(self):
        if not shutil.which("postconf", path=PATH):
            raise RuntimeError("the Debian package postfix is missing")
        os.makedirs(self.spool)
        os.makedirs(self.home + "/data")
        shutil.chown(self.home + "/data", "postfix")
        write("/etc/postfix/aliases", "postmaster: root\n")

    def configure(self):
        """Both Postfixes use /etc/postfix (set-gid postdrop insists on it), so it is written before each start."""
        settings = f"""
            compatibility_level = 3.6
            queue_directory = {self.spool}
            data_directory = {self.home}/data
            maillog_file = {self.home}/log
            maillog_file_prefixes = {self.home}
            myhostname = bench.{LOCAL}
            myorigin = {LOCAL}
            mydestination = {LOCAL}
            mynetworks = 127.0.0.0/8
            inet_interfaces = 127.0.0.1
            inet_protocols = ipv4
            relayhost = [127.0.0.1]:{SINK_PORT}
            smtp_dns_support_level = disabled
            smtp_host_lookup = native
            smtpd_tls_security_level = none
            smtp_tls_security_level = none
            home_mailbox = Maildir/
            biff = no
            alias_maps = hash:/etc/postfix/aliases
            alias_database = hash:/etc/postfix/aliases
            """
        lines = [line.strip() for line in settings.splitlines()] + [f"{key} = {value}" for key, value in self.extra]
        write("/etc/postfix/main.cf", "\n".join(lines) + "\n")
        shutil.copy("/usr/share/postfix/master.cf.dist", "/etc/postfix/master.cf")
        run_command("postconf", "-F", "*/*/chroot=n")
        run_command("postconf", "-M", "-e", f"127.0.0.1:{self.port}/inet=127.0.0.1:{self.port} inet n - n - - smtpd")
        run_command("postconf", "-M", "-X", "smtp/inet")
        run_command("newaliases")

    def launch(self):
        self.configure()
        self.spawn("/usr/sbin/postfix", "start")

    def leave(self):
        if self.group.pids():
            subprocess.run(["/usr/sbin/postfix", "stop"], capture_output=True, timeout=60)

    def empty_queue(self):
        empty(*(f"{self.spool}/{q}" for q in self.queues + ("defer", "bounce", "hold", "corrupt", "trace", "flush")))

    def queued(self):
        return count_files(*(f"{self.spool}/{q}" for q in self.queues))

    def version(self):
        settings = ", ".join("=".join(pair) for pair in self.extra) or "defaults"
        return "Postfix " + run_command("postconf", "-dh", "mail_version").strip() + f" (Debian), {settings}"


class TunedPostfix(Postfix):
    name, port = "postfix-tuned", 2602
    extra = (("in_flow_delay", "0"), ("local_destination_concurrency_limit", "20"))


class Apus(Peer):
    """This tree, installed as root by setup/install; its two services as a supervisor would run them."""
    name, port, controls = "apus", 2603, {}

    def __init__(self, scratch):
        super().__init__(scratch)
        self.home = f"{scratch}/{self.name}"
        self.spool = self.home + "/queue"
        self.sendmail = [self.home + "/bin/sendmail", "-i", "-f", f"{USER}@{LOCAL}", "--"]

    def set_up(self):
        run_command(TREE + "/setup/install", self.home, cwd=TREE)
        settings = {
            "me": f"bench.{LOCAL}", "locals": LOCAL, "rcpthosts": f"{LOCAL}\n{SINK}", "defaulthost": LOCAL,
            "smtproutes": f":127.0.0.1:{SINK_PORT}", "listen": f"smtp 127.0.0.1:{self.port}",
        }
        for name, value in (settings | self.controls).items():
            write(f"{self.home}/control/{name}", value + "\n")

    def launch(self):
        for service in ("send", "smtpd"):
            folder = f"{self.home}/service/{service}"
            self.spawn("/bin/sh", "-c", "./run | (cd log && exec ./run)", cwd=folder)

    def leave(self):
        for pid in self.group.pids():
            try:
                with open(f"/proc/{pid}/comm") as comm:
                    if comm.read().strip() in ("apus-send", "apus-listen"):
                        os.kill(pid, signal.SIGTERM)
            except OSError:
                pass
        end = time.monotonic() + 10
        while self.group.pids() and time.monotonic() < end:
            time.sleep(0.02)

    def empty_queue(self):
        empty(*(f"{self.spool}/{q}" for q in ("pid", "intd", "todo", "mess", "info", "local", "remote", "bounce")))

    def queued(self):
        return count_files(self.spool + "/mess")

    def version(self):
        try:
            commit = run_command("git", "-c", f"safe.directory={TREE}", "-C", TREE, "describe", "--always", "--dirty")
        except (OSError, RuntimeError):
            commit = "unknown"
        settings = ", ".join("=".join(pair) for pair in self.controls.items()) or "defaults"
        return f"Apus, commit {commit.strip()}, {settings}"


PEERS = {peer.name: peer for peer in (Apus, Postfix, TunedPostfix)}


# --- users ------------------------------------------------------------------------------------------------------------

def make_users(scratch, count):
    """Adds `bench` and u0 ... to the private /etc and gives each a home with a Maildir on the scratch disk."""
    names = [USER] + [f"u{i}" for i in range(count)]
    with open("/etc/passwd", "a") as passwd, open("/etc/group", "a") as group:
        for number, name in enumerate(names, 60000):
            passwd.write(f"{name}:x:{number}:{number}::{scratch}/home/{name}:/bin/sh\n")
            group.write(f"{name}:x:{number}:\n")
    for name in names:
        account = pwd.getpwnam(name)
        for folder in ("", "/Maildir", "/Maildir/tmp", "/Maildir/new", "/Maildir/cur"):
            os.makedirs(account.pw_dir + folder, mode=0o700)
            os.chown(account.pw_dir + folder, account.pw_uid, account.pw_gid)


def maildir(scratch, name=USER):
    return f"{scratch}/home/{name}/Maildir"


def empty_maildirs(scratch):
    empty(*glob.glob(f"{scratch}/home/*/Maildir"))
