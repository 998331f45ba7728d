"""remote and the name service: which addresses it tries, in what order, and what it says when there are none.

The tests that deliver by MX need addresses that are not this host's, with port 25: a network of their own where every
address of two documentation networks leads to lo (root only).
"""

import ctypes
import os
import socket
import subprocess

import pytest
from dns_server import FORMERR, RAW, REFUSED, SERVFAIL, SILENT, TRUNCATED, DNSServer
from server import CLOSE, Server

TEMPORARY = b"ZSorry, I couldn't find any host by that name. (#4.1.2)\n"
NO_EXCHANGER = b"DSorry, I couldn't find a mail exchanger or IP address. (#5.4.4)\n"
NO_CONNECTION = b"ZSorry, I wasn't able to establish an SMTP connection. (#4.4.1)\n"
NULL_MX = b"DSorry, that domain does not accept mail. (#5.1.10)\n"
OWN = (
    b"DSorry. Although I'm listed as a best-preference MX or A for that host,\n"
    b"it isn't in my control/locals file, so I don't treat it as local. (#5.4.6)\n"
)


def no_host(name):
    return b"DSorry, I couldn't find any host named " + name + b". (#5.1.2)\n"


@pytest.fixture
def dns(home):
    with DNSServer() as server:
        home.control(dnsservers=server.control, helohost="me.test", timeoutconnect=1, timeoutremote=5, smtproutes=None)
        yield server


def send(home, host, *recipients):
    done = subprocess.run(
        [str(home.program("remote")), host, "s@a.test", *(recipients or [f"r@{host}"])], input=b"Subject: x\n\nbody\n",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=home.environment(RES_OPTIONS="timeout:1 attempts:1"),
        timeout=60)
    assert done.returncode == 0 and done.stderr == b"", done
    return done.stdout.split(b"\0")[:-1]


# Without a server ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry, expected",
    [
        (None, no_host(b"d.test")),
        ({}, no_host(b"d.test")),
        (SERVFAIL, TEMPORARY),
        (REFUSED, TEMPORARY),
        (FORMERR, TEMPORARY),
        (SILENT, TEMPORARY),
        ({"MX": SERVFAIL, "A": ["198.51.100.1"]}, TEMPORARY),
        ({"MX": [], "A": SERVFAIL}, TEMPORARY),
        ({"MX": [], "AAAA": SERVFAIL}, TEMPORARY),
        ({"MX": [(0, ".")], "A": ["198.51.100.1"]}, NULL_MX),
        ({"MX": [(10, "nowhere.test")]}, NO_EXCHANGER),
        ({"MX": [(10, "soft.test"), (20, "nowhere.test")]}, TEMPORARY),
        ({"MX": [("CNAME", "other.test")]}, no_host(b"d.test")),
        ({"MX": [(10, "own.test")]}, OWN),
        ({"MX": [], "A": ["127.9.9.9"]}, OWN),
        ({"MX": [], "A": ["0.0.0.0"]}, OWN),
        ({"MX": [], "AAAA": ["::1"]}, OWN),
        ({"MX": [], "AAAA": ["::ffff:7f00:1"]}, OWN),
        ({"MX": RAW(b"")}, TEMPORARY),
        ({"MX": RAW(b"\x81\x80\0\0\0\1\0\0\0\0")}, TEMPORARY),
    ],
)
def test_no_address(home, dns, entry, expected):
    dns.zone.update({"soft.test": SERVFAIL, "own.test": {"A": ["127.0.0.1"]}})
    if entry is not None:
        dns.zone["d.test"] = entry
    assert send(home, "d.test") == [expected]


def test_unprintable_bytes_of_a_name_are_hidden(home, dns):
    assert send(home, "a\nb\x7f.test") == [no_host(b"a?b?.test")]
    assert send(home, "a..test") == [no_host(b"a..test")]
    assert [q for q in dns.questions if q[0] == "a..test"] == []


def test_no_server_answers(home, dns):
    dns.end()
    assert send(home, "d.test") == [TEMPORARY]


def test_second_server(home, dns):
    with DNSServer() as dead:
        address = dead.control
    home.control(dnsservers=[address, dns.control])
    dns.zone["d.test"] = {"MX": [(0, ".")]}
    assert send(home, "d.test") == [NULL_MX]


def test_server_with_an_ipv6_address(home, dns):
    with DNSServer({"d.test": {"MX": [(0, ".")]}}, address="::1") as six:
        home.control(dnsservers=six.control)
        assert send(home, "d.test") == [NULL_MX]
        assert six.questions == [("d.test", "MX", "udp")]
    assert dns.questions == []


