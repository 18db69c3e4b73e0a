"""Dataset: arrays of one kind, ready for a model."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evenflow.arrays import number, whole
from evenflow.errors import ConfigError, IoError, NumericError, ShapeError
from evenflow.rows import Bordered, Order, Rows, bordered, group_of, pick, shuffled
from evenflow.weights import first_bad


class Floats(Rows):
    """Whole numbers as float64."""

    def __init__(self, base: Rows):
        self.base, self.shape, self.dtype, self.group = base, base.shape, np.dtype(np.float64), group_of(base)

    def _read(self, index: slice | np.ndarray) -> np.ndarray:
        return self.base[index].astype(np.float64)


@dataclass(frozen=True, repr=False)
class Dataset:
    """Training and test data, images (N, H, W, C) uint8 or tables (N, D) float.

    Data that are too large for memory are `Rows`: they have a shape and a dtype, and x[a:b] or x[indices]
    reads these samples as an array. Everything in evenflow that takes data takes them.
    """

    train: np.ndarray | Rows
    test: np.ndarray | Rows | None = None
    kind: str = "table"
    """"image" | "table"."""
    train_labels: np.ndarray | None = None
    """(N,) int32, numbers of classes."""
    test_labels: np.ndarray | None = None
    columns: list[str] = field(default_factory=list)
    """Names of a table's columns, where the file has them."""
    classes: list[str] = field(default_factory=list)
    """Names of the classes, by number."""
    train_attributes: np.ndarray | None = None
    """(N, A) uint8, 1 where a sample has an attribute."""
    test_attributes: np.ndarray | None = None
    attributes: list[str] = field(default_factory=list)
    """Names of the attributes, by column."""
    train_context: np.ndarray | None = None
    """(N, C) float64, numbers that the density of a table's rows is given."""
    test_context: np.ndarray | None = None
    context: list[str] = field(default_factory=list)
    """Names of the context's columns, where the file has them."""
    train_weight: np.ndarray | None = None
    """(N,) float64, finite and >= 0, what samples count for; None: all alike."""
    test_weight: np.ndarray | None = None

    def __repr__(self) -> str:
        """Shapes and types: Dataset(image, train (1500, 8, 8, 1) uint8, ..., 10 classes)."""
        shown = [self.kind]
        for name in ("train", "test", "train_labels", "test_labels", "train_attributes", "test_attributes",
                     "train_context", "test_context", "train_weight", "test_weight"):
            x = getattr(self, name)
            if x is not None:
                shown.append(f"{name} {tuple(x.shape)} {x.dtype}")
        shown += [f"{len(getattr(self, name))} {name}" for name in ("columns", "classes", "attributes")
                  if getattr(self, name)]
        return f"Dataset({', '.join(shown)})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return self.train.shape[1:]

    def split(self, fraction: float, seed: int = 0) -> Dataset:
        """This data set with a random `fraction` of the training data taken out as test data."""
        seed = whole("split", "seed", seed, low=0)
        count = round(number("split", "fraction", fraction, 0.0, 1.0) * len(self.train))
        if not 0 < count < len(self.train):
            raise ConfigError("[split] expected a fraction that leaves samples on both sides, "
                              f"got {fraction:g}: {count} of {len(self.train)}")
        test, train = _two_parts(self.train, count, seed)

        def both(y: np.ndarray | None) -> tuple[np.ndarray | None, np.ndarray | None]:
            return (None, None) if y is None else (y[train[:]], y[test[:]])

        labels, context, attributes, weight = map(both, (self.train_labels, self.train_context,
                                                         self.train_attributes, self.train_weight))
        return dataclasses.replace(self, train=pick(self.train, train), test=pick(self.train, test),
                                   train_labels=labels[0], test_labels=labels[1],
                                   train_context=context[0], test_context=context[1],
                                   train_attributes=attributes[0], test_attributes=attributes[1],
                                   train_weight=weight[0], test_weight=weight[1])

    def without_test(self) -> Dataset:
        """This data set with its training data alone."""
        return dataclasses.replace(self, test=None, test_labels=None, test_context=None, test_attributes=None,
                                   test_weight=None)

    def padded(self, size: int) -> Dataset:
        """Images in the middle of a black square of size x size, as Glow's authors have MNIST; they also copy its
        channel to three, over which bits_per_dim is a mean.

        ConfigError for a table, ShapeError for images that are larger.
        """
        size = whole("data", "pad", size, low=1)
        if self.kind != "image":
            raise ConfigError(f"[data] expected pad={size} with images only, got a table")
        if max(self.shape[:2]) > size:
            raise ShapeError(f"[data] expected images of at most {size} x {size} for pad={size}, "
                             f"got {self.shape[0]} x {self.shape[1]}")

        def part(x: np.ndarray | Rows | None) -> Any:
            if x is None or x.shape[1:3] == (size, size):
                return x
            return Bordered(x, size) if isinstance(x, Rows) else bordered(x, size)

        return dataclasses.replace(self, train=part(self.train), test=part(self.test))

    @staticmethod
    def from_array(path: str | os.PathLike[str], train: np.ndarray | Rows,
                   test: np.ndarray | Rows | None = None, train_labels: np.ndarray | None = None,
                   test_labels: np.ndarray | None = None, train_context: np.ndarray | None = None,
                   test_context: np.ndarray | None = None, train_weight: np.ndarray | None = None,
                   test_weight: np.ndarray | None = None) -> Dataset:
        """Decides the kind, checks that the parts agree. IoError names the file.

        Whole numbers (N, D) other than uint8 become a table of float64.
        NumericError for a number of a table in memory that is not finite, by its row in the file.
        """
        train, kind = _kind(path, train)
        if test is not None:
            test, test_kind = _kind(path, test)
            if test_kind != kind or test.shape[1:] != train.shape[1:]:
                raise IoError(f"[data] {path}: expected test data like the training data {train.shape}, "
                              f"got {test.shape}")
        train_labels = _labels(path, train_labels, train)
        test_labels = _labels(path, test_labels, test)
        count = 1 + int(max([y.max() for y in (train_labels, test_labels) if y is not None], default=-1))
        train_context = checked_context(path, train_context, train)
        test_context = checked_context(path, test_context, test)
        if test is not None and width(train_context) != width(test_context):
            raise IoError(f"[data] {path}: expected as many numbers of context for the test data as for the training "
                          f"data, got {width(test_context)} and {width(train_context)}")
        if test is not None and (train_weight is None) != (test_weight is None):
            raise IoError(f"[data] {path}: expected weights of both parts or of none, got those of one")
        return Dataset(train, test, kind, train_labels, test_labels, classes=[str(i) for i in range(count)],
                       train_context=train_context, test_context=test_context,
                       train_weight=_weight(path, train_weight, train), test_weight=_weight(path, test_weight, test))


