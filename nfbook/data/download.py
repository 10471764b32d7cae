"""Getting a data file from its public home, whatever happens on the way.

The bytes go to a file beside the right one, with ``.part`` behind its name. If the transfer
breaks off, or the process is killed, the next one goes on from there. Only a file with the right
length and checksum ever gets the right name.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from nfbook._checks import check_type
from nfbook.data.files import VARIABLE, DataFile, check_content, data_folder, find_file
from nfbook.progress import progress_bar

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

if TYPE_CHECKING:
    from tqdm import tqdm

__all__ = ["DownloadError", "obtain"]

CHUNK = 1 << 16  # bytes
TIMEOUT = 30.0  # seconds without a byte
TRIES = 3  # in a row that bring nothing new
PAUSE = 0.5  # seconds before the second try


class DownloadError(OSError):
    """A file could not be downloaded; the message says from where, and why not."""


class _BrokenOffError(Exception):
    """The transfer ended early: it is worth another try."""


class _WrongHomeError(Exception):
    """This address does not have the file."""


def obtain(file: DataFile, *, download: bool = False, progress: bool = True) -> Path:
    """Return the path of a data file, which is downloaded if it is missing and that is asked for.

    A download goes to the folder that ``NFBOOK_DATA`` names, else to one in the user's cache. Where
    an earlier one broke off, it goes on. Of several processes that download the same data set at
    once, one does and the others wait for it.

    Arguments:
        file: The file.
        download: Whether a missing file may be downloaded.
        progress: Whether a download of more than two seconds shows how far it is.

    Raises:
        DownloadError: No home of the file delivered it, or the folder cannot be written to, as
            where the disk is full. What has arrived is kept for the next call.
        FileNotFoundError: It is missing, and ``download`` is False.
        TypeError: ``file`` is not a `DataFile`, or ``download`` or ``progress`` not True or False.
        ValueError: There is a file of that name with another content. It stays as it is.

    Example:
        >>> file = DataFile("toy/a.csv", "0" * 32, 8, ("https://example.org/a.csv",))
        >>> obtain(file)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        FileNotFoundError: toy/a.csv is missing. It was looked for in:
        ...
        Call again with download=True to get it (8 bytes) from https://example.org/a.csv
    """
    check_type("file", file, DataFile, "a DataFile")
    check_type("download", download, bool, "True or False")
    check_type("progress", progress, bool, "True or False")
    how = f"Call again with download=True to get it ({file.size:,} bytes) from " + " or ".join(
        file.homes
    )
    try:
        return find_file(file.name, file.md5, how, size=file.size)
    except FileNotFoundError:
        if not download:
            raise
    return _get(file, progress)


def _get(file: DataFile, progress: bool) -> Path:
    path = data_folder() / file.name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (path.parent / ".lock").open("ab") as lock, _alone(lock):
            if not path.exists():  # which another process may have changed meanwhile
                _from_any_home(file, path, progress)
    except DownloadError:
        raise
    except OSError as error:  # those of the connection are among the ones above
        raise DownloadError(
            f"{file.name} could not be downloaded: {path.parent} cannot be written to "
            f"({error.strerror}); make room, or let the environment variable {VARIABLE} name "
            "another folder of yours"
        ) from error
    check_content(path, file.md5, file.size)
    return path


@contextmanager
def _alone(lock: IO[bytes]) -> Iterator[None]:
    """Wait until no other process is in here. The system lets go of what a killed process held."""
    if sys.platform == "win32":
        while True:
            try:
                msvcrt.locking(lock.fileno(), msvcrt.LK_LOCK, 1)
                break
            except OSError as error:
                if error.errno != errno.EDEADLK:  # it has waited for ten seconds
                    raise
        try:
            yield
        finally:
            msvcrt.locking(lock.fileno(), msvcrt.LK_UNLCK, 1)
    else:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            # Some network file systems have no locks. Two downloads at once may then fail each
            # other, but what they leave is checked.
            if error.errno not in {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}:
                raise
        yield  # to close the file is to let go


def _from_any_home(file: DataFile, path: Path, progress: bool) -> None:
    part = _Part(path)
    problems = []
    with progress_bar(file.size, file.name, show=progress, unit="B") as bar:
        for url in file.homes:
            try:
                _from_home(url, file, part, bar)
            except _WrongHomeError as problem:
                problems.append(f"  {url}: {problem}")
            else:
                part.rename(path)
                return
    raise DownloadError(
        "\n".join(
            [
                f"{file.name} could not be downloaded.",
                *problems,
                "Is this machine on line? If so, call again later: what has arrived is kept. "
                f"Or put the file there yourself: {path}",
            ]
        )
    )


def _from_home(url: str, file: DataFile, part: _Part, bar: tqdm[None]) -> None:
    """Receive the file, going on where it broke off, until it is whole and right."""
    for last in (False, True):
        _complete(url, file, part, bar)
        try:
            check_content(part.path, file.md5, file.size)
        except ValueError as error:
            pieced = part.pieced
            part.remove()
            # Pieces that do not fit together say nothing about the file that is there now.
            if last or not pieced:
                why = str(error).partition(": ")[2].partition(";")[0]
                raise _WrongHomeError(f"it sent another file: {why}") from error
        else:
            return


def _complete(url: str, file: DataFile, part: _Part, bar: tqdm[None]) -> None:
    most, idle = part.size, 0
    while part.size != file.size:
        try:
            _receive(url, file, part, bar)
        except _BrokenOffError as problem:
            idle = 0 if part.size > most else idle + 1
            most = max(most, part.size)
            if idle == TRIES:
                raise _WrongHomeError(str(problem)) from problem
            time.sleep(PAUSE * 2 ** max(idle - 1, 0))


def _receive(url: str, file: DataFile, part: _Part, bar: tqdm[None]) -> None:
    """Ask once for what is missing, and add what comes to the part."""
    have = part.size
    if have > file.size:
        part.remove()
        have = 0
    with _answer(url, part) as answer:
        if answer.status == 206:
            first, total = _content_range(answer)
            if first != have:
                part.remove()
                raise _BrokenOffError(f"asked for bytes from {have} on, it sends some from {first}")
            part.pieced = True
        else:
            total = _whole_number(answer.headers.get("Content-Length"))
        if total not in (None, file.size):
            raise _WrongHomeError(f"it offers another file, of {total} bytes, expected {file.size}")
        if answer.status != 206:
            part.begin(url, answer)
        bar.update(part.size - bar.n)
        with part.path.open("ab") as out:
            while chunk := _read(answer):
                out.write(chunk)
                bar.update(len(chunk))
                if out.tell() > file.size:
                    break
    if part.size > file.size:
        part.remove()
        raise _WrongHomeError(f"it sends another file, of more than the expected {file.size} bytes")
    if part.size < file.size:
        raise _BrokenOffError(f"it broke off after {part.size} of {file.size} bytes")


def _answer(url: str, part: _Part) -> HTTPResponse:
    have = part.size
    headers = {"User-Agent": "nfbook", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        # The rest if the file is still the same, else all of it.
        if version := part.version(url):
            headers["If-Range"] = version
    try:
        answer: HTTPResponse = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        problem = f"it answers {error.code} {error.reason}"
        if error.code == 416:  # there is nothing behind what we have
            part.remove()
        if error.code in {408, 416, 429} or error.code >= 500:
            raise _BrokenOffError(problem) from error
        raise _WrongHomeError(problem) from error
    except URLError as error:
        problem = f"there is no connection ({error.reason})"
        if isinstance(error.reason, socket.gaierror):
            raise _WrongHomeError(problem) from error
        raise _BrokenOffError(problem) from error
    except (OSError, HTTPException) as error:
        raise _BrokenOffError(f"there is no answer ({_name(error)})") from error
    return answer


def _read(answer: HTTPResponse) -> bytes:
    # Apart from the writing, whose errors, such as a full disk, are no matter of the connection.
    try:
        return answer.read1(CHUNK)
    except (OSError, HTTPException) as error:
        raise _BrokenOffError(f"it broke off ({_name(error)})") from error


def _name(error: Exception) -> str:
    return str(error) or type(error).__name__


def _content_range(answer: HTTPResponse) -> tuple[int | None, int | None]:
    """Return the first byte's number, and how many the file has, as far as the server says."""
    stated = re.match(r"bytes (\d+)-\d+/(\d+)?", answer.headers.get("Content-Range", ""))
    return (_whole_number(stated[1]), _whole_number(stated[2])) if stated else (None, None)


