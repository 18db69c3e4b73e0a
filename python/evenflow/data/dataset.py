"""Dataset: arrays of one kind, ready for a model."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evenflow._border.batch import Batch
from evenflow._border.checks import choice, number, whole
from evenflow.errors import ConfigError, Error, IoError, ShapeError, wrong
from evenflow._border.rows import Rows, stays_outside
from evenflow.data.rows import Bordered, Order, drawn, pick

LARGEST_LABEL = (1 << 20) - 1
MISSING = ("", "nan", "-nan", "none", "null", "na", "n/a", "<na>", "#n/a", "?")
"""How files write a value that is missing, in small letters."""
PER_SAMPLE = ("labels", "attributes", "context", "weight")
"""What a data set has beside each part's samples: train_labels, test_labels, ..."""


def said(default: Any, help: str) -> Any:
    """A field of a dataclass that is also an option of the command line, with its line of help."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, repr=False)
class Dataset:
    """Training data and perhaps test data, of one kind.

    Samples are images (N, H, W, C) uint8 or a table (N, D) of floats. Data that are too large for memory are a `Rows`:
    it has `shape`, `dtype` and `len`, and `x[a:b]` or `x[indices]` reads these samples as an array. Everything in
    evenflow that takes data takes it. An attribute is None, or empty, where the source has nothing for it.
    """

    train: np.ndarray | Rows
    """Training samples."""
    test: np.ndarray | Rows | None = None
    """Test samples."""
    kind: str = "table"
    """`"image"` or `"table"`."""
    train_labels: NDArray[np.int32] | None = None
    """Classes of the training samples, (N,), from 0."""
    test_labels: NDArray[np.int32] | None = None
    """Classes of the test samples."""
    columns: list[str] = field(default_factory=list)
    """Names of a table's columns."""
    classes: list[str] = field(default_factory=list)
    """Names of the classes, by number."""
    train_attributes: NDArray[np.uint8] | None = None
    """(N, A), 1 where a training sample has an attribute."""
    test_attributes: NDArray[np.uint8] | None = None
    """The same of the test samples."""
    attributes: list[str] = field(default_factory=list)
    """Names of the attributes, by column."""
    train_context: NDArray[np.float64] | None = None
    """(N, C), what the training samples' density is conditioned on."""
    test_context: NDArray[np.float64] | None = None
    """The same of the test samples."""
    context: list[str] = field(default_factory=list)
    """Names of the context's columns."""
    train_weight: NDArray[np.float64] | None = None
    """(N,), finite and >= 0, how much each training sample counts; None: all alike."""
    test_weight: NDArray[np.float64] | None = None
    """The same of the test samples."""

    def __repr__(self) -> str:
        """Shapes and types: Dataset(image, train (1500, 8, 8, 1) uint8, ..., 10 classes)."""
        shown = [self.kind]
        for name in ("train", "test", *(f"{part}_{name}" for name in PER_SAMPLE for part in ("train", "test"))):
            x = getattr(self, name)
            if x is not None:
                shown.append(f"{name} {tuple(x.shape)} {x.dtype}")
        shown += [f"{len(getattr(self, name))} {name}" for name in ("columns", "classes", "attributes")
                  if getattr(self, name)]
        return f"Dataset({', '.join(shown)})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.train.shape[1:]

    def part(self, which: str) -> Batch:
        """Samples of one part with all that is said of them.

        Parameters
        ----------
        which : str
            "train" or "test".

        Returns
        -------
        Batch
            With x, label, context and weight, None for what there is not.

        Raises
        ------
        ConfigError
            If there is no such part.
        """
        if choice("data", "which", which, ("train", "test")) == "test" and self.test is None:
            raise wrong(ConfigError, "data", "which", "expected data with a test part, got none")
        return Batch(*(getattr(self, which + name) for name in ("", "_labels", "_context", "_weight")))

    def split(self, fraction: float, seed: int = 0) -> Dataset:
        """Take a random part of the training data as test data.

        Parameters
        ----------
        fraction : float
            Share of the training samples that become the test part, in 0 ... 1.
        seed : int
            The same seed draws the same samples.

        Returns
        -------
        Dataset
            A data set with both parts. Test data that this one has are not in it.

        Raises
        ------
        ConfigError
            If one of the parts would be empty.

        Examples
        --------
        >>> import evenflow as ef
        >>> digits = ef.data.load("digits").split(0.1)
        >>> len(digits.train), len(digits.test)
        (1350, 150)
        """
        seed, n = whole("split", "seed", seed, low=0), len(self.train)
        count = round(number("split", "fraction", fraction, 0.0, 1.0) * n)
        if not 0 < count < n:
            raise ConfigError(f"[split] a fraction of {fraction:g} takes {count} of {n} samples; both parts need at "
                              "least one")
        test, train = drawn(self.train, count, seed)
        return self.divided(train, test)

    def divided(self, train: np.ndarray | Order, test: np.ndarray | Order) -> Dataset:
        """These rows of the training part as the two parts of a data set."""
        fields: dict[str, Any] = {}
        for part, rows in (("train", train), ("test", test)):
            fields[part] = pick(self.train, rows)
            for name in PER_SAMPLE:
                values = getattr(self, f"train_{name}")
                fields[f"{part}_{name}"] = None if values is None else values[rows[:]]
        return dataclasses.replace(self, **fields)

    def without_test(self) -> Dataset:
        """Return this data set without its test part."""
        parts: dict[str, Any] = dict.fromkeys(f"test_{name}" for name in PER_SAMPLE)
        return dataclasses.replace(self, test=None, **parts)

    def padded(self, size: int) -> Dataset:
        """Set images into the middle of a black square.

        Parameters
        ----------
        size : int
            Side of the square in pixels. Glow's authors pad MNIST's 28 x 28 to 32 x 32. They also copy its channel
            to three, over which bits_per_dim is a mean.

        Returns
        -------
        Dataset
            The same data with images (N, size, size, C).

        Raises
        ------
        ConfigError
            If this is a table.
        ShapeError
            If the images are larger than the square.
        """
        size = whole("data", "pad", size, low=1)
        if self.kind != "image":
            raise ConfigError("[data] pad is for images; these data are a table")
        if max(self.shape[:2]) > size:
            raise ShapeError(f"[data] expected images of at most {size} x {size} pixels for this pad, "
                             f"got {self.shape[0]} x {self.shape[1]}")

        def part(x: Any) -> Any:
            if x is None:
                return None
            return Bordered(x, size) if stays_outside(x) else Bordered(x, size)[:]

        return dataclasses.replace(self, train=part(self.train), test=part(self.test))


