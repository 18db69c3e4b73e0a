"""A folder of pictures, read with Pillow."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evenflow._border.extras import need
from evenflow._border.rows import Rows, is_large
from evenflow.data.dataset import Dataset, reading
from evenflow.data.rows import pick
from evenflow.errors import ConfigError, IoError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ico", ".tif", ".tiff", ".tga", ".webp", ".ppm", ".pgm")
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
"""Pillow's names of pictures by their channels."""
GREY, COLOUR = ("1", "L", "LA"), ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
TRAIN, HELD_OUT = ("train",), ("test", "val", "valid", "validation")
"""Names of subfolders that are parts of the data, no classes."""
Box = tuple[int, int, int, int]
"""Left, top, right, bottom [pixels]."""


class Pictures(Rows):
    """Picture files, decoded when they are indexed. They have the size and the channels of the first.

    box: from a picture's width and height to the part of it to take; None: all of it.
    side: of the square that it is resized to, or None; smooth: bicubic, over all pixels that one of the smaller picture
    covers, else `points`. channels: 1 (grey) or 3 (RGB), 2 or 4 with alpha; None: one if the first is grey, else three.
    background: the colour that transparent pictures are put on where alpha is not kept.
    Pictures are turned as the camera that took them was held.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, files: Sequence[str], side: int | None = None, box: Callable[[int, int], Box] | None = None,
                 smooth: bool = True, channels: int | None = None, background: str | None = None):
        self._image, self._upright, colours = (need("data", f"PIL.{name}", "Pillow", "cli") for name in (
            "Image", "ImageOps", "ImageColor"))
        try:
            self._ground = colours.getrgb(background or "white")[:3]
        except (ValueError, TypeError, AttributeError):
            raise ConfigError(f"[data] background must be a colour, such as 'white' or '#ffffff', not "
                              f"{background!r}") from None
        self.files, self.side, self.box, self.smooth = list(files), side, box, smooth
        with reading(files[0], "picture"), self._image.open(files[0]) as first:
            self.channels = channels or (1 if first.mode in GREY else 3)
        self.turns_grey = channels == 1
        self.shape = (len(files), *self._decode(files[0]).shape)

    def _read(self, index: slice | np.ndarray) -> np.ndarray:
        rows = range(len(self))[index] if isinstance(index, slice) else index
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for place, row in enumerate(rows):
            pixels = self._decode(self.files[row])
            if pixels.shape != self.shape[1:]:
                raise IoError(f"[data] {self.files[row]}: expected {self.shape[1]} x {self.shape[2]} pixels as in "
                              f"{self.files[0]}, got {pixels.shape[0]} x {pixels.shape[1]}; resize all, with size=")
            out[place] = pixels
        return out

    def _decode(self, path: str) -> NDArray[np.uint8]:
        """(H, W, C)."""
        with reading(path, "picture"), self._image.open(path) as file:
            if file.mode not in (*GREY, *COLOUR):
                raise ValueError(f"expected 8 bits a channel, got mode {file.mode}")
            if self.channels == 1 and file.mode not in GREY and not self.turns_grey:
                raise ValueError(f"expected a grey picture as {self.files[0]}, got one in colour; choose channels")
            picture = self._upright.exif_transpose(file)
            if self.channels % 2 and (picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info):
                ground = self._image.new("RGBA", picture.size, self._ground)
                picture = self._image.alpha_composite(ground, picture.convert("RGBA"))
            picture = picture.convert(MODES[self.channels])
            if self.box is not None:
                box = self.box(*picture.size)
                if min(box) < 0:
                    raise ValueError(f"expected at least {box[3] - box[1]} x {box[2] - box[0]} pixels to crop, "
                                     f"got {picture.height} x {picture.width}")
                picture = picture.crop(box)
            if self.side is not None and self.smooth:
                picture = picture.resize((self.side, self.side), self._image.Resampling.BICUBIC)
            pixels = np.atleast_3d(np.asarray(picture))
            return pixels if self.side is None or self.smooth else points(pixels, self.side)


def pictures(files: Sequence[str], side: int | None, box: Callable[[int, int], Box] | None, smooth: bool = True,
             channels: int | None = None, background: str | None = None) -> np.ndarray | Rows:
    """`Pictures`, decoded if they are not too large for memory."""
    found = Pictures(files, side, box, smooth, channels, background)
    return found if is_large(found.nbytes) else found[:]


def points(pixels: np.ndarray, side: int) -> NDArray[np.uint8]:
    """(H, W, C) uint8 at side x side points, between the four pixels around each and rounded.

    This is TensorFlow 1's bilinear resize_images, which smooths nothing that it shrinks.
    """
    out = pixels.astype(np.float64)
    for axis, length in enumerate(pixels.shape[:2]):
        at = np.arange(side) * (length / side)
        low = at.astype(np.intp)
        share = np.expand_dims(at - low, (1 - axis, 2))
        below, above = out.take(low, axis), out.take(np.minimum(low + 1, length - 1), axis)
        out = below + share * (above - below)
    return np.rint(out).astype(np.uint8)


def middle(width: int, height: int, side: int) -> Box:
    """The square of a side in the middle of a picture."""
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def read_folder(path: str, size: int | None = None, crop: int | None = None, channels: int | None = None,
                background: str | None = None) -> Dataset:
    """All pictures of a folder, as "Data" in the documentation says; arguments as in `evenflow.data.load`."""
    found = _found(path)
    parts = [[names for names in found if len(names) > 1 and names[0].lower() in known] for known in (TRAIN, HELD_OUT)]
    above = 1  # folders above those of classes
    if not all(parts):
        parts, above = [found], 0
    for names in sorted(set(found).difference(*parts)):
        raise IoError(f"[data] {os.path.join(path, *names)}: this picture is beside the parts of the data, "
                      f"{parts[0][0][0]} and {parts[1][0][0]}; move it into one of them")
    for part in parts:
        if {len(names) - above for names in part} not in ({1}, {2}):
            least, most = (os.path.join(path, *choose(part, key=len)) for choose in (min, max))
            raise IoError(f"[data] {path}: expected the pictures of a part in folders that are classes, or none in a "
                          f"folder, got {least} and {most}")
    classed = [part for part in parts if len(part[0]) - above == 2]
    classes = sorted({names[above] for part in classed for names in part})
    number = {name: place for place, name in enumerate(classes)}
    labels = [np.array([number[names[above]] for names in part], np.int32) if part in classed else None
              for part in parts]
    box = None if size is None and crop is None else lambda width, height: middle(
        width, height, crop or min(width, height))
    files = [os.path.join(path, *names) for part in parts for names in part]
    pixels = pictures(files, size, box, channels=channels, background=background)
    if not above:
        return Dataset(pixels, kind="image", train_labels=labels[0], classes=classes)
    train, test = np.split(np.arange(len(pixels)), [len(parts[0])])
    return Dataset(pick(pixels, train), pick(pixels, test), "image", labels[0], labels[1], classes=classes)


def _found(path: str) -> list[tuple[str, ...]]:
    """The pictures in a folder and below it, sorted: the names of the folders that each is in, and its own.

    Without hidden ones, as programs and systems leave behind (.ipynb_checkpoints, ._a.png). IoError if there are none.
    """
    root, levels = Path(path), ["/".join(["[!.]*"] * depth) for depth in range(1, 9)]
    found = [file.relative_to(root).parts for level in levels for file in root.glob(level)
             if file.name.lower().endswith(SUFFIXES)]
    if not found:
        raise IoError(f"[data] {path}: there are no pictures ({', '.join(SUFFIXES)})")
    return sorted(found)
