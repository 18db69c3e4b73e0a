"""A folder of pictures, read with Pillow."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from evenflow import arrays
from evenflow.data.dataset import Dataset, entries
from evenflow.errors import ConfigError, IoError
from evenflow.extras import need
from evenflow.rows import RESIDENT_BYTES, Rows, pick

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
GREY, COLOUR = ("1", "L", "LA"), ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
TRAIN, HELD_OUT = ("train",), ("test", "val", "valid", "validation")
"""Names of subfolders that are parts of the data, no classes."""
ORIENTATION = 0x0112
# Pillow's methods of `transpose`, by EXIF's orientation.
UPRIGHT = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}

Box = tuple[int, int, int, int]


class Pictures(Rows):
    """Picture files, decoded when they are indexed. The headers of all are read at once.

    box: the part (left, top, right, bottom) to take of a picture of (width, height), or None for all of it.
    side: of the square that it is resized to, or None; smooth: bicubic, over all pixels that one of the
    smaller picture covers, else `points`. channels: 1 (grey) or 3 (RGB); None: one if all are grey, else three.
    Pictures are turned as the camera that took them was held. IoError names the file that can't be read or whose
    size differs from the first's.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, files: Sequence[str], side: int | None, box: Callable[[int, int], Box] | None = None,
                 smooth: bool = True, channels: int | None = None):
        self._image = need("data", "PIL.Image", "Pillow", "cli")
        self._bicubic = getattr(self._image, "Resampling", self._image).BICUBIC  # before Pillow 9.1
        self.files, self.side, self.box, self.smooth = list(files), side, box, smooth
        shapes = [self._header(file) for file in self.files]
        for file, shape in zip(self.files, shapes):
            if shape[:2] != shapes[0][:2]:
                raise IoError(f"[data] {file}: expected {shapes[0][0]} x {shapes[0][1]} pixels like "
                              f"{self.files[0]}, got {shape[0]} x {shape[1]} (size=... makes them equal)")
        self.shape = (len(files), *shapes[0][:2], channels or max(shape[2] for shape in shapes))

    def _header(self, path: str) -> tuple[int, int, int]:
        """(height, width, channels) of a picture as it will be read."""
        picture = self._open(path)
        with picture:
            mode, (width, height), deep = picture.mode, _turned(picture)[1], _is_deep(picture)
        if deep or mode not in (*GREY, *COLOUR):
            got = "more" if deep else f"a picture of mode {mode}"
            raise IoError(f"[data] {path}: expected 8 bits a channel, got {got}")
        if self.side is not None:
            height = width = self.side
        elif self.box is not None:
            left, top, right, bottom = self._box(path, width, height)
            height, width = bottom - top, right - left
        return height, width, 1 if mode in GREY else 3

    def _open(self, path: str) -> Any:
        try:
            return self._image.open(path)
        except Exception as error:
            raise _broken(path, error) from error

    def _box(self, path: str, width: int, height: int) -> Box:
        box = (0, 0, width, height) if self.box is None else self.box(width, height)
        if box[0] < 0 or box[1] < 0 or box[2] > width or box[3] > height:
            raise IoError(f"[data] {path}: expected at least {box[3] - box[1]} x {box[2] - box[0]} pixels to "
                          f"crop, got {height} x {width}")
        return box

    def _read(self, index: slice | np.ndarray) -> np.ndarray:
        rows = range(len(self))[index] if isinstance(index, slice) else index
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for place, row in enumerate(rows):
            out[place] = self._decode(self.files[row])
        return out

    def _decode(self, path: str) -> np.ndarray:
        with self._open(path) as picture:
            turn, size = _turned(picture)
            box, side = self._box(path, *size), self.side
            # Pillow's plug-ins let errors of many kinds through from a broken file.
            try:
                picture = picture.convert("L" if self.shape[3] == 1 else "RGB")
                picture = (picture if turn is None else picture.transpose(turn)).crop(box)
                if side is not None and self.smooth:
                    picture = picture.resize((side, side), self._bicubic)
                pixels = np.asarray(picture)
                if side is not None and not self.smooth:
                    pixels = points(pixels, side)
            except Exception as error:
                raise _broken(path, error) from error
        if pixels.shape[:2] != self.shape[1:3]:
            raise IoError(f"[data] {path}: expected {self.shape[1]} x {self.shape[2]} pixels as before, "
                          f"got {pixels.shape[0]} x {pixels.shape[1]}")
        return pixels[..., None] if pixels.ndim == 2 else pixels


def points(pixels: np.ndarray, side: int) -> np.ndarray:
    """(H, W, ...) uint8 at side x side points, between the four pixels around each and rounded: TensorFlow 1's
    bilinear resize_images, which smooths nothing that it shrinks."""
    out = pixels.astype(np.float64)
    for axis, length in enumerate(pixels.shape[:2]):
        at = np.arange(side) * (length / side)
        low = at.astype(np.intp)
        share = np.expand_dims(at - low, tuple(d for d in range(out.ndim) if d != axis))
        below, above = out.take(low, axis), out.take(np.minimum(low + 1, length - 1), axis)
        out = below + share * (above - below)
    return np.rint(out).astype(np.uint8)