@pytest.mark.parametrize("content", ["nonsense", "127.0.0.1:", "dns.test:53"])
def test_dnsservers_without_an_address(home, dns, content):
    home.control(dnsservers=content)
    assert send(home, "d.test") == [b"ZUnable to read control files. (#4.3.0)\n"]


def test_truncated_answers_come_by_tcp(home, dns):
    many = [(n, f"mx{n}.a-rather-long-name-to-fill-the-answer.test") for n in range(200)]
    dns.zone["d.test"] = {"MX": many}
    dns.zone["e.test"] = {"MX": TRUNCATED([(0, ".")])}
    assert send(home, "d.test") == [NO_EXCHANGER]
    assert dns.questions[:2] == [("d.test", "MX", "udp"), ("d.test", "MX", "tcp")]
    # the work that one domain can cause is bounded
    assert len(dns.questions) <= 2 + 2 * 50
    assert send(home, "e.test") == [NULL_MX]


def test_smtproutes_ask_for_the_relay_only(home, dns, server):
    home.control(smtproutes=[f"d.test:relay.test:{server.port}", f"e.test:[127.0.0.1]:{server.port}"])
    dns.zone["relay.test"] = {"MX": [(0, "wrong.test")], "A": ["127.0.0.1"]}
    assert send(home, "d.test")[0] == b"r"
    assert {name for name, _, _ in dns.questions} == {"relay.test"}
    assert "MX" not in {kind for _, kind, _ in dns.questions}
    dns.questions.clear()
    assert send(home, "e.test")[0] == b"r"
    assert dns.questions == []
    dns.zone.clear()
    assert send(home, "d.test") == [no_host(b"relay.test")]


# With servers on port 25 -----------------------------------------------------------------------------------


