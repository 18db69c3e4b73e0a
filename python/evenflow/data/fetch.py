"""Download of one file by HTTP: resumed, checked, complete or not there."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from evenflow.errors import IoError

CHUNK = 1 << 16
TIMEOUT = 30.0
"""Seconds without a byte until a connection is given up."""
ATTEMPTS = 3
"""Connections in a row that bring nothing until the next address is tried."""


def fetch(urls: list[str], target: str, md5: str) -> None:
    """Writes one file, from the first address that has it. IoError says what happened at each.

    A part of it from an earlier try, target.part, is continued. A second process waits for the first.
    """
    with _alone_in(os.path.dirname(target)):
        if not os.path.exists(target):
            _fetch(urls, target, md5)


@contextlib.contextmanager
def _alone_in(folder: str) -> Iterator[None]:
    """Two that append to one part would spoil it. Where a folder can't be locked, the checksum tells."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _fetch(urls: list[str], target: str, md5: str) -> None:
    part, problems = target + ".part", []
    if os.path.exists(part):
        urls = [urls[0], *urls]  # once more from the start, if it turns out to be part of something else
    for url in urls:
        try:
            _receive(url, part)
            got = _md5(part)
            if got == md5:
                os.replace(part, target)
                return
            os.remove(part)
            problems.append(f"{url}: MD5 {got} instead of {md5}")
        except (OSError, ValueError, http.client.HTTPException) as error:
            problems.append(f"{url}: {getattr(error, 'reason', None) or error or type(error).__name__}")
    raise IoError(f"[download] expected {os.path.basename(target)} for {os.path.dirname(target)}, "
                  f"got {'; '.join(problems)} (a file of this name put there by hand is used)")


def _receive(url: str, part: str) -> None:
    """Appends to `part` until it is complete; goes on after breaks for as long as bytes come."""
    failures = 0
    while True:
        before = _size(part)
        try:
            if _receive_once(url, part, before):
                return
            error: Exception = ConnectionError("the connection was closed early")
        except urllib.error.HTTPError as answer:
            answer.close()
            if answer.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not before:
                raise
            # The part is as long as the file, or longer: the checksum tells a whole one from a foreign one.
            return
        except (OSError, http.client.HTTPException) as problem:
            if isinstance(problem, FileNotFoundError | PermissionError | IsADirectoryError):
                raise
            error = problem
        failures = 0 if _size(part) > before else failures + 1
        if failures == ATTEMPTS:
            raise error


def _receive_once(url: str, part: str, start: int) -> bool:
    """One connection; whether all bytes came that it promised."""
    headers = {"User-Agent": "evenflow", **({"Range": f"bytes={start}-"} if start else {})}
    if not url.startswith(("http://", "https://")):
        raise ValueError("not an address that begins with http:// or https://")
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
        goes_on = start > 0 and answer.status == http.client.PARTIAL_CONTENT and _begins_at(answer, start)
        wanted = answer.headers.get("Content-Length")
        received = 0
        with open(part, "ab" if goes_on else "wb") as file:
            while piece := answer.read(CHUNK):
                file.write(piece)
                received += len(piece)
            file.flush()
            os.fsync(file.fileno())
    return wanted is None or received == int(wanted)


def _begins_at(answer: Any, start: int) -> bool:
    return str(answer.headers.get("Content-Range", "")).startswith(f"bytes {start}-")


def _size(path: str) -> int:
    return os.path.getsize(path) if os.path.exists(path) else 0


def _md5(path: str) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
