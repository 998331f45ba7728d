"""Rows to Markdown: medians (min–max) per peer, and the ratio to each Postfix."""
import statistics

from work import SCENARIOS

COLUMNS = {
    "accepted_per_s": "accepted/s", "delivered_per_s": "delivered/s", "cpu_ms_per_msg": "CPU ms per message",
    "disk_flushes_per_msg": "disk flushes per message", "disk_writes_per_msg": "disk writes per message",
    "disk_kib_per_msg": "KiB written per message", "rss_peak_mib": "peak memory, sum of RSS, MiB",
    "anon_peak_mib": "peak memory, anonymous, MiB", "processes_peak": "processes at the peak",
    "other_cpu_s": "CPU s used by others", "spin_ms": "fixed computation, ms",
}


def number(x):
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.1f}" if abs(x) >= 10 else f"{x:.2f}"


def spread(values):
    if not values:
        return "–"
    low, high = number(min(values)), number(max(values))
    return number(statistics.median(values)) + (f" ({low}–{high})" if len(values) > 1 else "")


def markdown(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows] + [""]


def compared(rows, peers, columns, value):
    """One line per column, one cell per peer, and after them Apus divided by each other peer."""
    ratios = [("apus", peer) for peer in peers if peer != "apus"] if "apus" in peers else []
    out = []
    for key, title in columns.items():
        values = {peer: [value(r, key) for r in rows if r["peer"] == peer] for peer in peers}
        values = {peer: [v for v in all_of if v is not None] for peer, all_of in values.items()}
        if not any(values.values()):
            continue
        median = {peer: statistics.median(v) for peer, v in values.items() if v}
        out.append([title] + [spread(values[peer]) for peer in peers] + [
            number(median[a] / median[b]) if a in median and median.get(b) else "–" for a, b in ratios])
    return markdown(["median (min–max)"] + list(peers) + [f"{a} ÷ {b}" for a, b in ratios], out)


def profile(rows, peers):
    names = {"fsync": "fsync", "fdatasync": "fdatasync", "syncfs": "syncfs", "exec": "exec", "fork": "fork"}
    out = ["Of its own processes, by tracepoints.", ""]
    out += compared(rows, peers, names, lambda row, key: row["perf"].get(key))
    disk = {key: title for key, title in COLUMNS.items() if key.startswith("disk_")}
    out += compared(rows, peers, disk, lambda row, key: row.get(key))
    calls = {}
    for row in rows:
        for name in list(row["strace"])[:12]:
            calls[name] = max(calls.get(name, 0), row["strace"][name])
    out += ["System calls of its own processes, by strace (slowed down by it: counts, not times).", ""]
    columns = {"": "all"} | {name: name for name in sorted(calls, key=calls.get, reverse=True)}
    return out + compared(
        rows, peers, columns, lambda row, key: row["strace"].get(key, 0) if key else row["system_calls_per_msg"])


HEAD = """\
# Results of bench/run: Apus and Postfix

Medians (min–max) of interleaved rounds. Repeat it with the command below, as root, on an otherwise idle machine; what
the figures mean stands in README.md. The rates of two machines, or of two days on a virtual one, cannot be compared;
the ratios within one table can.

Not level between the systems:
- Durability. Apus answers 250 after syncing files **and** their directories, at every step of the queue and in the
  Maildir. Postfix syncs each queue file and each Maildir file once and no directory.
- Concurrency of local deliveries: Apus 10 in all; Postfix 2 to one user, tuned 20. To one remote host: 20 each.
- Logs: Postfix through its postlogd into a file, Apus through multilog, both unsynced. Postfix's chroot is off.
- Client, sink and harness share the processors with the system that is measured.
"""


def report(rows):
    """Everything in `rows` as Markdown; each row of kind `machine` begins another run of the harness."""
    starts = [i for i, row in enumerate(rows) if row["kind"] == "machine"]
    out = [HEAD]
    for start, end in zip(starts, starts[1:] + [len(rows)]):
        out += one_run(rows[start], rows[start + 1:end])
    return "\n".join(out).rstrip() + "\n"


def one_run(machine, rows):
    out = [f"# {machine['at']}", "", "`" + machine["command"] + "`", ""]
    out += markdown(["", ""], [[key, str(value)] for key, value in machine["facts"].items()])
    shares = [100 * r["other_cpu_s"] / r["seconds"] / machine["processors"] for r in rows if "other_cpu_s" in r]
    if shares:
        out += [f"Everything but the mail systems and their clients took {spread(shares)} % of the processors:",
                "the kernel's threads, smtp-sink, this harness (together some 5 to 10 %), and whatever else ran.", ""]
    measured = [r for r in rows if r["kind"] == "limits"]
    if measured:
        out += ["## The machine without a mail system", ""]
        names = list(dict.fromkeys(name for row in measured for name in row["limits"]))
        values = [[name, spread([r["limits"][name] for r in measured if name in r["limits"]])] for name in names]
        out += markdown(["per second", "median (min–max)"], values)
    runs = [r for r in rows if r["kind"] == "run"]
    for scenario, work in dict.fromkeys((r["scenario"], r["work"]) for r in runs):
        group = [r for r in runs if (r["scenario"], r["work"]) == (scenario, work)]
        good = [r for r in group if "error" not in r]
        peers = list(dict.fromkeys(r["peer"] for r in group))
        out += [f"## {scenario}: {SCENARIOS[scenario][1]}", "", work, ""]
        if scenario == "profile":
            out += profile(good, peers)
        else:
            out += compared(good, peers, COLUMNS, lambda row, key: row.get(key))
        out += ["Rounds: " + ", ".join(f"{p} {sum(r['peer'] == p for r in good)}" for p in peers) + ".", ""]
        errors = [f"- {r['peer']}, round {r['round']}: not counted: {r['error']}" for r in group if "error" in r]
        out += errors + [""] if errors else []
    return out
