"""A DNS server on loopback whose every answer is the test's to choose.

    with DNSServer({
        "far.test": {"MX": [(10, "mx.far.test")]},
        "mx.far.test": {"A": ["192.0.2.1"], "AAAA": ["2001:db8::1"]},
        "broken.test": SERVFAIL,
        "half.test": {"MX": SILENT, "A": ["192.0.2.2"]},
    }) as dns:
        home.control(dnsservers=dns.control)       # 127.0.0.1:PORT
        ...
        assert ("far.test", "MX", "udp") in dns.questions

A name that is not in the zone does not exist (NXDOMAIN); a type that is not in its entry has no data. Instead of a
name's entry or a type's records may stand SERVFAIL, NXDOMAIN, REFUSED, FORMERR, SILENT (no answer at all), TRUNCATED(x)
(over UDP an empty answer that says it is truncated; over TCP x), RAW(bytes) (these bytes for an answer, after the id),
or a function of (name, type, transport) that returns one of all these. The zone may be changed while the server runs.

    python3 Tests/e2e/dns_server.py PORT < zone.json       for work by hand
"""

import json
import socket
import socketserver
import struct
import sys
import threading

from dnslib import AAAA, CNAME, MX, QTYPE, RCODE, RR, TXT, A, DNSRecord


class Code:
    """An answer without records."""

    def __init__(self, code):
        self.code = code


SERVFAIL = Code(RCODE.SERVFAIL)
NXDOMAIN = Code(RCODE.NXDOMAIN)
REFUSED = Code(RCODE.REFUSED)
FORMERR = Code(RCODE.FORMERR)
SILENT = object()


class TRUNCATED:
    def __init__(self, whole):
        self.whole = whole


class RAW:
    def __init__(self, data):
        self.data = data


def rdata(kind, value):
    if kind == "MX":
        preference, name = value
        return MX(name, preference)
    return {"A": A, "AAAA": AAAA, "CNAME": CNAME, "TXT": TXT}[kind](value)


class DNSServer:
    def __init__(self, zone=None, address="127.0.0.1", port=0):
        self.zone = dict(zone or {})
        #: What was asked: (name, type, "udp" or "tcp"), in order.
        self.questions = []
        self.address = address
        self.port = port
        self._servers = []

    @property
    def control(self):
        """The line for control/dnsservers."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    def start(self):
        outer = self
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET

        class Datagram(socketserver.BaseRequestHandler):
            def handle(self):
                data, reply_to = self.request
                answer = outer.answer(data, "udp")
                if answer is not None:
                    reply_to.sendto(answer, self.client_address)

        class Stream(socketserver.BaseRequestHandler):
            def handle(self):
                self.request.settimeout(20)
                try:
                    while True:
                        size = self._exactly(2)
                        if not size:
                            return
                        answer = outer.answer(self._exactly(struct.unpack("!H", size)[0]), "tcp")
                        if answer is None:
                            return
                        self.request.sendall(struct.pack("!H", len(answer)) + answer)
                except OSError:
                    pass

            def _exactly(self, count):
                data = b""
                while len(data) < count:
                    piece = self.request.recv(count - len(data))
                    if not piece:
                        return b""
                    data += piece
                return data

        class UDP(socketserver.ThreadingUDPServer):
            address_family = family
            daemon_threads = True

        class TCP(socketserver.ThreadingTCPServer):
            address_family = family
            daemon_threads = True
            allow_reuse_address = True

        for _ in range(50):  # one number that is free for both
            udp = UDP((self.address, self.port), Datagram)
            try:
                tcp = TCP((self.address, udp.server_address[1]), Stream)
            except OSError:
                udp.server_close()
                if self.port:
                    raise
                continue
            break
        else:
            raise OSError("no port is free for both UDP and TCP")
        self.port = udp.server_address[1]
        self._servers = [udp, tcp]
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def end(self):
        for server in self._servers:
            server.shutdown()
            server.server_close()
        self._servers = []

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.end()

    def answer(self, data, transport):
        """The bytes that answer a question; None for none."""
        try:
            question = DNSRecord.parse(data)
        except Exception:
            return None
        name = str(question.q.qname).rstrip(".").lower()
        kind = QTYPE.get(question.q.qtype)
        self.questions.append((name, kind, transport))

        found = self.zone.get(name, NXDOMAIN)
        if callable(found):
            found = found(name, kind, transport)
        if isinstance(found, dict):
            found = self._within(found, kind)
        if callable(found):
            found = found(name, kind, transport)

        reply = question.reply(ra=1, aa=0)
        if isinstance(found, TRUNCATED):
            if transport == "udp":
                reply.header.tc = 1
                return reply.pack()
            found = found.whole
        if found is SILENT:
            return None
        if isinstance(found, RAW):
            return data[:2] + found.data
        if isinstance(found, Code):
            reply.header.rcode = found.code
            return reply.pack()
        if isinstance(found, dict):
            found = self._within(found, kind)
        for record in found:
            # ("CNAME", "x") gives a record of another type than asked.
            of, value = record if isinstance(record, tuple) and isinstance(record[0], str) else (kind, record)
            reply.add_answer(RR(question.q.qname, getattr(QTYPE, of), ttl=60, rdata=rdata(of, value)))
        packed = reply.pack()
        if transport == "udp" and len(packed) > 512:
            reply = question.reply(ra=1, aa=0)
            reply.header.tc = 1
            packed = reply.pack()
        return packed

    @staticmethod
    def _within(entry, kind):
        return entry.get(kind, [])


if __name__ == "__main__":
    words = {"SERVFAIL": SERVFAIL, "NXDOMAIN": NXDOMAIN, "REFUSED": REFUSED, "SILENT": SILENT}

    def value(raw):
        if isinstance(raw, str):
            return words[raw]
        if isinstance(raw, dict):
            return {kind: value(records) for kind, records in raw.items()}
        return [tuple(record) if isinstance(record, list) else record for record in raw]

    server = DNSServer({name: value(entry) for name, entry in json.load(sys.stdin).items()}, port=int(sys.argv[1]))
    server.start()
    print(server.control, flush=True)
    threading.Event().wait()
