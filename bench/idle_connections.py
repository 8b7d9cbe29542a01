#!/usr/bin/env python3
"""Question: what does an idle SMTP connection cost posternd in memory of its own (kernel sockets not counted)?

  bench/idle_connections.py POSTERND [CONNECTIONS]

Starts posternd, opens the connections (default 8,000), says EHLO on each, and prints how much anonymous memory it
took per connection; then checks that a fresh client is served at once.
"""
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time


def anonymous_kib(pid):
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss_Anon"))


def main():
    binary = os.path.abspath(sys.argv[1])
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 8000
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as folder:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        config = os.path.join(folder, "postern.toml")
        with open(config, "w", encoding="ascii") as file:
            file.write(f'hostname = "relay.example.test"\ndata_dir = "{folder}/data"\nshards = 1\n'
                       f'[[listener]]\naddress = "127.0.0.1:{port}"\n[limits]\nconnections_per_peer = {count + 10}\nstress_at = 0\n'
                       '[spool]\nmin_free = "64MiB"\n')
        with open(os.path.join(folder, "log"), "w+", encoding="utf-8") as log:
            daemon = subprocess.Popen([binary, "--config", config], stderr=log)
            try:
                deadline = time.monotonic() + 20
                while "is ready" not in open(log.name, encoding="utf-8").read():
                    if time.monotonic() > deadline:
                        sys.exit(open(log.name, encoding="utf-8").read())
                    time.sleep(0.05)
                before = anonymous_kib(daemon.pid)
                clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
                for client in clients:
                    client.recv(512)
                    client.sendall(b"EHLO idle.example\r\n")
                for client in clients:
                    client.recv(512)
                after = anonymous_kib(daemon.pid)
                began = time.monotonic()
                with socket.create_connection(("127.0.0.1", port)) as fresh:
                    fresh.recv(512)
                greeting_ms = (time.monotonic() - began) * 1000
                print(f"{count} idle connections: {(after - before) / count:.2f} KiB each; "
                      f"a fresh client has its greeting after {greeting_ms:.1f} ms; kernel {os.uname().release}")
                for client in clients:
                    client.close()
            finally:
                daemon.terminate()
                daemon.wait()


if __name__ == "__main__":
    main()
