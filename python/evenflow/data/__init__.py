"""Data sets: readers for IDX, .npy, .npz, CSV and folders of images, and 8x8 digits that ship with evenflow.

The digits are the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak 1998, UCI
Machine Learning Repository, CC BY 4.0), levels 0 ... 16 reduced to 16 levels and scaled to 0 ... 255.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import resources

from evenflow.data.dataset import Dataset
from evenflow.data.folder import read_folder
from evenflow.data.idx import read_idx, read_idx_folder
from evenflow.data.numpy_files import read_npy, read_npz
from evenflow.data.table import read_csv
from evenflow.errors import ConfigError, IoError

__all__ = ["Dataset", "load", "read_csv", "read_folder", "read_idx", "read_idx_folder", "read_npy",
           "read_npz"]

SUFFIXES = (".npy", ".npz", ".csv", ".csv.gz", "-ubyte", "-ubyte.gz", ".idx", ".idx.gz")


def load(source: str | os.PathLike[str], *, columns: Sequence[str] | None = None, label: str | None = None,
         size: int | None = None) -> Dataset:
    """Reads a data set, by the name "digits" or by path.

    digits                1,500 + 297 handwritten digits, 8x8x1, 16 levels (use bits=4), with labels
    *.npz                 train (and test), or x; with train_labels, test_labels or labels where present
    *.npy                 one array: uint8 images (N, H, W[, C]) or a float table (N, D)
    *.csv, *.csv.gz       a table; `columns` selects and orders columns, `label` names the column of classes
    *-ubyte[.gz], *.idx   one IDX file
    folder                of IDX files (MNIST's names), else of pictures (needs Pillow); subfolders are
                          classes; `size` crops and resizes to size x size

    IoError, with the path, for a file that is missing, broken or of another kind; ConfigError for an unknown
    column or an option that does not fit.
    """
    path = os.fspath(source)
    is_csv = path.endswith((".csv", ".csv.gz"))
    if (columns is not None or label is not None) and not is_csv:
        raise ConfigError(f"[data] expected columns and label with a CSV file only, got {path}")
    if path == "digits" and not os.path.exists(path):
        with resources.as_file(resources.files(__package__) / "digits.npz") as file:
            return read_npz(file)
    if not os.path.exists(path):
        raise IoError(f"[data] expected a file, a folder or 'digits', got {path}, which does not exist")
    if os.path.isdir(path):
        if not any("idx3-ubyte" in name for name in os.listdir(path)):
            return read_folder(path, size)
        if size is None:
            return read_idx_folder(path)
    if size is not None:
        raise ConfigError(f"[data] expected size with a folder of images only, got {path}")
    if is_csv:
        return read_csv(path, columns=columns, label=label)
    if path.endswith(".npy"):
        return read_npy(path)
    if path.endswith(".npz"):
        return read_npz(path)
    if path.endswith(SUFFIXES):
        return Dataset.from_array(path, read_idx(path))
    raise IoError(f"[data] expected a name ending in {', '.join(SUFFIXES)}, got {path}")
