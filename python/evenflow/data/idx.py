"""IDX, the format of MNIST: a magic number, big-endian sizes, then the values; plain or gzip."""

from __future__ import annotations

import gzip
import math
import os
import zlib

import numpy as np

from evenflow.arrays import file_name
from evenflow.data.dataset import Dataset
from evenflow.errors import IoError

DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
CHUNK = 1 << 20


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """The array in an IDX file, in native byte order. IoError for a foreign, truncated or overlong file."""
    path = file_name("data", path)
    try:
        with (gzip.open(path, "rb") if path.lower().endswith(".gz") else open(path, "rb")) as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in DTYPES or not 1 <= head[3] <= 8:
                raise IoError(f"[data] {path}: expected the magic number of an IDX file, "
                              f"00 00 <type> <dimensions>, got {head.hex(' ') or 'an empty file'}")
            dtype, sizes = np.dtype(DTYPES[head[2]]), file.read(4 * head[3])
            if len(sizes) < 4 * head[3]:
                raise IoError(f"[data] {path}: expected {head[3]} sizes, got a truncated header")
            shape = tuple(int(n) for n in np.frombuffer(sizes, ">u4"))
            wanted = math.prod(shape) * dtype.itemsize
            # Piece by piece, since the size in the header may be far larger than the file.
            data = bytearray()
            while len(data) <= wanted and (piece := file.read(min(CHUNK, wanted + 1 - len(data)))):
                data += piece
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, IoError):
            raise
        raise IoError(f"[data] {path}: expected a readable IDX file, got: {error}") from error
    if len(data) != wanted:
        got = f"only {len(data)}" if len(data) < wanted else "more"
        raise IoError(f"[data] {path}: expected {wanted} bytes of data for shape {shape}, got {got}")
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def read_idx_folder(path: str | os.PathLike[str]) -> Dataset:
    """A folder with MNIST's file names: {train,t10k}-{images-idx3,labels-idx1}-ubyte, plain or .gz."""
    path = file_name("data", path)

    def part(name: str) -> np.ndarray | None:
        for file in (os.path.join(path, name + ending) for ending in ("", ".gz")):
            if os.path.exists(file):
                return read_idx(file)
        return None

    train = part("train-images-idx3-ubyte")
    if train is None:
        raise IoError(f"[data] {path}: expected train-images-idx3-ubyte or train-images-idx3-ubyte.gz, "
                      "got neither")
    return Dataset.from_array(path, train, part("t10k-images-idx3-ubyte"), part("train-labels-idx1-ubyte"),
                              part("t10k-labels-idx1-ubyte"))
