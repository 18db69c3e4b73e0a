"""Files written block by block, that appear complete or not at all."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from evenflow._border.arrays import as_array
from evenflow._border.batch import Batch
from evenflow._border.checks import file_name
from evenflow.errors import ConfigError, Error, IoError, ShapeError, wrong

ARRAY_VALUES = 1 << 20
"""Values in a block of an array."""
Write = Callable[[np.ndarray], Any]
"""Takes the next rows."""


def blocks(where: str, rows: Any) -> Iterator[Batch]:
    """Consecutive rows in pieces, of an array, or of batches as `evenflow.runs.stream.read_rows` gives them. TypeError
    for anything else.
    """
    if hasattr(rows, "__dlpack__") or hasattr(rows, "__array__"):
        x = as_array(where, rows)
        if x.ndim == 0:
            raise wrong(ShapeError, where, "rows", "expected rows, got a single number")
        rows = [Batch(x)]
    if not isinstance(rows, Iterable) or isinstance(rows, (str, bytes)):
        raise wrong(TypeError, where, "rows", f"expected an array or batches of rows, got {type(rows).__name__}")
    for batch in rows:
        if not isinstance(batch, Batch):
            raise wrong(TypeError, where, "rows", "expected batches of rows, as evenflow.runs.stream.read_rows gives "
                                                  f"them, got {type(batch).__name__}")
        step = max(1, ARRAY_VALUES // max(1, math.prod(np.shape(batch.x)[1:])))
        for start in range(0, len(batch), step):
            yield batch[start:start + step]


def lock(folder: str) -> int:
    """A descriptor that locks the folder until it is closed or the process ends. BlockingIOError if another has it."""
    if sys.platform == "win32":
        import msvcrt
        # Windows locks no folder, but a file in it, which it removes with the last descriptor.
        descriptor = os.open(os.path.join(folder, ".lock"), os.O_RDWR | os.O_CREAT | os.O_TEMPORARY)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            os.close(descriptor)
            raise BlockingIOError(*error.args) from error
        return descriptor
    import fcntl
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        pass  # a file system without locks
    return descriptor


@contextlib.contextmanager
def writing(where: str, path: str) -> Iterator[None]:
    """An OSError of the block is an IoError that names the path."""
    try:
        yield
    except OSError as error:
        if isinstance(error, Error):
            raise
        raise IoError(f"[{where}] expected to write {path}, got: {error}") from error


@contextlib.contextmanager
def replacing(where: str, path: str | os.PathLike[str]) -> Iterator[str]:
    """A temporary name beside `path`, of a file that is made at once and renamed to `path` if the block ends well.

    A place that can't be written is so found out before the work. IoError; an old file at `path` is then left as it
    was.
    """
    path = file_name(where, path)
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".evenflow-{os.getpid()}-{name}")
    if not name or os.path.isdir(path):
        raise IoError(f"[{where}] expected the name of a file to write, got a folder: {path}")
    try:
        with writing(where, path):
            open(temporary, "wb").close()
            yield temporary
            os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        if isinstance(error, IoError) and temporary in str(error):
            raise IoError(str(error).replace(temporary, path)) from error
        raise


@contextlib.contextmanager
def write_rows(where: str, path: str | os.PathLike[str], names: Sequence[str] | None = None) -> Iterator[Write]:
    """Takes the rows of an array of unknown length: .npy (any shape), or .csv (rows of numbers, `names` as header).

    IoError; ConfigError for another ending; ShapeError for a table of images.
    """
    path = file_name(where, path)
    ending = os.path.splitext(path)[1].lower()
    if ending not in (".npy", ".csv"):
        raise ConfigError(f"[{where}] expected a name ending in .npy or .csv, got {path}")
    with replacing(where, path) as temporary, open(temporary, "wb") as file:
        if ending == ".csv":
            line = io.StringIO()
            csv.writer(line, lineterminator="\n").writerows([names] if names else [])
            file.write(line.getvalue().encode())
            yield lambda block: file.write(_lines(where, block))
            return
        count, kind = 0, (np.dtype(float), ())

        def write(block: np.ndarray) -> None:
            nonlocal count, kind
            if count == 0:
                kind = block.dtype, block.shape[1:]
                _write_header(file, 0, *kind)
            count += len(block)
            file.write(np.ascontiguousarray(block).data)

        yield write
        file.seek(0)
        _write_header(file, count, *kind)


def _write_header(file: Any, count: int, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """A .npy file's; numpy leaves room for the first size to grow, so a later one fits in its place."""
    np.lib.format.write_array_header_1_0(file, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False,
                                                "shape": (count, *shape)})


def _lines(where: str, block: np.ndarray) -> bytes:
    if block.ndim > 2:
        raise ShapeError(f"[{where}] expected rows of numbers for a .csv file, got {block.shape[1:]}; use .npy")
    cells = block.reshape(len(block), -1).astype("U32").tolist()  # the shortest text that gives the same number back
    return "".join(",".join(row) + "\n" for row in cells).encode()


def check_any(where: str, n: int) -> None:
    """ShapeError for no rows at all; said before a file is complete, it leaves none behind."""
    if n == 0:
        raise ShapeError(f"[{where}] expected at least one row, got none")
