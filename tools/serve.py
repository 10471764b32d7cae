"""Serve the built book to browsers on this machine.

python tools/serve.py [8000]
"""

from __future__ import annotations

import gzip
import sys
from contextlib import suppress
from functools import cache, partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

TEXT = {".html", ".css", ".js", ".mjs", ".json", ".svg", ".txt", ".ipynb"}

HTML = Path(__file__).resolve().parent.parent / "_build" / "html"


@cache
def compressed(path: Path, changed: int) -> bytes:
    """Return a file's content, compressed once as long as it does not change."""
    return gzip.compress(path.read_bytes(), compresslevel=6)


class Handler(SimpleHTTPRequestHandler):
    """Compresses text, as a publishing server does, and reports errors only."""

    # Some systems' registries call these plain text, and then a browser refuses the module.
    extensions_map = {  # noqa: RUF012
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
    }

    def send_head(self) -> BytesIO | BinaryIO | None:
        """Send the headers and return the content."""
        path = Path(self.translate_path(self.path))
        accepted = self.headers.get("Accept-Encoding", "")
        if path.suffix not in TEXT or "gzip" not in accepted or not path.is_file():
            return super().send_head()
        changed = self.date_time_string(int(path.stat().st_mtime))
        if self.headers.get("If-Modified-Since") == changed:
            self.send_response(HTTPStatus.NOT_MODIFIED)
            self.end_headers()
            return None
        content = compressed(path, path.stat().st_mtime_ns)
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Last-Modified", changed)
        self.end_headers()
        return BytesIO(content)

    def copyfile(self, source: Any, outputfile: Any) -> None:
        """Send the content, unless the browser has gone on to another page."""
        with suppress(BrokenPipeError, ConnectionResetError):
            super().copyfile(source, outputfile)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing about a request that was answered."""


def main(arguments: list[str]) -> int:
    """Serve until Ctrl-C."""
    given = arguments[0] if arguments else "8000"
    if not given.isdecimal() or int(given) > 65535:
        print(f"PORT must be a number up to 65535, got {given!r}", file=sys.stderr)
        return 2
    try:
        handler = partial(Handler, directory=str(HTML))
        server = ThreadingHTTPServer(("127.0.0.1", int(given)), handler)
    except OSError as error:
        print(f"Port {given} cannot be used ({error.strerror}).", file=sys.stderr)
        print("Name another one:  make PORT=8001 serve", file=sys.stderr)
        return 1
    with server:
        address = f"http://localhost:{server.server_port}/"
        print(f"Read the book at  {address}  (Ctrl-C ends)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
