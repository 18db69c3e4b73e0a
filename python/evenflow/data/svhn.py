"""SVHN, cropped digits (Netzer, Wang, Coates, Bissacco, Wu, Ng 2011), in MATLAB's files, read with scipy."""

from __future__ import annotations

import os

import numpy as np

from evenflow.arrays import file_name
from evenflow.data.dataset import Dataset
from evenflow.errors import IoError
from evenflow.extras import need

TRAIN, TEST = "train_32x32.mat", "test_32x32.mat"


def read_svhn(path: str | os.PathLike[str]) -> Dataset:
    """A folder with train_32x32.mat and test_32x32.mat, or one such file: 32x32x3 images, labels 0 ... 9.

    IoError for a missing, broken or foreign file; MissingExtra without scipy.
    """
    path = file_name("data", path)
    if not os.path.isdir(path):
        x, y = _read(path)
        return Dataset.from_array(path, x, None, y)
    (x, y), (test, test_y) = (_read(os.path.join(path, name)) for name in (TRAIN, TEST))
    return Dataset.from_array(path, x, test, y, test_y)


def _read(path: str) -> tuple[np.ndarray, np.ndarray]:
    """X (32, 32, 3, N) and y (N, 1), where the digit 0 is called 10."""
    io = need("data", "scipy.io", "scipy", "svhn")
    # A broken file fails in many ways.
    try:
        content = io.loadmat(path, variable_names=("X", "y"))
    except Exception as error:
        got = str(error) or type(error).__name__
        raise IoError(f"[data] {path}: expected a MATLAB file, got: {got}") from error
    x, y = content.get("X"), content.get("y")
    if x is None or x.dtype != np.uint8 or x.ndim != 4 or x.shape[2] != 3:
        got = "none" if x is None else f"{x.dtype} {x.shape}"
        raise IoError(f"[data] {path}: expected X as uint8 (H, W, 3, N), got {got}")
    if y is None or y.dtype.kind not in "iu" or y.size != x.shape[3] or not 1 <= y.min() <= y.max() <= 10:
        raise IoError(f"[data] {path}: expected {x.shape[3]} labels y in 1 ... 10, got something else")
    return np.ascontiguousarray(x.transpose(3, 0, 1, 2)), (y.reshape(-1) % 10).astype(np.int32)
