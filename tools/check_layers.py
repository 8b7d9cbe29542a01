#!/usr/bin/env python3
"""Holds the source tree to the table of rooms in src/README.md: who may include whom, and what the pure part may not touch.

  tools/check_layers.py [ROOT]     prints FILE:LINE: what is wrong; exits 1 when there is anything
  tools/check_layers.py --self-test
"""
import os
import re
import sys
import tempfile

PURE = ("base", "mail", "sasl", "smtp", "dns", "spool", "queue", "route", "policy", "dsn")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
# Headers that reach the kernel, other threads, files or a clock. <mutex> is none: the DNS cache is shared.
IMPURE = re.compile(
    r"^(sys/(?!types\.h$)|net/|netinet/|linux/|asm/|unistd\.h|fcntl\.h|poll\.h|signal\.h|csignal|pthread\.h|netdb\.h|"
    r"thread$|condition_variable$|future$|semaphore$|fstream$|iostream$|filesystem$|dirent\.h|time\.h|ctime$|"
    r"liburing\.h)")
IMPURE_CALL = re.compile(r"\b((system|steady|high_resolution)_clock\s*::\s*now|random_device|getenv\s*\(|std::rand\b)")
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX)\b")
SOURCES = (".h", ".cc")


def read_table(path):
    """{room: set of rooms it may include}, in the table's order."""
    rooms = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            cells = [cell.strip() for cell in line.split("|")]
            if len(cells) < 5 or not re.fullmatch(r"`\w+`", cells[1]):
                continue
            room = cells[1].strip("`")
            if cells[2] == "all above":
                allowed = set(rooms)
            else:
                allowed = set(re.findall(r"`(\w+)`", cells[2]))
            unknown = allowed - set(rooms)
            if unknown:
                raise ValueError(f"{path}: {room} may include {', '.join(sorted(unknown))}, not above it in the table")
            rooms[room] = allowed
    if not rooms:
        raise ValueError(f"{path}: no table of rooms found")
    return rooms


def files_under(root, *folders):
    for folder in folders:
        for where, names, files in os.walk(os.path.join(root, folder)):
            names.sort()
            for name in sorted(files):
                if name.endswith(SOURCES):
                    yield os.path.join(where, name)


def room_of(relative):
    parts = relative.split(os.sep)
    if parts[0] == "src" and len(parts) > 2:
        return parts[1]
    if parts[:2] == ["include", "postern"] and len(parts) > 3:
        return parts[2]
    return None


def included_room(kind, header, rooms):
    """The room that an include names, or None for headers that are not ours."""
    parts = header.split("/")
    if kind == "<" and parts[0] == "postern" and len(parts) == 3:
        return parts[1]
    if kind == '"' and len(parts) >= 2 and parts[0] in rooms:
        return parts[0]
    return None


def check_file(path, relative, room, rooms, trouble):
    public = relative.startswith("include" + os.sep)
    pure = room in PURE
    with open(path, encoding="utf-8") as file:
        text = file.read()
    if path.endswith(".h"):
        if not text.startswith("//"):
            trouble(relative, 1, "a header opens with a comment that says what it is")
        if "#pragma once" not in text:
            trouble(relative, 1, "no #pragma once")
    for number, line in enumerate(text.splitlines(), 1):
        if UNFINISHED.search(line):
            trouble(relative, number, "unfinished work: finish it or leave it out")
        if pure and IMPURE_CALL.search(line):
            trouble(relative, number, f"{room} is pure: time and randomness are arguments")
        match = INCLUDE.match(line)
        if not match:
            continue
        kind, header = match.groups()
        if header == "liburing.h" and not relative.startswith(os.path.join("src", "io", "uring") + os.sep):
            trouble(relative, number, "<liburing.h> only in src/io/uring")
        if pure and IMPURE.match(header):
            trouble(relative, number, f"{room} is pure: <{header}> reaches the kernel, a thread, a file or a clock")
        if public and kind == '"':
            trouble(relative, number, f'include/postern includes nothing of src: "{header}"')
        if kind == '"' and "/" not in header and not pure:  # a pure room's private headers lie beside their users
            trouble(relative, number, f'name the room: "{room}/{header}"')
        other = included_room(kind, header, rooms)
        if other is None or other == room:
            continue
        if other not in rooms:
            trouble(relative, number, f"{header}: no room {other} in src/README.md")
        elif other not in rooms[room]:
            trouble(relative, number, f"{room} may not include {other} (src/README.md)")


