"""A download ends with the right file or with an error that says why, whatever the server does."""

import errno
import hashlib
import importlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nfbook.data import DataFile, DownloadError, files, obtain

module = importlib.import_module("nfbook.data.download")

CONTENT = bytes(range(256)) * 1024
SIZE = len(CONTENT)
OTHER = CONTENT[::-1]


class Handler(BaseHTTPRequestHandler):
    """Answers as the test's next step says, the last one again and again."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        server.seen.append((self.path, self.headers.get("Range"), self.headers.get("If-Range")))
        self.close_connection = True
        step = server.steps.pop(0) if len(server.steps) > 1 else server.steps[0]
        with suppress(OSError):  # the client may have gone
            step(self)

    def log_message(self, *arguments):
        pass

    def start(self, status=200, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    @property
    def first(self):
        """The first byte that is asked for."""
        return int(re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])


def good(content=CONTENT, tag=None, upto=None, ranges=True, block=None):
    """Send what is asked for, all of it or some bytes, with or without ranges."""

    def step(handler):
        tags = {"ETag": tag} if tag else {}
        first = handler.first if ranges else 0
        if handler.headers.get("If-Range") not in (None, tag):
            first = 0
        if first:
            span = f"bytes {first}-{len(content) - 1}/{len(content)}"
            handler.start(206, Content_Range=span, Content_Length=len(content) - first, **tags)
        else:
            handler.start(200, Content_Length=len(content), **tags)
        rest = content[first:][:upto]
        for at in range(0, len(rest), block or SIZE):
            handler.wfile.write(rest[at : at + (block or SIZE)])
            time.sleep(0.01 if block else 0)

    return step


def status(code):
    return lambda handler: handler.start(code, Content_Length=0)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A server on this machine, an empty folder for the data, and no pauses."""
    monkeypatch.setenv("NFBOOK_DATA", str(tmp_path / "mine"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(files, "PACKAGE", tmp_path / "package")
    monkeypatch.setattr(files, "_cache", lambda: tmp_path / "cache")
    monkeypatch.setattr(module, "PAUSE", 0.0)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.seen = []
        server.url = f"http://127.0.0.1:{server.server_port}"
        server.mine = tmp_path / "mine" / "toy"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def toy(home, *paths, content=CONTENT):
    homes = tuple(f"{home.url}/{path}" for path in paths or ("a",))
    return DataFile("toy/x.bin", hashlib.md5(content).hexdigest(), len(content), homes)


def fetch(home, *steps, paths=("a",)):
    """Download with these answers, and return the file's bytes."""
    home.steps = list(steps)
    path = obtain(toy(home, *paths), download=True)
    assert path == home.mine / "x.bin"
    assert sorted(p.name for p in path.parent.iterdir()) == [".lock", "x.bin"]
    return path.read_bytes()


def refusal(home, *steps, paths=("a",)):
    """Fail with these answers: no file has the name, and the message is returned."""
    home.steps = list(steps)
    with pytest.raises(DownloadError) as caught:
        obtain(toy(home, *paths), download=True)
    assert not (home.mine / "x.bin").exists()
    return str(caught.value)


def test_nothing_is_downloaded_that_was_not_asked_for(home):
    with pytest.raises(FileNotFoundError, match=r"toy/x\.bin is missing(.|\n)*download=True") as e:
        obtain(toy(home))
    assert f"(262,144 bytes) from {home.url}/a" in str(e.value)
    assert home.seen == []


def test_a_whole_file_is_downloaded_once(home):
    assert fetch(home, good()) == CONTENT
    assert obtain(toy(home), download=True) == obtain(toy(home))
    assert home.seen == [("/a", None, None)]


def test_without_a_readers_folder_it_goes_to_the_cache(home, monkeypatch, tmp_path):
    monkeypatch.delenv("NFBOOK_DATA")
    home.steps = [good()]
    path = obtain(toy(home), download=True)
    assert path == tmp_path / "cache" / "toy" / "x.bin"
    monkeypatch.setenv("NFBOOK_DATA", str(home.mine))
    assert obtain(toy(home)) == path


def test_the_cache_is_where_the_system_wants_it(monkeypatch, tmp_path):
    monkeypatch.delenv("NFBOOK_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert files.data_folder() == tmp_path / "nfbook"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.data_folder() == tmp_path / ".cache" / "nfbook"


# ---- what breaks off ----------------------------------------------------------------------------


def test_a_transfer_that_breaks_off_goes_on(home):
    assert fetch(home, good(upto=100_000), good(upto=7), good()) == CONTENT
    assert [seen[1] for seen in home.seen] == [None, "bytes=100000-", "bytes=100007-"]


def test_as_long_as_something_comes_it_is_asked_for_more(home):
    assert fetch(home, good(upto=30_000)) == CONTENT
    assert len(home.seen) == 9


def test_the_next_call_goes_on_where_the_last_one_gave_up(home):
    message = refusal(home, good(upto=100_000), good(upto=0))
    assert "it broke off after 100000 of 262144 bytes" in message
    assert fetch(home, good()) == CONTENT
    assert home.seen[-1][1] == "bytes=100000-"


def test_a_second_home_goes_on_where_the_first_one_broke_off(home):
    steps = [good(tag='"1"', upto=100_000)] + [status(503)] * 3 + [good(tag='"2"')]
    assert fetch(home, *steps, paths=("a", "b")) == CONTENT
    # The version of another home says nothing about this one's.
    assert home.seen[-1] == ("/b", "bytes=100000-", None)


def test_a_server_without_ranges_starts_again(home):
    assert fetch(home, good(upto=100_000), good(ranges=False)) == CONTENT
    message = "it broke off after 100000 of 262144 bytes"
    (home.mine / "x.bin").unlink()
    assert message in refusal(home, good(ranges=False, upto=100_000))


def test_pieces_of_two_versions_are_not_put_together(home):
    steps = good(OTHER, tag='"old"', upto=100_000), good(tag='"new"')
    assert fetch(home, *steps) == CONTENT
    assert home.seen == [("/a", None, None), ("/a", "bytes=100000-", '"old"')]


def test_pieces_that_do_not_fit_together_are_thrown_away(home):
    """A server that names no versions is found out by the checksum."""
    assert fetch(home, good(OTHER, upto=100_000), good()) == CONTENT
    assert [seen[1] for seen in home.seen] == [None, "bytes=100000-", None]


def test_a_weak_tag_is_no_version(home):
    fetch(home, good(tag='W/"1"', upto=100_000), good(tag='W/"1"'))
    assert home.seen[-1] == ("/a", "bytes=100000-", None)


def test_a_download_that_was_killed_before_its_last_step_needs_no_server(home):
    home.mine.mkdir(parents=True)
    (home.mine / "x.bin.part").write_bytes(CONTENT)
    assert fetch(home, status(500)) == CONTENT
    assert home.seen == []


@pytest.mark.parametrize("rest", [OTHER, CONTENT + b"more"], ids=["other", "long"])
def test_what_was_left_by_an_earlier_mishap_does_no_harm(home, rest):
    home.mine.mkdir(parents=True)
    (home.mine / "x.bin.part").write_bytes(rest)
    assert fetch(home, good()) == CONTENT
    assert home.seen == [("/a", None, None)]


def test_an_answer_with_other_bytes_than_those_asked_for_is_not_used(home):
    def elsewhere(handler):
        handler.start(206, Content_Range=f"bytes 5-{SIZE - 1}/{SIZE}", Content_Length=SIZE - 5)
        handler.wfile.write(CONTENT[5:])

    assert fetch(home, good(upto=100_000), elsewhere, good()) == CONTENT


def test_a_range_that_is_refused_starts_again(home):
    assert fetch(home, good(upto=100_000), status(416), good()) == CONTENT
    assert home.seen[-1][1] is None


def test_a_server_that_falls_silent_is_left(home, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.5)

    def silent(handler):
        handler.start(200, Content_Length=SIZE)
        handler.wfile.write(CONTENT[:1000])
        time.sleep(1.0)

    assert fetch(home, silent, good()) == CONTENT
    assert home.seen[-1][1] == "bytes=1000-"


# ---- what is not the file -----------------------------------------------------------------------


def test_a_wrong_file_is_named_and_never_used(home):
    message = refusal(home, good(OTHER))
    assert message.startswith("toy/x.bin could not be downloaded.")
    got, expected = (hashlib.md5(content).hexdigest() for content in (OTHER, CONTENT))
    assert f"/a: it sent another file: its md5 checksum is {got}, expected {expected}" in message
    assert f"Or put the file there yourself: {home.mine / 'x.bin'}" in message
    assert not (home.mine / "x.bin.part").exists()
    assert fetch(home, good(OTHER), good(), paths=("a", "b")) == CONTENT


def test_a_page_in_place_of_the_file_costs_nothing_that_has_arrived(home):
    refusal(home, good(upto=100_000), good(b"<html>Please log in</html>", ranges=False))
    assert (home.mine / "x.bin.part").read_bytes() == CONTENT[:100_000]
    message = refusal(home, good(b"<html>Please log in</html>", ranges=False))
    assert "it offers another file, of 26 bytes, expected 262144" in message


@pytest.mark.parametrize("stated", [SIZE - 1, SIZE + 1, 10**15])
def test_a_server_that_lies_about_the_length_is_found_out(home, stated):
    def lie(handler):
        handler.start(200, Content_Length=stated)
        handler.wfile.write(CONTENT)

    assert f"another file, of {stated} bytes, expected {SIZE}" in refusal(home, lie)
    assert fetch(home, lie, good(), paths=("a", "b")) == CONTENT


def test_a_length_that_promises_the_file_and_is_not_kept(home):
    assert "broke off after 262143 of 262144 bytes" in refusal(
        home, good(upto=SIZE - 1), good(upto=0)
    )


@pytest.mark.parametrize("length", [{}, {"Content_Length": "many"}], ids=["none", "no number"])
def test_an_answer_without_a_length_is_read_to_its_end(home, length):
    def unknown(handler):
        handler.start(200, **length)
        handler.wfile.write(CONTENT)

    assert fetch(home, unknown) == CONTENT


def test_an_endless_answer_does_not_fill_the_disk(home):
    sent = []

    def endless(handler):
        handler.start(200)
        while True:
            sent.append(handler.wfile.write(CONTENT))

    assert "of more than the expected 262144 bytes" in refusal(home, endless)
    assert not (home.mine / "x.bin.part").exists()


def test_a_missing_page_is_left_at_once(home):
    assert "/a: it answers 404 Not Found" in refusal(home, status(404))
    assert len(home.seen) == 1


def test_a_busy_server_is_asked_again(home):
    assert fetch(home, status(503), status(429), good()) == CONTENT
    home.seen.clear()
    (home.mine / "x.bin").unlink()
    assert "it answers 503 Service Unavailable" in refusal(home, status(503))
    assert len(home.seen) == 3


# ---- no line, no room ---------------------------------------------------------------------------


def test_off_line_the_message_says_so_and_where_to_put_the_file(home, monkeypatch):
    asked = []

    def unknown(*arguments, **options):
        asked.append(arguments)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    message = refusal(home, good(), paths=("a", "b"))
    for path in "ab":
        assert f"/{path}: there is no connection ([Errno -2] Name or service not known)" in message
    assert "Is this machine on line?" in message
    assert len(asked) == 2


def test_where_nobody_listens_the_message_says_so(home):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        home.url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert "there is no connection ([Errno" in refusal(home, good())


def test_a_server_that_closes_without_an_answer(home):
    assert "there is no answer" in refusal(home, lambda handler: None)


def test_a_folder_that_cannot_be_written_to_names_the_variable(home, tmp_path, monkeypatch):
    blocked = tmp_path / "a file"
    blocked.touch()
    monkeypatch.setenv("NFBOOK_DATA", str(blocked))
    with pytest.raises(DownloadError, match=r"cannot be written to .*NFBOOK_DATA name another"):
        obtain(toy(home), download=True)


def test_a_full_disk_is_no_matter_of_the_connection(home, monkeypatch):
    really_open = Path.open

    def write(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def opened(path, mode="r", **options):
        file = really_open(path, mode, **options)
        if path.suffix == ".part":
            file.write = write
        return file

    monkeypatch.setattr(Path, "open", opened)
    home.steps = [good()]
    why = rf"toy/x\.bin could not be downloaded: {home.mine} cannot be written to \(No space left"
    with pytest.raises(DownloadError, match=why):
        obtain(toy(home), download=True)
    assert len(home.seen) == 1


@pytest.mark.parametrize("content", [OTHER, CONTENT[:1000]], ids=["damaged", "short"])
def test_a_file_of_the_readers_that_is_not_right_is_named_and_stays(home, content):
    home.mine.mkdir(parents=True)
    path = home.mine / "x.bin"
    path.write_bytes(content)
    why = "its md5 checksum is" if len(content) == SIZE else "it has 1000 bytes, expected 262144"
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} is damaged .*: {why}"):
        obtain(toy(home), download=True)
    assert path.read_bytes() == content
    assert home.seen == []


def test_what_is_no_data_file_is_refused(home):
    with pytest.raises(TypeError, match="file must be a DataFile, got str"):
        obtain("toy/x.bin")
    with pytest.raises(TypeError, match="progress must be True or False, got int"):
        obtain(toy(home), progress=1)
    with pytest.raises(TypeError, match="homes must be a tuple of addresses, got str"):
        DataFile("toy/x.bin", "0" * 32, 8, "https://example.org/a.csv")
    with pytest.raises(TypeError, match="size must be an int, got str"):
        DataFile("toy/x.bin", "0" * 32, "8", ())


def test_download_is_true_or_false(home):
    with pytest.raises(TypeError, match="download must be True or False, got str"):
        obtain(toy(home), download="yes")


def test_the_bar_counts_bytes(home, monkeypatch):
    bars = []

    class Bar:
        n = 0

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def update(self, n):
            self.n += n

    def bar(total, what, **options):
        bars.append((Bar(), total, what, options))
        return bars[-1][0]

    monkeypatch.setattr(module, "progress_bar", bar)
    fetch(home, good(upto=100_000), good(ranges=False, upto=5), good())
    (made, total, what, options) = bars[0]
    assert (made.n, total, what) == (SIZE, SIZE, "toy/x.bin")
    assert options == {"show": True, "unit": "B"}


# ---- several processes --------------------------------------------------------------------------

PROCESS = """
import sys
from nfbook.data import DataFile, obtain
print("ready", flush=True)
sys.stdin.readline()
name, md5, size, url = sys.argv[1:]
print(obtain(DataFile(name, md5, int(size), (url,)), download=True))
"""


def processes(home, count):
    """Start processes that wait for a line, then download."""
    file = toy(home)
    arguments = [file.name, file.md5, str(file.size), *file.homes]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    return started


def go(process):
    process.stdin.write("\n")
    process.stdin.flush()


def test_processes_that_download_at_once_do_it_once(home):
    home.steps = [good(block=4096)]
    started = processes(home, 2)
    for process in started:
        go(process)
    for process in started:
        assert process.communicate(timeout=180)[0].strip() == str(home.mine / "x.bin")
        assert process.returncode == 0
    assert (home.mine / "x.bin").read_bytes() == CONTENT
    assert len(home.seen) == 1


def test_a_process_that_waits_goes_on_where_a_killed_one_ended(home):
    home.steps = [good(tag='"1"', block=2048), good(tag='"1"')]
    first, second = processes(home, 2)
    part = home.mine / "x.bin.part"
    go(first)
    while not (part.exists() and part.stat().st_size > 20_000):
        time.sleep(0.005)
    go(second)
    time.sleep(0.1)
    assert len(home.seen) == 1
    first.send_signal(signal.SIGKILL)
    assert second.communicate(timeout=180)[0].strip() == str(home.mine / "x.bin")
    first.communicate()
    assert (home.mine / "x.bin").read_bytes() == CONTENT
    assert int(home.seen[1][1][6:-1]) >= 20_000
    assert home.seen[1][2] == '"1"'
