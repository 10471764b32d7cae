"""Make the environment in ``.venv``, or bring it up to date; do nothing when it is.

    python3 tools/environment.py [--chosen] [book]

``book`` asks for what the static book needs, which leaves out PyTorch; without it all is installed
that the package, the notebooks and the tests need. An environment that holds all serves the book
too. ``--chosen`` says that this interpreter was asked for by name, so that an environment of
another Python version is made anew.

Any Python may start this file, so its syntax is old: a Python that is too old gets a message
instead of a traceback.
"""

from __future__ import print_function

import hashlib
import os
import subprocess
import sys

OLDEST = (3, 11)
INPUTS = ("constraints.txt", "pyproject.toml")
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
STAMP = os.path.join(VENV, "nfbook-ready")
LOG = os.path.join(VENV, "install.log")

# What can be asked for: the later level holds all of the earlier one.
LEVELS = ("book", "all")
SIZES = {"book": "0.25 GB", "all": "2 GB"}

# PyTorch's own index of builds for the CPU: on Linux PyPI's build brings several GB of CUDA.
CPU_BUILDS = "https://download.pytorch.org/whl/cpu"
PATIENCE = 3  # seconds

TOO_OLD = """
nfbook needs Python {oldest} or newer, and {python} is Python {version}.
Name a newer one, for example:  make PYTHON=python3.13 {goal}
"""

NO_VENV = """
{python} could not make a virtual environment in {venv}.
On Debian and Ubuntu its module venv is a package of its own:  apt install python3-venv
"""

PIP_FAILED = """
pip failed. Its last lines stand above, and all that it said in {log}.
  - If it could not connect, or found no version at all: the first run needs the network; later
    runs, and reading the book, do not. Check that this machine is on line, that a proxy, if there
    is one, is set (HTTPS_PROXY), and that pip's settings are right:
    {python} -m pip config list
  - If the disk is full: the environment needs about {size} in {venv}.
Then give the same command again, which goes on from here. To start afresh:  rm -rf .venv
"""


def main(arguments):
    """Return the exit status of making the environment."""
    version = "{}.{}".format(*sys.version_info[:2])
    level = "book" if "book" in arguments else "all"
    present = read_stamp()
    same_python = "--chosen" not in arguments or present[1:2] == [version]
    if serves(present, level) and same_python:
        return 0
    if sys.version_info[:2] < OLDEST:
        text = TOO_OLD.format(
            oldest="{}.{}".format(*OLDEST),
            python=sys.executable or "this interpreter",
            version="{}.{}.{}".format(*sys.version_info[:3]),
            goal=os.environ.get("NFBOOK_GOAL") or "book",
        )
        return fail(text)
    return make(version, level, anew=present[:2] != [ROOT, version])


def read_stamp():
    """Return what the last installation left: folder, Python version, level, fingerprint."""
    try:
        with open(STAMP) as file:
            return file.read().splitlines()
    except (IOError, OSError):
        return []


def serves(present, level):
    """Say whether an environment with this stamp holds what a level needs, in today's versions."""
    if len(present) != 4 or present[2] not in LEVELS[LEVELS.index(level) :]:
        return False
    return present[0] == ROOT and present[3] == fingerprint()


def write_stamp(version, level, state):
    """Leave in ``.venv`` for which folder and Python it was made, what it holds, and of what."""
    with open(STAMP, "w") as file:
        file.write("\n".join([ROOT, version, level, state]) + "\n")


def fingerprint():
    """Return a hash of the files that say what is installed."""
    digest = hashlib.sha256()
    for name in INPUTS:
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def make(version, level, anew):
    """Create ``.venv`` if need be, install what is pinned, and leave the stamp."""
    python = os.path.join(VENV, "bin", "python")
    if anew or not os.path.exists(python):
        say("Making the environment in .venv with Python {}".format(version))
        if subprocess.call([sys.executable, "-m", "venv", "--clear", VENV]) != 0:
            return fail(NO_VENV.format(python=sys.executable, venv=VENV))
    else:
        say("Bringing the environment in .venv up to date")
    # Should pip break off, the next run goes on in this folder.
    write_stamp(version, level, "unfinished")
    install = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    install += ["--retries", "2", "--constraint", "constraints.txt"]
    with open(LOG, "w") as log:
        for wanted in stages(level):
            lines = run(install + wanted, log)
            if lines is not None:
                print("\n" + "".join(lines[-12:]), file=sys.stderr)
                return fail(PIP_FAILED.format(log=LOG, python=python, venv=VENV, size=SIZES[level]))
    write_stamp(version, level, fingerprint())
    say("The environment is ready")
    return 0


def stages(level):
    """Return the arguments of each call of pip, in order."""
    # The pip that comes with an older Python takes three times as long to choose the packages.
    if level == "book":
        # Python compiles what the build loads; the rest need not lie there twice.
        requirements = ["--no-compile"]
        requirements += book_requirements()
        return [["--no-compile", "pip"], requirements]
    # The build backend is pinned too, so it comes first and the build takes it from here.
    package = ["--no-build-isolation", "--editable", ".[test,lint]"]
    return [["pip", "setuptools"], cpu_builds() + package]


def book_requirements():
    """Return the packages that build the static book, for which nfbook need not be installed."""
    import tomllib  # absent from the Pythons that get a message instead

    with open(os.path.join(ROOT, "pyproject.toml"), "rb") as file:
        return tomllib.load(file)["project"]["optional-dependencies"]["book"]


def cpu_builds():
    """Return pip's option that adds the index of CPU builds, where that is the one to take."""
    if not sys.platform.startswith("linux") or has_gpu() or "PIP_EXTRA_INDEX_URL" in os.environ:
        return []
    return ["--extra-index-url", CPU_BUILDS] if answers(CPU_BUILDS + "/torch/") else []


def has_gpu():
    """Say whether there is an NVIDIA GPU, by what its driver brings."""
    import shutil

    return bool(shutil.which("nvidia-smi")) or os.path.exists("/proc/driver/nvidia")


def answers(address):
    """Say whether a page can be read within a few seconds."""
    import threading
    from urllib.request import urlopen

    done = []

    def ask():
        try:
            done.append(urlopen(address, timeout=PATIENCE).read(1))
        except (IOError, OSError, ValueError):
            return

    # A thread, since the look-up of a name has no time limit of its own.
    thread = threading.Thread(target=ask)
    thread.daemon = True
    thread.start()
    thread.join(PATIENCE)
    return bool(done)


def run(command, log):
    """Run pip and show on a terminal what it says; return None, or all it said if it failed."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )
    lines = []
    for line in process.stdout:
        log.write(line)
        lines.append(line)
        if sys.stdout.isatty():
            say("  " + line.strip(), passing=True)
    return lines if process.wait() != 0 else None


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
