"""An SMTP server that keeps every byte and can be told, step by step, to misbehave."""

import contextlib
import re
import socket
import threading
import time
from dataclasses import dataclass, field

from apus import free_port



class Instead:
    """What a server does instead of replying; with a name that is the same in every process, for pytest."""

    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return self.name


CLOSE = Instead("CLOSE")  # ends the connection
HANG = Instead("HANG")  # never replies

DEFAULT = {
    "connect": b"220 server.test ESMTP\r\n",
    "EHLO": b"250-server.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 0\r\n",
    "HELO": b"250 server.test\r\n",
    "MAIL": b"250 2.1.0 sender ok\r\n",
    "RCPT": b"250 2.1.5 recipient ok\r\n",
    "DATA": b"354 go ahead\r\n",
    "dot": b"250 2.0.0 taken\r\n",
    "RSET": b"250 2.0.0 reset\r\n",
    "NOOP": b"250 2.0.0 nothing\r\n",
    "QUIT": b"221 2.0.0 bye\r\n",
    "other": b"500 5.5.1 what\r\n",
}


@dataclass
class Message:
    sender: str
    recipients: list
    wire: bytes  # between the reply to DATA and CRLF . CRLF, the last CRLF included
    when: float = field(default_factory=time.time)

    @property
    def text(self):
        """With dot-stuffing undone and LF for CRLF."""
        return re.sub(rb"(?m)^\.", b"", self.wire.replace(b"\r\n", b"\n"))


@dataclass
class Session:
    commands: list = field(default_factory=list)
    messages: list = field(default_factory=list)
    received: bytes = b""
    closed: bool = False


def address(argument):
    """The path of MAIL FROM:<...> or RCPT TO:<...>, as written."""
    match = re.search(rb"<(.*)>", argument)
    return (match[1] if match else argument).decode("latin-1")


class Server:
    """Accepts connections in a thread each.

    `script` replaces replies by step ("connect", "EHLO", ..., "dot"): bytes, CLOSE, HANG, a list (one for each time
    the step comes in a session; the last one repeats), or a function of (argument, session) that returns one of these.
    `script` may also be a function of the number of the session that returns such a dictionary.
    """

    def __init__(self, script=None, port=None, listener=None, keep=True):
        self.script = script or {}
        self.keep = keep
        self.sessions = []
        self._stop = threading.Event()
        self._open = set()
        if listener is None:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            for _ in range(20):
                try:
                    listener.bind(("127.0.0.1", port or free_port()))
                    break
                except OSError:
                    if port:
                        raise
            listener.listen(128)
        self.listener = listener
        self.port = listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def messages(self):
        return [message for session in list(self.sessions) for message in list(session.messages)]

    def recipients(self):
        return [recipient for message in self.messages for recipient in message.recipients]

    def close(self):
        self._stop.set()
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _accept(self):
        while not self._stop.is_set():
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            session = Session()
            script = self.script(len(self.sessions)) if callable(self.script) else self.script
            self.sessions.append(session)
            self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection, session, script), daemon=True).start()

    def _serve(self, connection, session, script):
        try:
            connection.settimeout(60)
            with connection:
                self._talk(connection, session, script)
        except OSError:
            pass
        finally:
            session.closed = True
            self._open.discard(connection)

    def _talk(self, connection, session, script):
        counts = {}

        def answer(step, argument=b""):
            """False ends the session."""
            reply = script.get(step, DEFAULT.get(step, DEFAULT["other"]))
            if callable(reply):
                reply = reply(argument, session)
            if isinstance(reply, list):
                reply = reply[min(counts.get(step, 0), len(reply) - 1)]
            counts[step] = counts.get(step, 0) + 1
            if reply is CLOSE:
                return False
            if reply is HANG:
                while connection.recv(65536):
                    pass
                return False
            connection.sendall(reply)
            return reply[:1]

        buffer = b""

        def fill():
            nonlocal buffer
            chunk = connection.recv(65536)
            if self.keep:
                session.received += chunk
            buffer += chunk
            return bool(chunk)

        if answer("connect") is False:
            return
        sender, recipients = None, []
        while True:
            while b"\r\n" not in buffer:
                if not fill():
                    return
            line, buffer = buffer.split(b"\r\n", 1)
            session.commands.append(line.decode("latin-1"))
            verb = line[:4].upper().decode("latin-1")
            if verb not in script and (verb == "RCPT" and sender is None or verb == "DATA" and not recipients):
                connection.sendall(b"503 5.5.1 not now\r\n")
                continue
            status = answer(verb, line)
            if status is False or verb == "QUIT":
                return
            if verb == "MAIL" and status < b"4":
                sender, recipients = address(line), []
            elif verb == "RCPT" and status < b"4":
                recipients.append(address(line))
            elif verb == "DATA" and status in (b"2", b"3"):
                text = bytearray(b"\r\n" + buffer)
                buffer, looked = b"", 0
                while (end := text.find(b"\r\n.\r\n", looked)) < 0:
                    looked = max(0, len(text) - 4)
                    if not fill():
                        return
                    text += buffer
                    buffer = b""
                wire, buffer = bytes(text[2:end + 2]), bytes(text[end + 5:])
                status = answer("dot", wire)
                if status == b"2":
                    session.messages.append(Message(sender, recipients, wire))
                sender, recipients = None, []
                if status is False:
                    return
