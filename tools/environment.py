"""Make the environment in ``.venv``, or bring it up to date; do nothing when it is.

    python3 tools/environment.py [--chosen]

Any Python may start this file, so its syntax is old: a Python that is too old gets a message
instead of a traceback. ``--chosen`` says that this interpreter was asked for by name, so that an
environment of another Python version is made anew.
"""

from __future__ import print_function

import hashlib
import os
import re
import subprocess
import sys

OLDEST = (3, 11)
INPUTS = ("constraints.txt", "pyproject.toml")
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
STAMP = os.path.join(VENV, "nfbook-ready")
LOG = os.path.join(VENV, "install.log")

TOO_OLD = """
nfbook needs Python {oldest} or newer, and {python} is Python {version}.
Name a newer one, for example:  make PYTHON=python3.13 {goal}
"""

NO_VENV = """
{python} could not make a virtual environment in {venv}.
On Debian and Ubuntu its module venv is a package of its own:  apt install python3-venv
"""

NO_NETWORK = """
The packages could not be fetched: the package index did not answer.
The first run needs the network; later runs, and reading the book, do not. Check that
  - this machine is on line, and a proxy, if there is one, is set (HTTPS_PROXY);
  - pip's own settings are right:  {python} -m pip config list
Then give the same command again: what was fetched already is kept.
"""

PIP_FAILED = """
pip failed; the whole of what it said is in {log}.
Give the same command again, or start afresh:  rm -rf .venv
"""

DISK_FULL = """
The disk is full: the environment needs about 2 GB in {venv}.
"""

# What pip prints when it reaches no index. "No matching distribution" alone would also mean a
# wrong pin, so it is not in this list.
NETWORK = re.compile(
    "NewConnectionError|Failed to establish a new connection|Temporary failure in name resolution"
    "|Name or service not known|nodename nor servname|Network is unreachable|Connection refused"
    "|ConnectTimeoutError|ReadTimeoutError|Read timed out|ProxyError|connection broken"
    "|Cannot connect to proxy|getaddrinfo failed"
)

# A package that pip has come to: from the index, already here, or from a file.
PACKAGE = re.compile(
    r"(?P<verb>Collecting|Requirement already satisfied:) (?P<name>[\w.-]+)"
    r"|Processing (?:.*/)?(?P<wheel>\w+)-.*\.whl"
)


def main(arguments):
    """Return the exit status of making the environment."""
    version = "{}.{}".format(*sys.version_info[:2])
    present = read_stamp()
    same_python = "--chosen" not in arguments or present[1:2] == [version]
    if present[2:] == [fingerprint()] and present[:1] == [ROOT] and same_python:
        return 0
    if sys.version_info[:2] < OLDEST:
        text = TOO_OLD.format(
            oldest="{}.{}".format(*OLDEST),
            python=sys.executable or "this interpreter",
            version="{}.{}.{}".format(*sys.version_info[:3]),
            goal=os.environ.get("NFBOOK_GOAL") or "book",
        )
        return fail(text)
    return make(version, anew=present[:2] != [ROOT, version])


def read_stamp():
    """Return what the last installation left: folder, Python version, fingerprint."""
    try:
        with open(STAMP) as file:
            return file.read().splitlines()
    except (IOError, OSError):
        return []


def write_stamp(version, state):
    """Leave in ``.venv`` for which folder and Python it was made, and from which inputs."""
    with open(STAMP, "w") as file:
        file.write("\n".join([ROOT, version, state]) + "\n")


def fingerprint():
    """Return a hash of the files that say what is installed."""
    digest = hashlib.sha256()
    for name in INPUTS:
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def make(version, anew):
    """Create ``.venv`` if need be, install what is pinned, and leave the stamp."""
    python = os.path.join(VENV, "bin", "python")
    if anew or not os.path.exists(python):
        say("Making the environment in .venv with Python {}".format(version))
        if subprocess.call([sys.executable, "-m", "venv", "--clear", VENV]) != 0:
            return fail(NO_VENV.format(python=sys.executable, venv=VENV))
    else:
        say("Bringing the environment in .venv up to date")
    # Should pip break off, the next run goes on in this folder.
    write_stamp(version, "unfinished")
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    pip += ["--retries", "2", "--constraint", "constraints.txt"]
    with open(LOG, "w") as log:
        # The build backend is pinned too, so it comes first and the build takes it from here.
        for wanted in (["setuptools"], ["--no-build-isolation", "--editable", ".[test,lint]"]):
            lines = run(pip + wanted, log)
            if lines is not None:
                return explain(lines, python)
    write_stamp(version, fingerprint())
    say("The environment is ready")
    return 0


def run(command, log):
    """Run pip and show its progress; return None, or all it said if it failed."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )
    lines, found = [], set()
    for line in process.stdout:
        log.write(line)
        lines.append(line)
        match = PACKAGE.match(line)
        name = match and (match.group("name") or match.group("wheel")).replace("_", "-").lower()
        if name and name not in found:
            found.add(name)
            if match.group("verb") != "Requirement already satisfied:":
                say("  package {}: {}".format(len(found), name), passing=True)
        elif line.lstrip().startswith("Downloading") and "MB" in line:
            say("  " + line.strip(), passing=True)
        elif line.startswith("Installing collected packages"):
            say("  unpacking {} of them".format(line.count(",") + 1))
    return lines if process.wait() != 0 else None


def explain(lines, python):
    """Say in words why pip failed."""
    said = "".join(lines)
    if "No space left on device" in said:
        return fail(DISK_FULL.format(venv=VENV))
    if NETWORK.search(said):
        return fail(NO_NETWORK.format(python=python))
    print("\n" + "".join(lines[-12:]), file=sys.stderr)
    return fail(PIP_FAILED.format(log=LOG))


def say(text, passing=False):
    """Print one line; on a terminal a passing one is overwritten by the next."""
    if sys.stdout.isatty():
        print("\r\033[K" + text[:78], end="" if passing else "\n")
    else:
        print(text)
    sys.stdout.flush()


def fail(text):
    """Print a message on stderr and return the exit status of a failure."""
    sys.stdout.flush()
    print(text, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