def check(root):
    troubles = []

    def trouble(relative, number, what):
        troubles.append(f"{relative}:{number}: {what}")

    rooms = read_table(os.path.join(root, "src", "README.md"))
    for path in files_under(root, "src", "include"):
        relative = os.path.relpath(path, root)
        room = room_of(relative)
        if room is None or room not in rooms:
            trouble(relative, 1, "belongs to no room of src/README.md")
            continue
        check_file(path, relative, room, rooms, trouble)
    for path in files_under(root, "tests", "bench", "fuzz"):
        relative = os.path.relpath(path, root)
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if UNFINISHED.search(line):
                    trouble(relative, number, "unfinished work: finish it or leave it out")
    return troubles


TABLE = """| dir | may include | charter |
|---|---|---|
| `base` | | x |
| `mail` | `base` | x |
| `io` | `base` | x |
| `net` | `io` `base` | x |
| `daemon` | all above | x |
"""
HEAD = "// A file.\n#pragma once\n"
# name, file, text, what must be said (None: nothing)
CASES = [
    ("allowed", "src/net/a.cc", '#include <postern/base/x.h>\n#include "io/loop.h"\n#include "net/b.h"\n', None),
    ("all above", "src/daemon/a.cc", '#include <postern/mail/x.h>\n#include "net/b.h"\n', None),
    ("forbidden room", "src/net/a.cc", "#include <postern/mail/x.h>\n", "net may not include mail"),
    ("upwards", "src/io/a.cc", '#include "net/b.h"\n', "io may not include net"),
    ("src from include", "include/postern/mail/a.h", HEAD + '#include "io/loop.h"\n', "includes nothing of src"),
    ("liburing elsewhere", "src/io/a.cc", "#include <liburing.h>\n", "only in src/io/uring"),
    ("liburing at home", "src/io/uring/a.cc", "#include <liburing.h>\n", None),
    ("system call header", "src/mail/a.cc", "#include <sys/socket.h>\n", "mail is pure"),
    ("thread", "include/postern/mail/a.h", HEAD + "#include <thread>\n", "mail is pure"),
    ("clock", "src/mail/a.cc", "auto t = std::chrono::steady_clock::now();\n", "time and randomness are arguments"),
    ("clock outside", "src/io/a.cc", "auto t = std::chrono::steady_clock::now();\n", None),
    ("unfinished", "src/io/a.cc", "// TO" "DO later\n", "unfinished work"),
    ("unfinished test", "tests/io/a_test.cc", "// FIX" "ME\n", "unfinished work"),
    ("no pragma", "src/io/a.h", "// A file.\n", "no #pragma once"),
    ("no comment", "src/io/a.h", "#pragma once\n", "opens with a comment"),
    ("no room named", "src/io/a.cc", '#include "a.h"\n', "name the room"),
    ("unknown room", "src/cellar/a.cc", "int x;\n", "belongs to no room"),
    ("unknown include", "src/io/a.cc", "#include <postern/cellar/x.h>\n", "no room cellar"),
]


def self_test():
    failed = 0
    for name, file, text, wanted in CASES:
        with tempfile.TemporaryDirectory() as root:
            os.makedirs(os.path.join(root, "src"))
            with open(os.path.join(root, "src", "README.md"), "w", encoding="utf-8") as table:
                table.write(TABLE)
            path = os.path.join(root, file)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as source:
                source.write(text)
            found = check(root)
        good = (not found) if wanted is None else any(wanted in line for line in found)
        if not good:
            failed += 1
            print(f"self-test {name}: wanted {wanted!r}, found {found}", file=sys.stderr)
    print(f"{len(CASES) - failed} passed, {failed} failed")
    return 1 if failed else 0


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
    troubles = check(os.path.abspath(root))
    for line in troubles:
        print(line)
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