@pytest.fixture
def network():
    """A network namespace for this thread and what it starts, in which 198.51.100.0/24 and 2001:db8:25::/64 lead here
    without being this host's addresses."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    if libc.unshare(0x40000000) != 0:
        os.close(before)
        pytest.skip("no network namespaces without root")
    try:
        for command in (
            "ip link set lo up", "ip route add local 198.51.100.0/24 dev lo", "ip route add default dev lo",
            "ip -6 route add local 2001:db8:25::/64 dev lo",
        ):
            subprocess.run(command.split(), check=True)
        yield
    finally:
        assert libc.setns(before, 0) == 0
        os.close(before)


@pytest.fixture
def mx(network):
    """mx(address, script): an SMTP server on its port 25."""
    servers = []

    def start(address, script=None):
        six = ":" in address
        listener = socket.socket(socket.AF_INET6 if six else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # IPV6_FREEBIND, IP_FREEBIND: the address is on no interface
        listener.setsockopt(*((socket.IPPROTO_IPV6, 78) if six else (socket.IPPROTO_IP, 15)), 1)
        listener.bind((address, 25))
        listener.listen(16)
        server = Server(script, listener=listener)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.close()


def accepted_by(records):
    assert records[0] == b"r" and len(records) == 2 and records[1][:1] == b"K", records
    return records[1][1:].split(b" ")[0].decode()


@pytest.mark.usefixtures("network")
class TestExchangers:
    ZONE = {
        "d.test": {"MX": [(20, "second.test"), (10, "first.test"), (30, "third.test")]},
        "first.test": {"A": ["198.51.100.1"]},
        "second.test": {"A": ["198.51.100.2"], "AAAA": ["2001:db8:25::2"]},
        "third.test": {"AAAA": ["2001:db8:25::3"]},
    }

    def test_the_best_first_then_the_others(self, home, mx, dns):
        dns.zone.update(self.ZONE)
        assert send(home, "d.test") == [NO_CONNECTION]
        mx("2001:db8:25::3")
        assert accepted_by(send(home, "d.test")) == "2001:db8:25::3"
        mx("2001:db8:25::2")
        assert accepted_by(send(home, "d.test")) == "2001:db8:25::2"
        mx("198.51.100.2")
        assert accepted_by(send(home, "d.test")) == "198.51.100.2"
        mx("198.51.100.1")
        assert accepted_by(send(home, "d.test")) == "198.51.100.1"

    def test_literal_domains(self, home, mx, dns):
        mx("198.51.100.1")
        mx("2001:db8:25::1")
        assert accepted_by(send(home, "[198.51.100.1]")) == "198.51.100.1"
        assert accepted_by(send(home, "[IPv6:2001:db8:25::1]")) == "2001:db8:25::1"
        assert dns.questions == []

    @pytest.mark.parametrize(
        "script",
        [{"connect": b"421 busy\r\n"}, {"connect": b"554 no\r\n"}, {"connect": CLOSE}, {"EHLO": CLOSE}, {"MAIL": CLOSE}],
        ids=str)
    def test_a_server_that_is_not_ready_is_passed_over(self, home, mx, dns, script):
        dns.zone.update(self.ZONE)
        bad = mx("198.51.100.1", script)
        mx("198.51.100.2")
        assert accepted_by(send(home, "d.test")) == "198.51.100.2"
        assert len(bad.sessions) == 1

    def test_the_first_refusal_is_reported_when_nobody_is_ready(self, home, mx, dns):
        dns.zone.update(self.ZONE)
        mx("198.51.100.1", {"connect": b"421 first\r\n"})
        mx("198.51.100.2", {"connect": b"421 second\r\n"})
        assert send(home, "d.test") == [
            b"ZConnected to 198.51.100.1 but greeting failed.\nRemote host said: 421 first\n"]

    @pytest.mark.parametrize(
        "script", [{"EHLO": b"421 no\r\n"}, {"MAIL": b"451 no\r\n"}, {"RCPT": CLOSE}, {"dot": CLOSE}], ids=str)
    def test_once_the_message_was_named_nobody_else_is_asked(self, home, mx, dns, script):
        dns.zone.update(self.ZONE)
        mx("198.51.100.1", script)
        other = mx("198.51.100.2")
        assert send(home, "d.test")[-1][:1] == b"Z"
        assert other.sessions == []

    def test_equal_preferences_share_the_load(self, home, mx, dns):
        dns.zone["d.test"] = {"MX": [(10, "a.test"), (10, "b.test")]}
        dns.zone["a.test"] = {"A": ["198.51.100.1"]}
        dns.zone["b.test"] = {"A": ["198.51.100.2"]}
        mx("198.51.100.1")
        mx("198.51.100.2")
        # each order has the same chance: 40 times the same one is one in 10^12
        assert {accepted_by(send(home, "d.test")) for _ in range(40)} == {"198.51.100.1", "198.51.100.2"}

    def test_this_host_is_an_exchanger_itself(self, home, mx, dns):
        dns.zone.update(self.ZONE)
        subprocess.run(["ip", "addr", "add", "198.51.100.2/32", "dev", "lo"], check=True)
        mx("198.51.100.2")
        third = mx("2001:db8:25::3")
        assert send(home, "d.test") == [NO_CONNECTION]
        mx("198.51.100.1")
        assert accepted_by(send(home, "d.test")) == "198.51.100.1"
        dns.zone["d.test"] = {"MX": [(20, "second.test"), (30, "third.test")]}
        assert send(home, "d.test") == [OWN]
        assert third.sessions == []

    def test_time_outs_are_remembered(self, home, mx, dns):
        """lock/tcpto, byte for byte; IPv4 only."""
        dns.zone["d.test"] = {"A": ["203.0.113.1"]}
        # 203.0.113.0/24 goes to lo by the default route, and there nobody takes it: no answer at all.
        tcpto = home.queue / "lock" / "tcpto"
        tcpto.write_bytes(bytes(1024))
        assert send(home, "d.test") == [NO_CONNECTION]
        record = tcpto.read_bytes()[:16]
        assert record[:8] == bytes([203, 0, 113, 1, 1, 0, 0, 0]) and record[12:] == bytes(4)
        assert tcpto.read_bytes()[16:] == bytes(1008)
        # a second one counts only after two minutes, and then the address is left alone
        assert send(home, "d.test") == [NO_CONNECTION]
        assert tcpto.read_bytes()[:16] == record
        earlier = int.from_bytes(record[8:12], "little") - 120
        tcpto.write_bytes(record[:8] + earlier.to_bytes(4, "little") + bytes(4) + bytes(1008))
        assert send(home, "d.test") == [NO_CONNECTION]
        assert tcpto.read_bytes()[4] == 2
        subprocess.run("ip route add local 203.0.113.0/24 dev lo".split(), check=True)
        up = mx("203.0.113.1")
        assert send(home, "d.test") == [NO_CONNECTION]
        assert up.sessions == []
        tcpto.write_bytes(bytes([203, 0, 113, 1, 1]) + bytes(1019))
        assert accepted_by(send(home, "d.test")) == "203.0.113.1"
        assert tcpto.read_bytes()[4] == 0