def checked(path: str, train: Any, test: Any = None, **given: ArrayLike | None) -> Dataset:
    """A file's arrays as a data set. IoError where they don't fit each other.

    given: train_labels, test_labels, train_context, test_context, train_weight and test_weight.
    """
    fields: dict[str, Any] = {}
    for part, x in (("train", train), ("test", test)):
        fields[part] = None if x is None else _samples(path, x)
        for name, check in (("labels", _labels), ("context", checked_context), ("weight", _weight)):
            values = given.get(f"{part}_{name}")
            fields[f"{part}_{name}"] = None if x is None or values is None else check(path, np.asarray(values), len(x))
    for name in ("", "_context", "_weight") if test is not None else ():
        one, other = (None if x is None else x.shape[1:] for x in (fields[f"train{name}"], fields[f"test{name}"]))
        if one != other:
            raise IoError(f"[data] {path}: the training and the test part differ in their {name[1:] or 'samples'}: "
                          f"expected shape {one} for each, got {other}")
    labels = [y for y in (fields["train_labels"], fields["test_labels"]) if y is not None]
    classes = [str(i) for i in range(1 + max((int(y.max()) for y in labels), default=-1))]
    return Dataset(**fields, kind="image" if fields["train"].dtype == np.uint8 else "table", classes=classes)


@contextlib.contextmanager
def reading(path: str, what: str) -> Iterator[None]:
    """IoError for all that goes wrong in the block: a broken file fails in many ways."""
    try:
        yield
    except Error:
        raise
    except Exception as error:
        why = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise IoError(f"[data] {path}: this {what} can't be read: {why}") from error