def _whole_number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"\d+", text, re.ASCII) else None


class _Part:
    """What has arrived of a file, and which version of it, from where."""

    def __init__(self, whole: Path) -> None:
        self.path = whole.with_name(f"{whole.name}.part")
        self.pieced = self.size > 0  # whether it came in several answers
        self._origin = whole.with_name(f"{whole.name}.part.from")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def begin(self, url: str, answer: HTTPResponse) -> None:
        """Start anew, with the version that the server names."""
        self.path.write_bytes(b"")
        self.pieced = False
        tag = answer.headers.get("ETag") or ""
        # A weak tag stands for versions that need not be the same byte for byte.
        version = answer.headers.get("Last-Modified", "") if tag[:2] in {"", "W/"} else tag
        self._origin.write_text(f"{url}\n{version}", encoding="utf-8")

    def version(self, url: str) -> str:
        """Return the version, if it is one of this address's."""
        origin = self._origin.read_text(encoding="utf-8") if self._origin.exists() else ""
        home, _, version = origin.partition("\n")
        return version if home == url else ""

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self._origin.unlink(missing_ok=True)

    def rename(self, whole: Path) -> None:
        """Give it its name, once it is on the disk, in one step."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        self.path.replace(whole)
        self._origin.unlink(missing_ok=True)
