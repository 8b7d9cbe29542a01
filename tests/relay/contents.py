"""Contents that a relay must not change by a byte: {name: content with CRLF line ends}."""
import os
import random


def header(subject):
    return f"From: sender@client.test\r\nTo: user@example.test\r\nSubject: {subject}\r\n\r\n".encode()


def large(size, seed=1):
    """Text of about `size` bytes, with lines of all lengths."""
    source = random.Random(seed)
    lines, total = [header(f"large {size}")], 0
    while total < size:
        line = bytes(source.choice(b"abcdefghijklmnopqrstuvwxyz .0123456789") for _ in range(64)) * source.randrange(0, 15)
        line = line[:source.randrange(0, 990)] + b"\r\n"
        lines.append(line)
        total += len(line)
    return b"".join(lines)


ODD = {
    "plain": header("plain") + b"hello\r\n",
    "eight_bit": header("eight bit") + "Grüße, 你好, ".encode() + bytes(range(128, 256)) + b"\r\n",
    "long_lines": header("long lines") + b"x" * 998 + b"\r\n" + b"y" * 997 + b"\r\n",
    "leading_dots": header("dots") + b"..\r\n.one\r\n..two\r\n...three\r\nno.dot\r\n. space\r\n",
    "lone_dots": header("lone dots") + b".\r\n.\r\n..\r\n.\r\n",
    "dot_first": b".starts with a dot: and is no field\r\n\r\nbody\r\n",
    "empty_body": header("empty body"),
    "no_body": b"Subject: header only\r\n",
    "empty": b"",
    "empty_lines": b"\r\n\r\n\r\n\r\n",
    "header_of_100_kib": b"X-Long: " + b"\r\n ".join([b"z" * 70] * 1400) + b"\r\n\r\nbody\r\n",
    "control_bytes": header("control") + bytes(b for b in range(1, 32) if b not in (10, 13)) + b"\x7f\r\n",
    "at_buffer_borders": header("borders") + b"".join(b"a" * n + b"\r\n." for n in range(0, 900, 7)) + b"\r\n",
}


def vectors():
    """{name: content} of the mime-* vectors, those that are text with whole lines: LF made CRLF, 1 MiB at most."""
    base = os.environ.get("POSTERN_TEST_DATA", "")
    found = {}
    if not base or not os.path.isdir(base):
        return found
    for folder in sorted(os.listdir(base)):
        if not folder.startswith("mime-"):
            continue
        for where, names, files in os.walk(os.path.join(base, folder)):
            names.sort()
            for file in sorted(files):
                if not file.endswith((".txt", ".eml", ".msg", ".mail")):
                    continue
                path = os.path.join(where, file)
                with open(path, "rb") as opened:
                    content = opened.read(1 << 20)
                content = content.replace(b"\r\n", b"\n").replace(b"\r", b"").replace(b"\0", b"").replace(b"\n", b"\r\n")
                if content and not content.endswith(b"\r\n"):
                    content += b"\r\n"
                if max((len(line) for line in content.split(b"\r\n")), default=0) <= 990:
                    found[os.path.relpath(path, base)] = content
    return found
