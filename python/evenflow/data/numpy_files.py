"""numpy's own files. Object arrays are refused: reading them would run code from the file."""

from __future__ import annotations

import os
import zipfile
import zlib

import numpy as np

from evenflow.data.dataset import Dataset
from evenflow.errors import IoError

BROKEN = (OSError, ValueError, EOFError, KeyError, MemoryError, NotImplementedError, zipfile.BadZipFile,
          zlib.error)


def read_npy(path: str | os.PathLike[str]) -> Dataset:
    """One array without test part: uint8 images (N, H, W[, C]) or a float table (N, D). IoError."""
    try:
        x = np.load(path, allow_pickle=False)
    except BROKEN as error:
        raise IoError(f"[data] {path}: expected a .npy file without objects, got: {error}") from error
    if not isinstance(x, np.ndarray):
        raise IoError(f"[data] {path}: expected one array, got an archive")
    return Dataset.from_array(path, x)


def read_npz(path: str | os.PathLike[str]) -> Dataset:
    """Arrays train (and test), or x; labels in train_labels and test_labels, or labels. IoError."""
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("a single array")
        with file:
            arrays = {name: file[name] for name in file.files}
    except BROKEN as error:
        raise IoError(f"[data] {path}: expected a .npz file without objects, got: {error}") from error
    name = next((n for n in ("train", "x") if n in arrays), None)
    if name is None:
        raise IoError(f"[data] {path}: expected an array train or x, got {', '.join(arrays) or 'none'}")
    train_labels = arrays.get("train_labels", arrays.get("labels"))
    return Dataset.from_array(path, arrays[name], arrays.get("test"), train_labels, arrays.get("test_labels"))
