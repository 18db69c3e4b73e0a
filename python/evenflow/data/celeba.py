"""CelebA (Liu, Luo, Wang, Tang 2015): faces with 40 attributes."""

from __future__ import annotations

import dataclasses
import functools
import os

import numpy as np

from evenflow import arrays
from evenflow.data.dataset import Dataset
from evenflow.data.folder import Box, Pictures, middle, resident
from evenflow.errors import IoError
from evenflow.rows import pick

ATTRIBUTES, PARTITION, IMAGES = "list_attr_celeba.txt", "list_eval_partition.txt", "img_align_celeba"
SIZE = 64
ALIGNED, FACE = (178, 218), (15, 40, 163, 188)


def read_celeba(path: str | os.PathLike[str], size: int = SIZE, crop: int | None = None) -> Dataset:
    """A folder with list_attr_celeba.txt and the pictures it lists, there or in img_align_celeba.

    The attributes are `Dataset.attributes`, with a column each in train_attributes and test_attributes. With
    list_eval_partition.txt its part 2 is the test part, and parts 0 and 1 are training data. Of the aligned
    pictures of 178 x 218 rows 40 ... 187 and columns 15 ... 162 are taken, as Real NVP does, else the largest
    square in the middle; crop: side of the square in the middle to take instead. They are resized to
    size x size as Real NVP's code has it, bilinear without smoothing, but rounded to whole levels. IoError
    names file and line; MissingExtra without Pillow.
    """
    path, size = arrays.file_name("data", path), arrays.whole("data", "size", size, low=1)
    crop = None if crop is None else arrays.whole("data", "crop", crop, low=1)
    attributes, names, values = _attributes(os.path.join(path, ATTRIBUTES))
    folder = os.path.join(path, IMAGES)
    folder = folder if os.path.isdir(folder) else path
    files = [os.path.join(folder, name) for name in names]
    box = _face if crop is None else functools.partial(middle, side=crop)
    images = Pictures(files, size, box, smooth=False)
    split = os.path.join(path, PARTITION)
    held_out = _partition(split, names) if os.path.exists(split) else np.zeros(len(names), bool)
    train, test = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    if not len(train):
        raise IoError(f"[data] {split}: expected training pictures, got none")
    pixels = resident(images)
    data = Dataset(pick(pixels, train), kind="image", train_attributes=values[train], attributes=attributes)
    if not len(test):
        return data
    return dataclasses.replace(data, test=pick(pixels, test), test_attributes=values[test])


def _face(width: int, height: int) -> Box:
    return FACE if (width, height) == ALIGNED else middle(width, height, min(width, height))


def _attributes(path: str) -> tuple[list[str], list[str], np.ndarray]:
    """(names of attributes, names of files, (N, A) uint8): a count, a line of names, then file and +-1s."""
    lines = _lines(path)
    if len(lines) < 3 or not lines[0].strip().isdecimal():
        raise IoError(f"[data] {path}: expected a count, a line of names and a line for each picture, "
                      f"got {len(lines)} lines")
    attributes = lines[1].split()
    if not attributes or len(set(attributes)) != len(attributes):
        raise IoError(f"[data] {path}: expected different names of attributes in line 2, "
                      f"got {lines[1][:80]!r}")
    if len(lines) - 2 != int(lines[0]):
        raise IoError(f"[data] {path}: expected {int(lines[0])} pictures as in line 1, got {len(lines) - 2}")
    names: dict[str, int] = {}
    values = np.empty((len(lines) - 2, len(attributes)), np.uint8)
    for i, line in enumerate(lines[2:]):
        name, *cells = line.split() or [""]
        if len(cells) != len(attributes) or not set(cells) <= {"1", "-1"} or not _plain(name):
            raise IoError(f"[data] {path}: expected a file and {len(attributes)} times 1 or -1 in line "
                          f"{i + 3}, got {' '.join(line.split())[:80]!r}")
        if names.setdefault(name, i) != i:
            raise IoError(f"[data] {path}: expected one line for {name}, "
                          f"got lines {names[name] + 3} and {i + 3}")
        values[i] = [cell == "1" for cell in cells]
    return attributes, list(names), values


def _partition(path: str, names: list[str]) -> np.ndarray:
    """(N,) bool: whether a picture is in the test part."""
    part = {}
    for number, line in enumerate(_lines(path), 1):
        cells = line.split()
        if len(cells) != 2 or cells[1] not in ("0", "1", "2") or cells[0] in part:
            raise IoError(f"[data] {path}: expected another file and 0, 1 or 2 in line {number}, "
                          f"got {line[:80]!r}")
        part[cells[0]] = cells[1] == "2"
    missing = [name for name in names if name not in part]
    if missing:
        raise IoError(f"[data] {path}: expected a line for {missing[0]}, got none")
    return np.array([part[name] for name in names])


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise IoError(f"[data] {path}: expected a readable text file, got: {error}") from error


def _plain(name: str) -> bool:
    """Whether a name stays inside the folder."""
    return os.path.basename(name) == name and name not in ("", ".", "..")
