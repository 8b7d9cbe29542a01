"""A next hop that speaks SMTP or LMTP with STARTTLS, and lets it go wrong as told. Blocking, one thread per session, so that
a test decides what happens between any two bytes.

    hop = TlsHop(context, plan)

`context`: an ssl.SSLContext, or None for a host without TLS. `plan(session)`: what to do in session number n, as one of the
words below, or None for nothing special.
"""
import base64
import socket
import struct
import threading

from harness import SLOWNESS, wait_until

NOT_OFFERED = "not offered"        # no STARTTLS in EHLO's reply
REFUSED = "refused"                # 454 to STARTTLS
REFUSED_FOR_GOOD = "refused for good"
GOES_AWAY = "goes away"            # 421 to STARTTLS
SILENT_CLOSE = "silent close"      # closes instead of an answer to STARTTLS
INJECTED = "injected"              # says more behind its 220, in the clear
NO_TLS = "no tls"                  # says 220 and then knows nothing of TLS
CLOSED = "closed"                  # closes when it has the ClientHello
RESET = "reset"                    # the same with RST
NEVER = "never"                    # has the ClientHello and says nothing
CLOSED_SECURED = "closed secured"  # closes behind the handshake, before EHLO is answered


class Session:
    def __init__(self, number):
        self.number = number
        self.commands = []          # each with whether it came under TLS: ("EHLO x", False)
        self.tls = None             # version
        self.resumed = None
        self.name = None            # SNI
        self.certificate = None     # the client's, DER
        self.failure = None         # of the handshake
        self.user = None            # who has authenticated

    def said(self, word, under_tls=None):
        return [text for text, secured in self.commands
                if text.upper().startswith(word) and under_tls in (None, secured)]


class TlsHop:
    def __init__(self, context=None, plan=lambda session: None, lmtp=False, after=(), host="127.0.0.1", port=0,
                 passwords=None):
        """`after`: further EHLO lines that are shown under TLS alone. `passwords`: of users who may AUTH PLAIN there."""
        self.passwords = passwords or {}
        self.context, self.plan, self.lmtp, self.after = context, plan, lmtp, after
        self.sessions, self.messages = [], []
        self.lock = threading.Lock()
        self.names = threading.local()
        if context is not None:
            context.sni_callback = self._on_name
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((host, port))
        self.listener.listen(64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.listener.close()

    def wait_for(self, count, seconds=20):
        wait_until(f"{count} messages at the next hop", lambda: len(self.messages) >= count, seconds)
        return self.messages

    def _on_name(self, _connection, name, _context):
        self.names.last = name

    def _serve(self):
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                session = Session(len(self.sessions))
                self.sessions.append(session)
            threading.Thread(target=self._session, args=(peer, session), daemon=True).start()

    def _session(self, peer, session):
        peer.settimeout(60 * SLOWNESS)
        try:
            self._dialogue(peer, session)
        except (OSError, EOFError, ValueError):
            pass
        finally:
            peer.close()

    def _dialogue(self, peer, session):
        plan, secured, sender, recipients = self.plan(session), False, None, []
        file = peer.makefile("rb")

        def say(text):
            peer.sendall(text.encode() + b"\r\n")

        say("220 hop.test " + ("LMTP" if self.lmtp else "ESMTP"))
        while True:
            line = file.readline()
            if not line:
                raise EOFError
            text = line.rstrip(b"\r\n").decode()
            session.commands.append((text, secured))
            word = text.partition(" ")[0].upper()
            if word in ("EHLO", "LHLO"):
                lines = ["hop.test", "PIPELINING", "8BITMIME"]
                if not secured and self.context is not None and plan != NOT_OFFERED:
                    lines.append("STARTTLS")
                if secured:
                    lines += self.after
                say("\r\n".join([f"250-{item}" for item in lines[:-1]] + [f"250 {lines[-1]}"]))
            elif word == "STARTTLS":
                if plan == REFUSED:
                    say("454 4.7.0 TLS not available now")
                    continue
                if plan == REFUSED_FOR_GOOD:
                    say("502 5.5.1 What?")
                    continue
                if plan == GOES_AWAY:
                    say("421 4.3.2 going away")
                    return
                if plan == SILENT_CLOSE:
                    return
                say("220 2.0.0 Go ahead" + ("\r\n250 2.1.0 Ok" if plan == INJECTED else ""))
                if plan in (NO_TLS, CLOSED, RESET, NEVER):
                    peer.recv(65536)
                    if plan == NO_TLS:
                        say("500 5.5.2 What is that?")
                    if plan == RESET:
                        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    if plan == NEVER:
                        peer.recv(1)  # until the other side has enough
                    return
                try:
                    self.names.last = None
                    peer = self.context.wrap_socket(peer, server_side=True)
                except OSError as failure:
                    session.failure = str(failure)
                    raise
                finally:
                    session.name = self.names.last
                session.tls, session.resumed = peer.version(), peer.session_reused
                session.certificate = peer.getpeercert(True)
                if plan == CLOSED_SECURED:
                    file = peer.makefile("rb")
                    file.readline()
                    return
                secured, sender, recipients = True, None, []
                file = peer.makefile("rb")
            elif word == "AUTH" and text.upper().startswith("AUTH PLAIN "):
                _, user, password = base64.b64decode(text.split(" ")[2]).decode().split("\0")
                good = self.passwords.get(user) == password
                session.user = user if good else None
                say("235 2.7.0 Welcome" if good else "535 5.7.8 Wrong")
            elif word == "MAIL":
                sender, recipients = text[10:].partition(">")[0], []
                say("250 2.1.0 Ok")
            elif word == "RCPT":
                recipients.append(text[9:].partition(">")[0])
                say("250 2.1.5 Ok")
            elif word == "DATA":
                say("354 Go ahead")
                lines = []
                while True:
                    line = file.readline()
                    if not line:
                        raise EOFError
                    if line == b".\r\n":
                        break
                    lines.append(line[1:] if line.startswith(b".") else line)
                with self.lock:
                    self.messages.append((sender, recipients, b"".join(lines), session))
                for _ in recipients if self.lmtp else recipients[:1]:
                    say("250 2.0.0 Ok: kept")
            elif word == "RSET":
                say("250 2.0.0 Ok")
            elif word == "QUIT":
                say("221 2.0.0 Bye")
                return
            else:
                say("500 5.5.2 Unknown")
