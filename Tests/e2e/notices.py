"""Notices of failure, taken apart as a stranger's parser of QSBMF would, their fixed parts compared to the byte."""

import re

from apus import DATE, QUEUE_LINE

#: What a deferral becomes when the message is too old (spec send.md 5).
TOO_LONG = b"I'm not going to try again; this message has been in the queue too long.\n"


class Notice:
    """The parts of a notice (spec send.md 10).

    `text` is the message below queue's Received line. `to`, `sender` and `host` are what must stand in To, From and the
    first line of the body.
    """

    def __init__(self, text, to, double=False, sender=b"MAILER-DAEMON@home.test", host=b"home.test"):
        head = re.match(rb"Date: " + DATE + rb"\n", text)
        assert head, text[:300]
        rest = text[head.end():]
        fixed = (b"From: " + sender + b"\nTo: " + to + b"\nSubject: failure notice\n\n"
                 b"Hi. This is the qmail-send program at " + host + b".\n")
        assert rest[:len(fixed)] == fixed
        free, rest = rest[len(fixed):].split(b"\n\n", 1)
        assert free.count(b"\n") + 1 == (1 if double else 2), free
        #: The paragraphs of the recipients, each with its last LF.
        self.paragraphs = []
        while not rest.startswith(b"-"):
            paragraph, rest = rest.split(b"\n\n", 1)
            assert paragraph.startswith(b"<"), paragraph
            self.paragraphs.append(paragraph + b"\n")
        kind = b"the original bounce" if double else b"a copy of the message"
        fixed = b"--- Below this line is " + kind + b".\n\nReturn-Path: <"
        assert rest[:len(fixed)] == fixed
        self.return_path, self.original = rest[len(fixed):].split(b">\n", 1)

    @classmethod
    def of(cls, delivered, to, **more):
        """From a message in a Maildir."""
        assert delivered.return_path == ("#@[]" if more.get("double") else "")
        return cls(delivered.text, to, **more)

    @classmethod
    def on_the_wire(cls, message, to, **more):
        """From a message that a Server got."""
        assert message.sender == ("#@[]" if more.get("double") else "")
        line = re.match(QUEUE_LINE, message.text)
        assert line, message.text[:200]
        return cls(message.text[line.end():], to, **more)

    @property
    def reasons(self):
        """{address: reason}; nobody is named twice."""
        found = {}
        for paragraph in self.paragraphs:
            address, reason = re.fullmatch(rb"<([^\n]*)>:\n(.*)", paragraph, re.S).groups()
            assert address not in found, f"named twice: {address}"
            found[address] = reason
        return found