def entries(path: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    """What is in a folder, sorted by name. IoError."""
    try:
        with os.scandir(path) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise IoError(f"[data] {os.fspath(path)}: expected a readable folder, got: {error}") from error


def _two_parts(x: np.ndarray | Rows, count: int, seed: int) -> tuple[np.ndarray | Order, np.ndarray | Order]:
    """The numbers of `count` rows, and of the others; sorted where they are kept."""
    order = shuffled(x, seed)
    if isinstance(order, Order):
        return order.part(0, count), order.part(count, len(x))
    return np.sort(order[:count]), np.sort(order[count:])


def _kind(path: Any, x: Any) -> tuple[Any, str]:
    if x.dtype == np.uint8 and x.ndim in (3, 4):
        x, kind = (x.reshape(*x.shape, 1) if x.ndim == 3 else x), "image"
    elif x.dtype.kind == "f" and x.ndim == 2:
        kind = "table"
    elif x.dtype.kind in "iu" and x.dtype != np.uint8 and x.ndim == 2:
        x, kind = (Floats(x) if isinstance(x, Rows) else x.astype(np.float64)), "table"
    else:
        hint = ("; floats in 0 ... 2^bits, as of evenflow sample, become levels by evenflow.to_uint8(x, bits)"
                if x.dtype.kind == "f" and x.ndim in (3, 4) else "")
        raise IoError(f"[data] {path}: expected uint8 images (N, H, W[, C]) or a table (N, D) of floats or of whole "
                      f"numbers other than uint8, got {x.dtype} {x.shape}{hint}")
    if 0 in x.shape:
        raise IoError(f"[data] {path}: expected at least one sample, got {x.shape}")
    if kind == "table" and isinstance(x, np.ndarray):
        for row, column in np.argwhere(~np.isfinite(x))[:1]:
            raise NumericError(f"[data] {path}: expected finite values, got {x[row, column]} in row {row}, "
                               f"column {column}")
    return x, kind


def _labels(path: Any, y: Any, x: Any) -> np.ndarray | None:
    if y is None or x is None:
        return None
    y = np.asarray(y)
    if y.dtype.kind not in "iu" or y.shape != (len(x),):
        raise IoError(f"[data] {path}: expected whole numbers ({len(x)},) as labels, got {y.dtype} {y.shape}")
    if y.min() < 0 or y.max() >= 1 << 20:
        raise IoError(f"[data] {path}: expected labels in 0 ... {(1 << 20) - 1}, got {y.min()} ... {y.max()}")
    return np.asarray(y, np.int32)


def checked_context(path: Any, c: Any, x: Any) -> np.ndarray | None:
    """What the density of samples x of a file is given, (N, C) float64. IoError; NumericError by its row from 0."""
    if c is None or x is None:
        return None
    c = np.asarray(c)
    if c.dtype.kind not in "iuf" or c.ndim not in (1, 2) or len(c) != len(x) or 0 in c.shape:
        raise IoError(f"[data] {path}: expected numbers ({len(x)}, C) or ({len(x)},) as context, "
                      f"got {c.dtype} {c.shape}")
    numbers: np.ndarray = c.reshape(len(c), -1).astype(np.float64)
    for row, column in np.argwhere(~np.isfinite(numbers))[:1]:
        raise NumericError(f"[data] {path}: expected finite values, got {numbers[row, column]} in row {row}, "
                           f"column {column} of the context")
    return numbers


def _weight(path: Any, w: Any, x: Any) -> np.ndarray | None:
    if w is None or x is None:
        return None
    w = np.asarray(w)
    if w.dtype.kind not in "iuf" or w.shape != (len(x),):
        raise IoError(f"[data] {path}: expected numbers ({len(x)},) as weight, got {w.dtype} {w.shape}")
    numbers: np.ndarray = w.astype(np.float64)
    row = first_bad(numbers)
    if row is not None:
        raise IoError(f"[data] {path}: expected finite weights >= 0, got {numbers[row]:g} in row {row}")
    return numbers


def require_weight(path: Any, **parts: np.ndarray | None) -> None:
    """IoError for a part, by its name, whose samples all count for nothing."""
    for name, w in parts.items():
        if w is not None and not w.any():
            raise IoError(f"[data] {path}: expected a weight > 0 in the {name} part, got {len(w)} zeros")


def width(c: np.ndarray | None) -> int:
    """How many numbers of context a sample has."""
    return 0 if c is None else c.shape[1]
