"""A mail store that speaks LMTP [RFC 2033] over TCP or a unix socket, records what it gets and misbehaves as told.

`answer(recipient, content)` says what a recipient's last reply is: None for the usual one, a reply, or DROP: the
connection is closed instead. `rcpt(recipient)` does the same for RCPT.
"""
import dataclasses
import os
import socket
import threading

from harness import wait_until

DROP = object()


@dataclasses.dataclass
class Kept:
    sender: str
    recipient: str
    content: bytes  # without dot-stuffing, CRLF line ends
    session: int


class Store:
    def __init__(self, path=None, answer=None, rcpt=None, extensions=("PIPELINING", "ENHANCEDSTATUSCODES", "8BITMIME")):
        self.path = path
        self.answer = answer or (lambda recipient, content: None)
        self.rcpt = rcpt or (lambda recipient: None)
        self.extensions = extensions
        self.kept = []
        self.commands = []
        self.sessions = 0
        self.transactions = 0
        self.listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        self.listener.bind(path or ("127.0.0.1", 0))
        self.listener.listen(64)
        self.port = None if path else self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()
        if self.path:
            os.unlink(self.path)

    def wait_for(self, count, seconds=20):
        wait_until(f"{count} mails in the store", lambda: len(self.kept) >= count, seconds)
        return self.kept

    def _accept(self):
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            self.sessions += 1
            threading.Thread(target=self._serve, args=(peer, self.sessions), daemon=True).start()

    def _serve(self, peer, session):
        with peer, peer.makefile("rb") as lines:
            try:
                self._dialogue(peer, lines, session)
            except OSError:
                pass

    def _dialogue(self, peer, lines, session):
        def say(text):
            peer.sendall(text.encode() + b"\r\n")

        say("220 store.test LMTP")
        sender, recipients = None, []
        for line in lines:
            text = line.decode().rstrip("\r\n")
            self.commands.append(text)
            word = text[:4].upper()
            if word == "LHLO":
                said = ["store.test", *self.extensions]
                say("\r\n".join([f"250-{item}" for item in said[:-1]] + [f"250 {said[-1]}"]))
            elif word == "MAIL":
                sender, recipients = text[text.index("<") + 1:text.index(">")], []
                self.transactions += 1
                say("250 2.1.0 Ok")
            elif word == "RCPT":
                recipient = text[text.index("<") + 1:text.index(">")]
                refusal = self.rcpt(recipient)
                if refusal is None:
                    recipients.append(recipient)
                say(refusal or "250 2.1.5 Ok")
            elif word in ("DATA", "BDAT"):
                if word == "BDAT":
                    assert text.upper().endswith(" LAST"), text
                    content = lines.read(int(text.split()[1]))
                elif recipients:
                    say("354 Go ahead")
                    content = b"".join(piece[1:] if piece.startswith(b".") else piece
                                       for piece in iter(lines.readline, b".\r\n"))
                if not recipients:
                    say("503 5.5.1 RCPT first")
                    continue
                for recipient in recipients:
                    reply = self.answer(recipient, content)
                    if reply is DROP:
                        return
                    if reply is None:
                        self.kept.append(Kept(sender, recipient, content, session))
                    say(reply or f"250 2.0.0 <{recipient}> kept")
            elif word == "RSET":
                say("250 2.0.0 Ok")
            elif word == "QUIT":
                say("221 2.0.0 Bye")
                return
            else:
                say("500 5.5.2 This is LMTP")
