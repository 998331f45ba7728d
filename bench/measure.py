"""What a run costs: processor time, memory, disk, system calls, as the kernel counts them."""
import os
import re
import signal
import statistics
import subprocess
import threading
import time

PAGE = os.sysconf("SC_PAGESIZE")


def cgroup_trees():
    """Where the control groups are mounted: {'v2': path, 'cpu': path, ...}, as far as they exist."""
    trees = {}
    with open("/proc/self/mounts") as mounts:
        for line in mounts:
            _, path, kind, options, *_ = line.split()
            if kind == "cgroup2":
                trees["v2"] = path
            elif kind == "cgroup":
                trees.update({name: path for name in ("cpu", "cpuacct", "memory") if name in options.split(",")})
    return trees


class Share:
    """One scheduling group with a large weight for all that runs here, clients too, where the v1 tree has such groups.

    Without it the kernel may share the processors out by session, and mail systems make different numbers of these.
    """

    def __init__(self):
        self.root = cgroup_trees().get("cpu")
        if self.root:
            os.makedirs(self.root + "/apus-bench", exist_ok=True)
            self._write("/apus-bench/cpu.shares", "262144")
            self._write("/apus-bench/cgroup.procs", "0")

    def leave(self):
        if self.root:
            self._write("/cgroup.procs", "0")
            os.rmdir(self.root + "/apus-bench")

    def _write(self, file, text):
        with open(self.root + file, "w") as control:
            control.write(text)


class Group:
    """The control group of one mail system: every process it starts is in it, whatever it forks."""

    def __init__(self, name):
        self.dirs = {}
        for tree, path in cgroup_trees().items():
            if tree == "cpu":
                continue
            if tree == "v2" and os.path.exists(path + "/cgroup.subtree_control"):
                try:
                    with open(path + "/cgroup.subtree_control", "w") as control:
                        control.write("+memory")
                except OSError:
                    pass  # a hybrid machine: memory is counted by the v1 tree
            self.dirs[tree] = f"{path}/apus-bench-{name}"
            os.makedirs(self.dirs[tree], exist_ok=True)
        if not self.dirs:
            raise SystemExit("bench: no cgroup file system is mounted")

    def enter(self):
        """Moves the calling process in (between fork and exec)."""
        for path in self.dirs.values():
            with open(path + "/cgroup.procs", "w") as procs:
                procs.write("0")

    def remove(self):
        for path in self.dirs.values():
            try:
                os.rmdir(path)
            except OSError:
                pass

    def _numbers(self, tree, file):
        with open(f"{self.dirs[tree]}/{file}") as stat:
            return {key: int(value) for key, value in (line.split() for line in stat)}

    def pids(self):
        with open(next(iter(self.dirs.values())) + "/cgroup.procs") as procs:
            return [int(line) for line in procs]

    def cpu(self):
        """(user, system) seconds of all members, past ones too."""
        if "v2" in self.dirs:
            stat = self._numbers("v2", "cpu.stat")
            return stat["user_usec"] / 1e6, stat["system_usec"] / 1e6
        parts = []
        for file in ("cpuacct.usage_user", "cpuacct.usage_sys"):
            with open(f"{self.dirs['cpuacct']}/{file}") as usage:
                parts.append(int(usage.read()) / 1e9)
        return tuple(parts)

    def anonymous(self):
        """Bytes of anonymous memory of all members, nothing counted twice; None where the kernel does not say."""
        for tree, field in (("memory", "rss"), ("v2", "anon")):
            try:
                return self._numbers(tree, "memory.stat")[field]
            except (KeyError, OSError):
                continue
        return None

    def resident(self):
        """(sum of resident bytes, processes); shared pages count once per process."""
        total = count = 0
        for pid in self.pids():
            try:
                with open(f"/proc/{pid}/statm") as statm:
                    total += int(statm.read().split()[1]) * PAGE
                count += 1
            except OSError:
                pass  # it has just ended
        return total, count

    def end_all(self, grace=5.0):
        """Ends every member by its pid: TERM, after `grace` seconds KILL."""
        kill_at = time.monotonic() + grace
        while pids := self.pids():
            late = time.monotonic() - kill_at
            if late > 10:
                raise RuntimeError(f"processes that cannot be ended: {pids}")
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL if late > 0 else signal.SIGTERM)
                except ProcessLookupError:
                    pass
            time.sleep(0.05)


class PeakMemory(threading.Thread):
    def __init__(self, group, every=0.2):
        super().__init__(daemon=True)
        self.group, self.every, self.over = group, every, threading.Event()
        self.rss = self.anonymous = self.processes = 0

    def run(self):
        while not self.over.wait(self.every):
            rss, processes = self.group.resident()
            self.rss, self.processes = max(self.rss, rss), max(self.processes, processes)
            self.anonymous = max(self.anonymous, self.group.anonymous() or 0)


