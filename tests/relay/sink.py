"""An SMTP server that records what it gets and misbehaves as told. Not for speed; for watching.

A script, called for each step of each session, says what to answer:

    def script(step, session, argument): ...
    step: connect EHLO HELO MAIL RCPT DATA BDAT content RSET QUIT (content: the message is complete)
    result: None for the usual reply, a reply ("451 4.3.0 later"), DROP (close at once), RESET (close with RST),
            SILENCE (never answer), or Delay(seconds, result)
"""
import asyncio
import dataclasses
import socket
import struct
import threading
import time

from harness import wait_until

DROP = object()
RESET = object()
SILENCE = object()


@dataclasses.dataclass
class Delay:
    seconds: float
    result: object = None


@dataclasses.dataclass
class Message:
    sender: str
    recipients: list
    content: bytes  # without dot-stuffing, CRLF line ends
    session: int
    peer: tuple
    at: float       # time.monotonic() when it was complete
    parameters: str = ""
    with_bdat: bool = False


class Session:
    def __init__(self, number, peer):
        self.number = number
        self.peer = peer
        self.commands = []
        self.messages = 0
        self.sender = None
        self.parameters = ""
        self.recipients = []
        self.chunks = b""


class Sink:
    """A running sink; use as a context manager, or stop() it."""

    def __init__(self, script=None, extensions=("PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "CHUNKING", "SIZE 104857600"),
                 host="127.0.0.1", port=0, keep_content=True):
        self.script = script
        self.extensions = extensions
        self.keep_content = keep_content
        self.messages = []
        self.sessions = []
        self.open = 0
        self.open_max = 0
        self.lock = threading.Lock()
        self.loop = asyncio.new_event_loop()
        self.listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((host, port))
        self.listener.listen(1024)
        self.port = self.listener.getsockname()[1]
        started = threading.Event()
        self.thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self.thread.start()
        started.wait()

    # --- for tests ---

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        if self.loop.is_running():
            self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)

    def wait_for(self, count, seconds=20):
        wait_until(f"{count} messages at the sink", lambda: len(self.messages) >= count, seconds)
        return self.messages

    def contents(self):
        return [message.content for message in self.messages]

    # --- inside the loop's thread ---

    def _run(self, started):
        asyncio.set_event_loop(self.loop)

        async def serve():
            await asyncio.start_server(self._session, sock=self.listener, limit=1 << 20)
            started.set()

        self.loop.create_task(serve())
        self.loop.run_forever()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.listener.close()
        self.loop.close()

    async def _session(self, reader, writer):
        peer = writer.get_extra_info("peername")
        with self.lock:
            session = Session(len(self.sessions), peer)
            self.sessions.append(session)
            self.open += 1
            self.open_max = max(self.open_max, self.open)
        try:
            await self._dialogue(reader, writer, session)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, EOFError):
            pass
        finally:
            with self.lock:
                self.open -= 1
            writer.close()

    async def _answer(self, writer, session, step, argument, usual):
        """Sends what the script wants. True when the reply was positive; EOFError when the session is over."""
        result = self.script(step, session, argument) if self.script else None
        if isinstance(result, Delay):
            await asyncio.sleep(result.seconds)
            result = result.result
        if result is DROP:
            raise EOFError
        if result is RESET:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raise EOFError
        if result is SILENCE:
            await asyncio.sleep(3600)
        text = usual if result is None else result
        writer.write(text.encode() + b"\r\n")
        await writer.drain()
        if text.startswith("421"):
            raise EOFError
        return text[0] in "23"

    def _record(self, session, content, with_bdat):
        with self.lock:
            session.messages += 1
            self.messages.append(Message(session.sender, list(session.recipients), content if self.keep_content else b"",
                                         session.number, session.peer, time.monotonic(), session.parameters, with_bdat))

    async def _dialogue(self, reader, writer, session):
        if not await self._answer(writer, session, "connect", "", "220 sink.test ESMTP"):
            return
        while True:
            line = await reader.readuntil(b"\n")
            text = line.rstrip(b"\r\n").decode("utf-8", "surrogateescape")
            session.commands.append(text)
            word, _, argument = text.partition(" ")
            word = word.upper()
            if word in ("EHLO", "HELO"):
                usual = "250 sink.test"
                if word == "EHLO" and self.extensions:
                    lines = ["sink.test", *self.extensions]
                    usual = "\r\n".join(f"250-{item}" for item in lines[:-1]) + f"\r\n250 {lines[-1]}"
                await self._answer(writer, session, word, argument, usual)
            elif word == "MAIL":
                path, _, parameters = argument[5:].strip().partition(">")
                if await self._answer(writer, session, word, argument, "250 2.1.0 Ok"):
                    session.sender, session.recipients, session.chunks = path.lstrip("<"), [], b""
                    session.parameters = parameters.strip()
            elif word == "RCPT":
                path = argument[3:].strip().partition(">")[0].lstrip("<")
                if session.sender is None:
                    writer.write(b"503 5.5.1 MAIL first\r\n")
                elif await self._answer(writer, session, word, path, "250 2.1.5 Ok"):
                    session.recipients.append(path)
            elif word == "DATA":
                if not session.recipients:
                    await self._answer(writer, session, "DATA", argument, "554 5.5.1 No valid recipients")
                elif await self._answer(writer, session, word, argument, "354 Go ahead"):
                    content = await self._read_content(reader)
                    await self._finish(writer, session, content, False)
            elif word == "BDAT":
                size, _, last = argument.partition(" ")
                session.chunks += await reader.readexactly(int(size))
                if last.upper() == "LAST":
                    if not session.recipients:
                        await self._answer(writer, session, "BDAT", argument, "554 5.5.1 No valid recipients")
                    elif await self._answer_bdat_last(writer, session, argument):
                        pass
                else:
                    await self._answer(writer, session, word, argument, "250 2.0.0 Ok")
            elif word == "RSET":
                session.sender, session.recipients = None, []
                await self._answer(writer, session, word, argument, "250 2.0.0 Ok")
            elif word == "NOOP":
                await self._answer(writer, session, word, argument, "250 2.0.0 Ok")
            elif word == "QUIT":
                await self._answer(writer, session, word, argument, "221 2.0.0 Bye")
                return
            else:
                await self._answer(writer, session, word, argument, "500 5.5.2 Unknown")

    async def _read_content(self, reader):
        lines = []
        while True:
            line = await reader.readuntil(b"\n")
            if line == b".\r\n":
                return b"".join(lines)
            lines.append(line[1:] if line.startswith(b".") else line)

    async def _answer_bdat_last(self, writer, session, _argument):
        content, session.chunks = session.chunks, b""
        await self._finish(writer, session, content, True)
        return True

    async def _finish(self, writer, session, content, with_bdat):
        """The message counts as received when its positive reply is about to be sent, or is dropped on purpose."""
        result = self.script("content", session, content) if self.script else None
        delay = 0
        if isinstance(result, Delay):
            delay, result = result.seconds, result.result
        await asyncio.sleep(delay)
        if result is None:
            self._record(session, content, with_bdat)
            result = "250 2.0.0 Ok: kept"
        elif result is DROP:
            self._record(session, content, with_bdat)  # taken, but nobody is told
            raise EOFError
        elif result in (RESET, SILENCE):
            raise EOFError
        writer.write(result.encode() + b"\r\n")
        await writer.drain()
        session.sender, session.recipients = None, []
        if result.startswith("421"):
            raise EOFError
