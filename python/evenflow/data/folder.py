"""A folder of pictures, read with Pillow."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from evenflow import arrays
from evenflow.data.dataset import Dataset, entries
from evenflow.errors import IoError
from evenflow.extras import need
from evenflow.rows import RESIDENT_BYTES, Rows

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
GREY, COLOUR = ("1", "L", "LA"), ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")

Box = tuple[int, int, int, int]


class Pictures(Rows):
    """Picture files, decoded when they are indexed. The headers of all are read at once.

    box: the part (left, top, right, bottom) to take of a picture of (width, height), or None for all of it.
    side: of the square that it is resized to, or None; smooth: bicubic, over all pixels that one of the
    smaller picture covers, else `points`. Grey pictures give one channel if all are grey, else everything is
    RGB. IoError names the file that can't be read or whose size differs from the first's.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, files: Sequence[str], side: int | None, box: Callable[[int, int], Box] | None = None,
                 smooth: bool = True):
        self._image = need("data", "PIL.Image", "Pillow", "cli")
        self._bicubic = getattr(self._image, "Resampling", self._image).BICUBIC  # before Pillow 9.1
        self.files, self.side, self.box, self.smooth = list(files), side, box, smooth
        shapes = [self._header(file) for file in self.files]
        for file, shape in zip(self.files, shapes):
            if shape[:2] != shapes[0][:2]:
                raise IoError(f"[data] {file}: expected {shapes[0][0]} x {shapes[0][1]} pixels like "
                              f"{self.files[0]}, got {shape[0]} x {shape[1]} (size=... makes them equal)")
        self.shape = (len(files), *shapes[0][:2], max(shape[2] for shape in shapes))

    def _header(self, path: str) -> tuple[int, int, int]:
        """(height, width, channels) of a picture as it will be read."""
        picture = self._open(path)
        with picture:
            mode, (width, height), deep = picture.mode, picture.size, _is_deep(picture)
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
            box = self._box(path, *picture.size)
            side = self.side
            # Pillow's plug-ins let errors of many kinds through from a broken file.
            try:
                picture = picture.convert("L" if self.shape[3] == 1 else "RGB").crop(box)
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


def read_folder(path: str | os.PathLike[str], size: int | None = None, crop: int | None = None) -> Dataset:
    """All pictures of a folder, sorted by name; subfolders are classes and give their pictures' labels.

    Pictures beside them would have none: IoError. Subfolders without pictures are no classes, nor are hidden ones, as
    programs leave behind (.ipynb_checkpoints).

    size: side of the squares that pictures are resized to (bicubic); None: all must have one size. crop: side
    of the square that is taken out of the middle before; None: with size the largest, else all. Grey pictures
    give one channel if all are grey, else everything is RGB. More than 256 MiB of pixels are decoded while
    they are used. IoError for a picture that can't be read; MissingExtra without Pillow.
    """
    path = arrays.file_name("data", path)
    for name, value in (("size", size), ("crop", crop)):
        if value is not None:
            arrays.whole("data", name, value, low=1)
    classes = {entry.name: found for entry in entries(path) if entry.is_dir() and not entry.name.startswith(".")
               and (found := picture_files(entry.path))}
    files = [(file, label) for label, found in enumerate(classes.values()) for file in found]
    beside = picture_files(path)
    if files and beside:
        raise IoError(f"[data] {path}: expected pictures in subfolders, which are classes, or none there, "
                      f"got {beside[0]} beside {files[0][0]}")
    files = files or [(file, 0) for file in beside]
    if not files:
        raise IoError(f"[data] {path}: expected pictures ({', '.join(SUFFIXES)}), got none")
    box = None if size is None and crop is None else lambda w, h: middle(w, h, crop or min(w, h))
    images = resident(Pictures([file for file, _ in files], size, box))
    labels = np.array([label for _, label in files], np.int32) if classes else None
    return Dataset(images, kind="image", train_labels=labels, classes=list(classes))


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


def _is_deep(picture: Any) -> bool:
    """Whether the file has more than 8 bits a channel, of which Pillow would drop the lower ones unasked."""
    layout = [tile[3] for tile in picture.tile]  # as RGB;16B, or of a PPM (RGB, 65535)
    if picture.format == "PPM":
        return any(isinstance(args, tuple) and args[-1] > 255 for args in layout)
    return picture.format in ("PNG", "TIFF") and ";16" in str(layout)


def _broken(path: str, error: Exception) -> IoError:
    return IoError(f"[data] {path}: expected a picture, got: {error}")
