"""numpy's own files. Object arrays are refused: reading them would run code from the file."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenflow._border.batch import Batch
from evenflow._border.checks import file_name
from evenflow._border.rows import is_large
from evenflow.data.dataset import Dataset, checked, checked_context, entries, reading
from evenflow.errors import IoError

GIVEN = ("labels", "context", "weight")


def planes(x: np.ndarray) -> np.ndarray:
    """Images (N, S, S, 3) from rows of 3 S S values, one plane a colour, as in CIFAR and ImageNet-32."""
    side = math.isqrt(x.shape[1] // 3)
    return np.ascontiguousarray(x.reshape(-1, 3, side, side).transpose(0, 2, 3, 1))


def read_npy(path: str | os.PathLike[str]) -> Dataset:
    """One array without a test part. A large one stays in its file."""
    path = file_name("data", path)
    return checked(path, _array(path))


def _array(path: str) -> np.ndarray:
    with reading(path, ".npy file"), open(path, "rb") as file:
        if is_large(os.path.getsize(path)):
            return np.lib.format.open_memmap(path, mode="r")
        return np.asarray(np.lib.format.read_array(file))  # a copy of what is mapped would take its memory twice


def read_npz(path: str | os.PathLike[str]) -> Dataset:
    """Arrays by the names that `evenflow.data.load` lists."""
    path = file_name("data", path)
    with reading(path, ".npz file"), np.load(path, allow_pickle=False) as file:
        return _named(path, file.files, file.__getitem__)


def read_npy_folder(path: str) -> Dataset:
    """A folder of .npy files with the names of arrays in a .npz file, as unzipping one makes it. Large arrays stay in
    their files.
    """
    with reading(path, "folder of .npy files"):
        files = {entry.name[:-4]: entry.path for entry in entries(path) if entry.name.lower().endswith(".npy")}
        return _named(path, files, lambda name: _array(files[name]))


def _named(path: str, names: Collection[str], read: Callable[[str], np.ndarray]) -> Dataset:
    """Reads the arrays that a data set has; others may be Python objects.

    An array `data` (N, 3 S S) holds images in planes, with labels counted from 1, as in the files of down-sampled
    ImageNet (Chrabaszcz, Loshchilov, Hutter 2017).
    """
    def first(*wanted: str) -> np.ndarray | None:
        return next((read(name) for name in wanted if name in names), None)

    name = next((name for name in ("train", "x", "data") if name in names), None)
    if name is None:
        raise IoError(f"[data] {path}: there is no array train, x or data; the file holds "
                      f"{', '.join(names) or 'nothing'}")
    train = read(name)
    given = {f"train_{what}": first(f"train_{what}", what) for what in GIVEN}
    given |= {f"test_{what}": first(f"test_{what}") for what in GIVEN}
    if name == "data" and train.ndim == 2:
        train = planes(train)
        if (labels := given["train_labels"]) is not None:
            given["train_labels"] = labels.astype(np.int64) - 1
    return checked(path, train, first("test"), **given)


def read_npz_context(path: str | os.PathLike[str]) -> NDArray[np.float64] | None:
    """Numbers (M, C) of a .npz file's array test_context, context or train_context, the first that it has, or None.

    No other arrays are needed. IoError.
    """
    path = file_name("data", path)
    with reading(path, ".npz file"), np.load(path, allow_pickle=False) as file:
        for name in ("test_context", "context", "train_context"):
            if name in file:
                numbers = np.atleast_1d(file[name])
                return checked_context(path, numbers, len(numbers))
    return None


def read_npz_folder(path: str) -> Dataset:
    """All .npz files of a folder as one data set, in the order of their numbers.

    Files whose names begin with val or test are the test part. Each is as in `read_npz`, without a test part.
    """
    names = sorted((entry.name for entry in entries(path) if entry.name.lower().endswith(".npz")),
                   key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)])
    parts: dict[str, list[Batch]] = {"train": [], "test": []}
    kinds = {}
    for name in names:
        file = os.path.join(path, name)
        whole = read_npz(file)
        if whole.test is not None:
            raise IoError(f"[data] {file}: this file has a test part; in a folder, files whose names begin with val "
                          "or test are the test part")
        part = whole.part("train")
        kinds[file] = {what: None if x is None else x.shape[1:] for what, x in vars(part).items()}
        first = next(iter(kinds))
        if kinds[file] != kinds[first]:
            raise IoError(f"[data] {file}: expected the arrays of {first}, of shapes {kinds[first]}, got {kinds[file]}")
        parts["test" if name.startswith(("val", "test")) else "train"].append(part)
    if not parts["train"]:
        raise IoError(f"[data] {path}: there is no .npz file of training data, only {', '.join(names)}")
    fields: dict[str, Any] = {}
    for which, files in parts.items():
        for end, what in (("", "x"), *((f"_{name}", name.rstrip("s")) for name in GIVEN)):
            arrays = [x for x in (getattr(part, what) for part in files) if x is not None]
            fields[which + end] = np.concatenate(arrays) if arrays else None
    return checked(path, **fields)