def entries(path: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    """What is in a folder, sorted by name. IoError."""
    with reading(os.fspath(path), "folder"), os.scandir(path) as found:
        return sorted(found, key=lambda entry: entry.name)


class Flaws:
    """Values of a table that can't be used, counted over its rows, so that one error tells of all."""

    def __init__(self, path: str, of: str = ""):
        self.path, self.of, self.rows, self.bad_rows = path, of, 0, 0
        self.counts: dict[str | int, int] = {}
        self.first: tuple[int, str | int, str] | None = None

    def __bool__(self) -> bool:
        return self.first is not None

    def add(self, names: Sequence[str | int], bad: NDArray[np.bool_], cells: Any) -> None:
        """The next rows: which values (n, D) are bad, and the columns' cells as the file has them."""
        if bad.any():
            row, column = (int(i) for i in np.argwhere(bad)[0])
            self.first = self.first or (self.rows + row, names[column], complaint(cells[column][row]))
            for name, count in zip(names, bad.sum(axis=0).tolist()):
                self.counts[name] = self.counts.get(name, 0) + count
            self.bad_rows += int(bad.any(axis=1).sum())
        self.rows += len(bad)

    def refuse(self) -> None:
        """IoError that names the first, if there are any."""
        if self.first is None:
            return
        row, name, why = self.first
        more = ", ".join(f"{count} in column {name!r}" for name, count in self.counts.items() if count)
        all_of_them = "" if sum(self.counts.values()) == 1 else (
            f"; {self.bad_rows} of {self.rows} rows have such values: {more}")
        table = self.path.lower().endswith((".csv", ".tsv", ".gz", ".parquet"))
        all_of_them += "; evenflow inspect proposes options for all columns" * table
        raise wrong(IoError, "data", None, f"{self.path}, row {row}, column {name!r}{self.of}: {why}{all_of_them}", row,
                    name)


def complaint(cell: object) -> str:
    """What is wrong with a cell or a value that no table may have, and what to do."""
    text = str(cell).strip()
    if text.lower() in MISSING:
        return f"missing value ({text or 'an empty cell'}); fill it in, or omit the row or drop the column"
    if not is_number(text):
        return f"{text!r} is not a number; leave this column out (drop), or convert it"
    return f"{text} is negative" if math.isfinite(float(text)) else f"{text} is not finite"


def is_missing(cell: object) -> bool:
    """Whether a cell stands for no value, or for an infinite one."""
    text = str(cell).strip()
    return text.lower() in MISSING or is_number(text) and math.isinf(float(text))


def is_number(text: str) -> bool:
    """Whether a cell is a number, perhaps an infinite one. Python's 1_000 is none."""
    try:
        return "_" not in text and not math.isnan(float(text))
    except ValueError:
        return False


def _samples(path: str, x: Any) -> Any:
    """Images with an axis of channels, or a table of floats; of whole numbers only where it stays in its file."""
    if 0 in x.shape:
        raise IoError(f"[data] {path}: expected at least one sample, got {x.shape}")
    if x.dtype == np.uint8 and x.ndim in (3, 4):
        return x.reshape(*x.shape, 1) if x.ndim == 3 else x
    if x.dtype.kind in "iuf" and x.dtype != np.uint8 and x.ndim == 2:
        if stays_outside(x):
            return x
        _require_finite(path, x)
        return x if x.dtype.kind == "f" else x.astype(np.float64)
    hint = ("; evenflow.to_uint8(x, bits) makes levels of floats in 0 ... 2^bits, as evenflow samples them"
            if x.dtype.kind == "f" and x.ndim in (3, 4) else "")
    raise IoError(f"[data] {path}: expected uint8 images (N, H, W[, C]) or a table (N, D) of floats or of whole "
                  f"numbers other than uint8, got {x.dtype} {x.shape}{hint}")


def _require_finite(path: str, x: np.ndarray, of: str = "") -> None:
    flaws = Flaws(path, of)
    flaws.add(range(x.shape[1]), ~np.isfinite(x), x.T)
    flaws.refuse()


def _labels(path: str, y: np.ndarray, n: int) -> NDArray[np.int32]:
    if y.dtype.kind not in "iu" or y.shape != (n,):
        raise IoError(f"[data] {path}: expected whole numbers ({n},) as labels, got {y.dtype} {y.shape}")
    if y.min() < 0 or y.max() > LARGEST_LABEL:
        raise IoError(f"[data] {path}: expected labels in 0 ... {LARGEST_LABEL}, got {y.min()} ... {y.max()}")
    return y.astype(np.int32)


def checked_context(path: str, c: np.ndarray, n: int) -> NDArray[np.float64]:
    """A file's context of n samples as (n, C) float64. IoError."""
    if c.dtype.kind not in "iuf" or c.ndim not in (1, 2) or len(c) != n or 0 in c.shape:
        raise IoError(f"[data] {path}: expected numbers ({n}, C) or ({n},) as context, got {c.dtype} {c.shape}")
    c = c.reshape(n, -1).astype(np.float64)
    _require_finite(path, c, " of the context")
    return c


def _weight(path: str, w: np.ndarray, n: int) -> NDArray[np.float64]:
    if w.dtype.kind not in "iuf" or w.shape != (n,):
        raise IoError(f"[data] {path}: expected numbers ({n},) as weight, got {w.dtype} {w.shape}")
    for row in np.flatnonzero(~((w >= 0) & (w < np.inf)))[:1]:
        raise IoError(f"[data] {path}: expected finite weights >= 0, got {w[row]:g} in row {row}")
    return w.astype(np.float64)


def require_weight(path: str, **parts: np.ndarray | None) -> None:
    """IoError for a part, by its name, in which no sample has a weight."""
    for name, w in parts.items():
        if w is not None and not w.any():
            raise IoError(f"[data] {path}: expected a weight > 0 in the {name} part, got {len(w)} zeros")
