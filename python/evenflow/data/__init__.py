"""Data sets: readers for files and folders of many kinds, public and built-in sets, augmentation.

The digits that ship with evenflow are the test part of "Optical Recognition of Handwritten Digits"
(E. Alpaydin, C. Kaynak 1998, UCI Machine Learning Repository, CC BY 4.0), levels 0 ... 16 reduced to 16
levels and scaled to 0 ... 255.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib import resources

from evenflow.arrays import file_name, flag
from evenflow.data import celeba, cifar, svhn, toys
from evenflow.data.augment import Augment
from evenflow.data.celeba import read_celeba
from evenflow.data.cifar import read_cifar
from evenflow.data.dataset import Dataset, entries, require_weight
from evenflow.data.folder import read_folder
from evenflow.data.idx import read_idx, read_idx_folder
from evenflow.data.numpy_files import read_npy, read_npz, read_npz_folder
from evenflow.data.parquet import parquet_columns, read_parquet
from evenflow.data.public import SETS, download, load_public
from evenflow.data.svhn import read_svhn
from evenflow.data.table import csv_columns, read_csv
from evenflow.data.toys import checkerboard, rings, two_moons
from evenflow.errors import ConfigError, IoError

__all__ = ["Augment", "Dataset", "load", "download", "read_celeba", "read_cifar", "read_csv", "read_folder",
           "read_idx", "read_idx_folder", "read_npy", "read_npz", "read_npz_folder", "read_parquet",
           "read_svhn", "checkerboard", "rings", "two_moons"]

TABLES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
SUFFIXES = (".npy", ".npz", *TABLES, "-ubyte", "-ubyte.gz", ".idx", ".idx.gz", ".tar.gz", ".mat")

def load(source: str | os.PathLike[str], *, columns: Sequence[str | int] | None = None,
         label: str | int | None = None, context: Sequence[str | int] | None = None, weight: str | int | None = None,
         size: int | None = None, crop: int | None = None, pad: int | None = None, named: bool = False) -> Dataset:
    """Reads a data set, by name or by path.

    digits                1,500 + 297 handwritten digits, 8x8x1, 16 levels (use bits=4), with labels
    two-moons, rings, checkerboard     10,000 + 2,000 points in the plane
    mnist, fashion-mnist, cifar10, cifar100, svhn     downloaded once (see `download`), with labels
    *.npz                 train (and test), or x; with train_labels, test_labels or labels, train_context,
                          test_context or context, and train_weight, test_weight or weight, where present
    *.npy                 one array: uint8 images (N, H, W[, C]), or a table (N, D) of floats or whole numbers
    *.csv, *.tsv, also .gz    a table; `columns` selects and orders columns, `label` names the column of classes,
                          `context` the columns that the density of the others is given, `weight` the
                          column of what rows count for; columns without names go by their numbers
    *.parquet             the same (needs pyarrow)
    *-ubyte[.gz], *.idx   one IDX file
    *.tar.gz              CIFAR-10 or CIFAR-100, binary or Python version
    *.mat                 SVHN (needs scipy)
    folder                of IDX files (MNIST's names), CIFAR's, SVHN's or .npz files, of CelebA with its
                          list_attr_celeba.txt, else of pictures (needs Pillow), whose subfolders are classes.
                          Pictures: `crop` takes a square out of the middle, `size` resizes to size x size

    Images of any source: `pad` sets them into the middle of a black square of pad x pad, see `Dataset.padded`.
    Endings are the same in capitals. A path goes before a name, unless `named`. IoError, with the path, for a
    file that is missing, broken or of another kind; ConfigError for an unknown column or an option that does not fit.
    """
    path = file_name("data", source)
    exists = not flag("data", "named", named) and os.path.exists(path)
    if any(chosen is not None for chosen in (columns, label, context, weight)) and not path.lower().endswith(TABLES):
        raise ConfigError("[data] expected columns, label, context and weight with a CSV or Parquet file only, "
                          f"got {path}")
    if exists and os.path.isdir(path):
        found = _load_folder(path, size, crop)
    elif size is not None or crop is not None:
        raise ConfigError(f"[data] expected size and crop with a folder of images only, got {path}")
    else:
        found = _load_file(path, columns, label, context, weight) if exists else _load_name(path)
    require_weight(path, training=found.train_weight, test=found.test_weight)
    return found if pad is None else found.padded(pad)


def _load_name(name: str) -> Dataset:
    if name == "digits":
        with resources.as_file(resources.files(__package__) / "digits.npz") as file:
            return read_npz(file)
    if name in toys.NAMES:
        return toys.toy(name)
    if name in SETS:
        return load_public(name)
    raise IoError(f"[data] expected a file, a folder or one of {', '.join(('digits', *toys.NAMES, *SETS))}, "
                  f"got {name}, which does not exist")


def is_pictures(path: str) -> bool:
    """Whether a path is a folder whose pictures are cropped and resized."""
    if not os.path.isdir(path):
        return False
    names = [entry.name for entry in entries(path)]
    return celeba.ATTRIBUTES in names or _reader(names) is None


def _reader(names: list[str]) -> Callable[[str], Dataset] | None:
    """Of a folder of these files, unless they are pictures."""
    return next((read for read, fits in (
        (read_idx_folder, any("idx3-ubyte" in name for name in names)), (read_cifar, cifar.is_cifar(names)),
        (read_svhn, svhn.TRAIN in names),
        (read_npz_folder, any(name.lower().endswith(".npz") for name in names))) if fits), None)


def _load_folder(path: str, size: int | None, crop: int | None) -> Dataset:
    names = [entry.name for entry in entries(path)]
    if celeba.ATTRIBUTES in names:
        return read_celeba(path, celeba.SIZE if size is None else size, crop)
    reader = _reader(names)
    if reader is None:
        return read_folder(path, size, crop)
    if size is not None or crop is not None:
        raise ConfigError(f"[data] expected size and crop with a folder of images only, got {path}")
    return reader(path)


def table_columns(path: str) -> list[str]:
    """The names of the columns of a CSV or Parquet file. IoError."""
    return (parquet_columns if path.lower().endswith(".parquet") else csv_columns)(path)


def _load_file(path: str, columns: Sequence[str | int] | None, label: str | int | None,
               context: Sequence[str | int] | None, weight: str | int | None) -> Dataset:
    ending = path.lower()
    if ending.endswith((".csv", ".csv.gz", ".tsv", ".tsv.gz")):
        return read_csv(path, columns=columns, label=label, context=context, weight=weight)
    if ending.endswith(".parquet"):
        return read_parquet(path, columns=columns, label=label, context=context, weight=weight)
    for suffix, read in ((".npy", read_npy), (".npz", read_npz), (".tar.gz", read_cifar),
                         (".mat", read_svhn)):
        if ending.endswith(suffix):
            return read(path)
    if ending.endswith(SUFFIXES):
        return Dataset.from_array(path, read_idx(path))
    raise IoError(f"[data] expected a name ending in {', '.join(SUFFIXES)}, got {path}")