def read_folder(path: str | os.PathLike[str], size: int | None = None, crop: int | None = None,
                channels: int | None = None) -> Dataset:
    """All pictures of a folder, sorted by name; subfolders are classes and give their pictures' labels.

    Pictures beside them would have none: IoError, as for a subfolder that has pictures in subfolders only. Subfolders
    without pictures are no classes, nor are hidden ones, as programs leave behind (.ipynb_checkpoints).
    Subfolders train and test (or val, valid, validation) are the two parts, each with classes or without.

    size: side of the squares that pictures are resized to (bicubic); None: all must have one size. crop: side
    of the square that is taken out of the middle before; None: with size the largest, else all. channels: 1 or 3;
    None: one if all pictures are grey, else everything is RGB. More than 256 MiB of pixels are decoded while
    they are used. IoError for a picture that can't be read; MissingExtra without Pillow.
    """
    path = arrays.file_name("data", path)
    for name, value in (("size", size), ("crop", crop), ("channels", channels)):
        if value is not None:
            arrays.whole("data", name, value, low=1)
    if channels not in (None, 1, 3):
        raise ConfigError(f"[data] expected channels to be 1 or 3, got {channels!r}")
    train, test = ([pair for folder in part for pair in _with_classes(folder)] for part in _parts(path))
    if not train:
        raise IoError(f"[data] {path}: expected pictures ({', '.join(SUFFIXES)}), got none")
    classes = sorted({name for _, name in train + test if name is not None}) if train[0][1] is not None else []
    box = None if size is None and crop is None else lambda w, h: middle(w, h, crop or min(w, h))
    images = resident(Pictures([file for file, _ in train + test], size, box, channels=channels))
    data = Dataset(images, kind="image", train_labels=_labels(train, classes), classes=classes)
    if not test:
        return data
    numbers = np.arange(len(images))
    return dataclasses.replace(data, train=pick(images, numbers[:len(train)]), test=pick(images, numbers[len(train):]),
                               test_labels=_labels(test, classes))


def _parts(path: str) -> tuple[list[str], list[str]]:
    """Folders of the training and of the test part: train, and test or others of its kind, where they are there, else
    the folder itself. IoError for pictures that would be in neither.
    """
    folders = {entry.path: entry.name.lower() for entry in _subfolders(path)}
    train, held_out = ([folder for folder, name in folders.items() if name in names and _any_picture(folder)]
                       for names in (TRAIN, HELD_OUT))
    if not train or not held_out:
        return [path], []
    others = [_any_picture(folder) for folder in folders if folder not in train + held_out]
    for other in filter(None, [*others, *picture_files(path)]):
        raise IoError(f"[data] {path}: expected no pictures beside {train[0]} and {held_out[0]}, which are parts of "
                      f"the data, got {other}")
    return train, held_out


def _with_classes(path: str) -> list[tuple[str, str | None]]:
    """The pictures of a folder, each with its class: the subfolder that it is in, or None."""
    files: list[tuple[str, str | None]] = []
    for entry in _subfolders(path):
        found = picture_files(entry.path)
        deeper = None if found else _any_picture(entry.path)
        if deeper is not None:
            raise IoError(f"[data] {entry.path}: expected the pictures of a class in its folder, got them in "
                          f"subfolders: {deeper}")
        files += [(file, entry.name) for file in found]
    beside = picture_files(path)
    if files and beside:
        raise IoError(f"[data] {path}: expected pictures in subfolders, which are classes, or none there, "
                      f"got {beside[0]} beside {files[0][0]}")
    return files or [(file, None) for file in beside]


def _labels(files: list[tuple[str, str | None]], classes: list[str]) -> np.ndarray | None:
    """Numbers of the files' classes; None unless all have one."""
    number = {name: i for i, name in enumerate(classes)}
    found = [number[name] for _, name in files if name in number]
    return np.array(found, np.int32) if len(found) == len(files) else None


def _subfolders(path: str) -> list[os.DirEntry[str]]:
    """Without hidden ones."""
    return [entry for entry in entries(path) if entry.is_dir() and not entry.name.startswith(".")]


def _any_picture(path: str) -> str | None:
    """A picture in a folder or below it, if there is one."""
    for folder, names, _ in os.walk(path):
        names[:] = sorted(name for name in names if not name.startswith("."))
        found = picture_files(folder)
        if found:
            return found[0]
    return None


def middle(width: int, height: int, side: int) -> Box:
    """The square of a side in the middle of a picture."""
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def resident(images: Pictures) -> np.ndarray | Rows:
    """Decoded, if that is not too large."""
    return images if images.nbytes > RESIDENT_BYTES else images[:]


def picture_files(path: str) -> list[str]:
    """Without hidden ones, as some systems leave beside each file they copy (._a.png)."""
    return [entry.path for entry in entries(path)
            if entry.is_file() and entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".")]


def _turned(picture: Any) -> tuple[int | None, tuple[int, int]]:
    """(the method of `transpose` that sets a picture upright or None, its size then), as a camera has noted it."""
    turn, (width, height) = None, picture.size
    if picture.format != "TIFF" and "exif" in picture.info:  # Pillow turns TIFF's; others' pixels it would decode
        with contextlib.suppress(Exception):  # a broken note: the picture is as it is
            turn = UPRIGHT.get(picture.getexif().get(ORIENTATION))
    return turn, (height, width) if turn is not None and turn not in (0, 1, 3) else (width, height)


def _is_deep(picture: Any) -> bool:
    """Whether the file has more than 8 bits a channel, of which Pillow would drop the lower ones unasked."""
    layout = [tile[3] for tile in picture.tile]  # as RGB;16B, or of a PPM (RGB, 65535)
    if picture.format == "PPM":
        return any(isinstance(args, tuple) and args[-1] > 255 for args in layout)
    return picture.format in ("PNG", "TIFF") and ";16" in str(layout)


def _broken(path: str, error: Exception) -> IoError:
    return IoError(f"[data] {path}: expected a picture, got: {error}")
