"""A folder of pictures, read with Pillow."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from evenflow.data.dataset import Dataset
from evenflow.errors import ConfigError, IoError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


def read_folder(path: str | os.PathLike[str], size: int | None = None) -> Dataset:
    """All pictures of a folder, sorted by name; subfolders are classes and give their pictures' labels.

    size: centre square, resized to size x size; None: all pictures must have one size. Grey pictures give one
    channel if all are grey, else everything is RGB. IoError for a picture that can't be read; ConfigError
    without Pillow.
    """
    path = os.fspath(path)
    if size is not None and size < 1:
        raise ConfigError(f"[data] expected size >= 1, got {size}")
    try:
        from PIL import Image
    except ImportError:
        raise ConfigError("[data] expected Pillow, got none: pip install evenflow[cli]") from None
    folders = sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
    files = [(file, label) for label, folder in enumerate(folders)
             for file in _pictures(os.path.join(path, folder))]
    if not files:
        folders, files = [], [(file, 0) for file in _pictures(path)]
    if not files:
        raise IoError(f"[data] {path}: expected pictures ({', '.join(SUFFIXES)}), got none")
    pictures = [_read(Image, file, size) for file, _ in files]
    channels = max(p.shape[2] for p in pictures)
    first = pictures[0].shape[:2]
    for (file, _), picture in zip(files, pictures):
        if picture.shape[:2] != first:
            raise IoError(f"[data] {file}: expected {first[0]} x {first[1]} pixels like {files[0][0]}, "
                          f"got {picture.shape[0]} x {picture.shape[1]} (size=... makes them equal)")
    images = np.stack([np.broadcast_to(p, (*p.shape[:2], channels)) for p in pictures])
    labels = np.array([label for _, label in files], np.int32) if folders else None
    return Dataset(images, kind="image", train_labels=labels, classes=folders)


def _pictures(path: str) -> list[str]:
    return sorted(entry.path for entry in os.scandir(path)
                  if entry.is_file() and entry.name.lower().endswith(SUFFIXES))


def _read(image_module: Any, path: str, size: int | None) -> np.ndarray:
    """One picture, (h, w, 1 or 3) uint8."""
    try:
        with image_module.open(path) as picture:
            picture = picture.convert("L" if picture.mode in ("1", "L", "LA") else "RGB")
            if size is not None:
                side = min(picture.size)
                left, top = (picture.width - side) // 2, (picture.height - side) // 2
                picture = picture.resize((size, size), image_module.Resampling.BICUBIC,
                                         box=(left, top, left + side, top + side))
            pixels = np.asarray(picture)
    # Pillow's plug-ins let errors of many kinds through from a broken file.
    except Exception as error:
        raise IoError(f"[data] {path}: expected a picture, got: {error}") from error
    return pixels[..., None] if pixels.ndim == 2 else pixels
