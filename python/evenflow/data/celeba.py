"""CelebA (Liu, Luo, Wang, Tang 2015): faces with 40 attributes."""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from evenflow.data.dataset import Dataset
from evenflow.data.folder import Box, Pictures, middle, resident
from evenflow.errors import ConfigError, IoError
from evenflow.rows import pick

ATTRIBUTES, PARTITION, IMAGES = "list_attr_celeba.txt", "list_eval_partition.txt", "img_align_celeba"
SIZE = 64
ALIGNED, FACE = (178, 218), (15, 40, 163, 188)


def read_celeba(path: str | os.PathLike[str], size: int = SIZE) -> Dataset:
    """A folder with list_attr_celeba.txt and the pictures it lists, there or in img_align_celeba.

    The attributes are `Dataset.attributes`, with a column each in train_attributes and test_attributes. With
    list_eval_partition.txt its part 2 is the test part, and parts 0 and 1 are training data. Of the aligned
    pictures of 178 x 218 rows 40 ... 187 and columns 15 ... 162 are taken, as Real NVP does, else the largest
    square in the middle; they are resized to size x size (bilinear). IoError names file and line.
    """
    path = os.fspath(path)
    if size < 1:
        raise ConfigError(f"[data] expected size >= 1, got {size}")
    attributes, names, values = _attributes(os.path.join(path, ATTRIBUTES))
    folder = os.path.join(path, IMAGES)
    folder = folder if os.path.isdir(folder) else path
    files = [os.path.join(folder, name) for name in names]
    images = Pictures(files, size, _face, "BILINEAR")
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
    rows = [line.split() for line in lines[2:]]
    if len(rows) != int(lines[0]):
        raise IoError(f"[data] {path}: expected {int(lines[0])} pictures as in line 1, got {len(rows)}")
    for number, row in enumerate(rows, 3):
        if len(row) != 1 + len(attributes) or not set(row[1:]) <= {"1", "-1"} or not _plain(row[0]):
            raise IoError(f"[data] {path}: expected a file and {len(attributes)} times 1 or -1 in line "
                          f"{number}, got {' '.join(row)[:80]!r}")
    values = np.array([[cell == "1" for cell in row[1:]] for row in rows], np.uint8)
    return attributes, [row[0] for row in rows], values


def _partition(path: str, names: list[str]) -> np.ndarray:
    """(N,) bool: whether a picture is in the test part."""
    part = {}
    for number, line in enumerate(_lines(path), 1):
        cells = line.split()
        if len(cells) != 2 or cells[1] not in ("0", "1", "2"):
            raise IoError(f"[data] {path}: expected a file and 0, 1 or 2 in line {number}, got {line[:80]!r}")
        part[cells[0]] = cells[1] == "2"
    missing = [name for name in names if name not in part]
    if missing:
        raise IoError(f"[data] {path}: expected a line for {missing[0]}, got none")
    return np.array([part[name] for name in names])


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise IoError(f"[data] {path}: expected a readable text file, got: {error}") from error


def _plain(name: str) -> bool:
    """Whether a name stays inside the folder."""
    return os.path.basename(name) == name and name not in (".", "..")