def disk(path):
    """Counters of the whole device below `path`: writes, KiB written, flushes; {} if it is not a plain device."""
    device = os.stat(path).st_dev
    try:
        with open(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat") as stat:
            fields = [int(x) for x in stat.read().split()]
    except OSError:
        return {}
    return {"writes": fields[4], "kib": fields[6] / 2, "flushes": fields[15] if len(fields) > 15 else 0}


def busy():
    """Seconds that all processors together have been busy since boot."""
    with open("/proc/stat") as stat:
        ticks = [int(x) for x in stat.readline().split()[1:]]
    return (sum(ticks[:3]) + sum(ticks[5:8])) / os.sysconf("SC_CLK_TCK")


def spin():
    """Milliseconds of a fixed computation: how fast the (virtual) processor is just now."""
    def once():
        start = time.perf_counter()
        sum(range(1_000_000))
        return (time.perf_counter() - start) * 1e3
    return min(once() for _ in range(3))


class Span:
    """From its making to `finish`: everything one run costs."""

    def __init__(self, group, spool):
        self.group, self.spool = group, spool
        os.sync()
        time.sleep(0.3)
        self.spin = spin()
        self.memory = PeakMemory(group)
        self.cpu, self.disk, self.busy, self.start = group.cpu(), disk(spool), busy(), time.monotonic()
        self.memory.start()

    def seconds(self):
        return time.monotonic() - self.start

    def finish(self, n, client_cpu=0.0):
        """The costs as a row, per message where the name says so."""
        seconds, all_busy = self.seconds(), busy() - self.busy
        user, system = (after - before for before, after in zip(self.cpu, self.group.cpu()))
        after = disk(self.spool)
        self.memory.over.set()
        self.memory.join()
        row = {
            "seconds": seconds, "cpu_user_s": user, "cpu_system_s": system, "cpu_ms_per_msg": (user + system) * 1e3 / n,
            "client_cpu_s": client_cpu, "other_cpu_s": max(0.0, all_busy - user - system - client_cpu),
            "rss_peak_mib": self.memory.rss / 2**20, "anon_peak_mib": self.memory.anonymous / 2**20,
            "processes_peak": self.memory.processes, "spin_ms": statistics.mean((self.spin, spin())),
        }
        row.update({f"disk_{key}_per_msg": (after[key] - self.disk[key]) / n for key in after})
        return row


class Tracepoints:
    """Exact counts of fsync, exec and fork in a group by perf; `counts` stays {} without perf or a v2 tree."""
    EVENTS = ("syscalls:sys_enter_fsync", "syscalls:sys_enter_fdatasync", "syscalls:sys_enter_syncfs",
              "sched:sched_process_exec", "sched:sched_process_fork")

    def __init__(self, group, scratch):
        self.group, self.file, self.counts, self.perf = group, scratch + "/perf.out", {}, None

    def __enter__(self):
        command = ["perf", "stat", "-a", "-x", ",", "-o", self.file, "-e", ",".join(self.EVENTS)]
        if "v2" not in self.group.dirs:
            return self
        command += ["-G", ",".join([os.path.basename(self.group.dirs["v2"])] * len(self.EVENTS))]
        try:
            self.perf = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(0.7)
        except FileNotFoundError:
            pass
        return self

    def __exit__(self, *_):
        if not self.perf or self.perf.poll() is not None:
            return
        self.perf.send_signal(signal.SIGINT)
        self.perf.wait(timeout=20)
        with open(self.file) as lines:
            for fields in (line.split(",") for line in lines):
                if len(fields) > 2 and (fields[0].isdigit() or fields[0] == "<not counted>"):
                    name = re.sub(r".*(sys_enter|sched_process)_", "", fields[2])
                    self.counts[name] = int(fields[0]) if fields[0].isdigit() else 0


class SystemCalls:
    """Counts per system call of a group's processes and their children, by strace. Slows them down a lot."""

    def __init__(self, group, scratch):
        self.group, self.file, self.counts = group, scratch + "/strace.out", {}

    def __enter__(self):
        command = ["strace", "-f", "-c", "-U", "name,calls,errors", "-o", self.file]
        for pid in self.group.pids():
            command += ["-p", str(pid)]
        self.strace = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(1.0)
        return self

    def __exit__(self, *_):
        self.strace.send_signal(signal.SIGINT)
        self.strace.wait(timeout=60)
        with open(self.file) as lines:
            for fields in (line.split() for line in lines):
                if len(fields) < 2 or not fields[1].isdigit() or fields[0] == "total":
                    continue
                failed = int(fields[2]) if len(fields) > 2 and fields[0] == "execve" else 0
                self.counts[fields[0]] = int(fields[1]) - failed
