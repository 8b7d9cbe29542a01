"""The relays that are compared, and a root for each: this machine's files with a layer on top that holds its packages.

A folder beside this file with a relay.ini is a relay: title, packages (of Debian) and npm (packages of npm) to install,
the command that tells its version, the folder of its spool, and what it does for durability and why. Its file `start`
runs inside the root, where that folder is /relay, and becomes the MTA. "limit" is none, but what all are measured against. This module installs and starts; it measures nothing.
"""
import configparser
import hashlib
import os
import re
import shlex
import shutil
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
ENTER = os.path.join(HERE, "enter")
INSTALL_SECONDS = 900  # for the packages of one relay
ORDER = ("postern", "postfix", "postfix-tuned", "exim", "opensmtpd", "haraka", "limit")

INSTALL = r"""
set -e
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
export DEBIAN_FRONTEND=noninteractive
apt() { apt-get -q -y -o DPkg::Lock::Timeout=60 -o APT::Sandbox::User=root "$@"; }
echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections
if [ -n "$PACKAGES" ]; then
  apt-cache show $PACKAGES >/dev/null 2>&1 || apt update
  apt install --no-install-recommends $PACKAGES || { apt update; apt install --no-install-recommends $PACKAGES; }
fi
if [ -n "$NPM" ]; then
  command -v npm >/dev/null || apt install --no-install-recommends npm
  npm install --global --prefix /usr/local --no-audit --no-fund --omit=dev $NPM
fi
apt clean
rm -rf /root/.npm
"""


class InstallError(Exception):
    """A root could not be made; the text says why."""


class Relay:
    def __init__(self, name, folder):
        ini = configparser.ConfigParser(interpolation=None)
        with open(os.path.join(folder, "relay.ini"), encoding="utf-8") as file:
            ini.read_file(file)
        given = ini["relay"]
        self.name, self.folder = name, folder
        self.title = given.get("title", name)
        self.packages = given.get("packages", "")
        self.npm = given.get("npm", "")
        self.version_command = given.get("version", "true")
        self.spool = given.get("spool", "")
        self.durability = given.get("durability", "unknown")
        self.why = given.get("why", "")
        self.hops = given.get("hops", "").split()  # the next hops it can relay to; all when none is named
        self.version = ""

    def can_do(self, job):
        return not self.hops or job.hop in self.hops

    def description(self):
        return {"name": self.name, "title": self.title, "version": self.version, "durability": self.durability, "why": self.why}


def available():
    """Names of all relays, in the order of the report."""
    found = [name for name in os.listdir(HERE) if os.path.exists(os.path.join(HERE, name, "start"))]
    return sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def named(name):
    return Relay(name, os.path.join(HERE, name))


class Roots:
    """Layers under `cache`, one for each set of packages."""

    def __init__(self, cache, program_folder):
        self.cache, self.program_folder = cache, program_folder

    def layer(self, relay):
        wanted = f"{relay.packages}-{relay.npm}".strip("-").lower()
        return os.path.join(self.cache, re.sub(r"[^a-z0-9]+", "-", wanted) or "empty")

    def enter(self, relay, command, binds=()):
        """The command line that runs `command` (words) in the relay's root."""
        words = [ENTER, self.layer(relay), "--bind", relay.folder, "/relay", "--bind", self.program_folder, "/program"]
        for source, target in binds:
            words += ["--bind", source, target]
        return words + ["--", *command]

    def prepare(self, relay, progress):
        """Installs what the root lacks, and asks for the version. A layer lies on this machine's packages: when those
        change, it is made anew."""
        layer = self.layer(relay)
        stamp = os.path.join(layer, "installed")
        wanted = hashlib.sha256(INSTALL.encode() + relay.packages.encode() + relay.npm.encode() + machine_packages()).hexdigest()
        if not os.path.exists(stamp) or read(stamp) != wanted:
            shutil.rmtree(layer, ignore_errors=True)
            os.makedirs(layer)
            if relay.packages or relay.npm:
                progress(f"installing {relay.packages} {relay.npm}".rstrip())
                self.install(relay, os.path.join(layer, "install.log"))
            with open(stamp, "w", encoding="ascii") as file:
                file.write(wanted)
        done = subprocess.run(self.enter(relay, ["sh", "-c", relay.version_command]), stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False, text=True)
        lines = done.stdout.strip().splitlines()
        if done.returncode != 0:
            raise InstallError(f"{relay.name}: {relay.version_command} failed: {done.stdout.strip()[-500:]}")
        relay.version = " ".join(lines[0].split()[:8]) if lines else ""

    def install(self, relay, log):
        # With processes of its own namespace, so that no daemon that a package starts after all outlives this.
        command = ["unshare", "--pid", "--fork", "--kill-child", *self.enter(relay, ["sh", "-c", INSTALL])]
        environment = dict(os.environ, PACKAGES=relay.packages, NPM=relay.npm)
        with open(log, "wb") as output:
            try:
                status = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment,
                                        timeout=INSTALL_SECONDS, check=False).returncode
            except subprocess.TimeoutExpired:
                status = 124
        if status != 0:
            raise InstallError(f"{relay.name}: its packages could not be installed; the end of {log}:\n" +
                               "\n".join(read(log).splitlines()[-15:]))


def machine_packages():
    """What dpkg says is installed here, as bytes that change when it does."""
    done = subprocess.run(["dpkg-query", "-W"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, check=False)
    return done.stdout


def read(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def shell(words):
    return " ".join(shlex.quote(word) for word in words)
