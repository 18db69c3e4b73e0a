"""A folder of pictures, read with Pillow."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenflow.data.dataset import Dataset
from evenflow.errors import ConfigError, DataWarning, IoError
from evenflow._border.extras import need
from evenflow._border.rows import Rows, is_large
from evenflow.data.rows import pick

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ico", ".tif", ".tiff", ".tga", ".webp", ".ppm", ".pgm")
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
"""Pillow's names of pictures by their channels."""
GREY, COLOUR = ("1", "L", "LA"), ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
TRAIN, HELD_OUT = ("train",), ("test", "val", "valid", "validation")
"""Names of subfolders that are parts of the data, no classes."""
MANY_PIXELS, PIXELS_A_BYTE = 1 << 25, 64
"""Pixels that a picture of any file may have, and how many more a large file brings: some hundred bytes that say to be
more would take gigabytes."""
DEEPEST = 8
"""Folders below that in which pictures are looked for; a link may lead back up."""
ORIENTATION = 0x0112
# Pillow's methods of `transpose`, by EXIF's orientation.
UPRIGHT = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}

Box = tuple[int, int, int, int]
"""Left, top, right, bottom [pixels]."""


class Pictures(Rows):
    """Picture files, decoded when they are indexed. The headers of all are read at once.

    box: from a picture's width and height to the part of it to take; None: all of it.
    side: of the square that it is resized to, or None; smooth: bicubic, over all pixels that one of the smaller picture
    covers, else `points`. channels: 1 (grey) or 3 (RGB), 2 or 4 with alpha; None: one if all are grey, else three.
    background: the colour that transparent pictures are put on where alpha is not kept; None: white, with a warning.
    Pictures are turned as the camera that took them was held.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, files: Sequence[str], side: int | None = None, box: Callable[[int, int], Box] | None = None,
                 smooth: bool = True, channels: int | None = None, background: str | None = None):
        self._image = need("data", "PIL.Image", "Pillow", "cli")
        try:
            self._ground = need("data", "PIL.ImageColor", "Pillow", "cli").getrgb(
                "white" if background is None else background)[:3]
        except (ValueError, TypeError, AttributeError):
            raise ConfigError(f"[data] background must be a colour, such as 'white' or '#ffffff', not "
                              f"{background!r}") from None
        self.files, self.side, self.box, self.smooth, self.background = list(files), side, box, smooth, background
        self.transparent: set[str] = set()
        """Files that may be transparent; once they are decoded, those that are."""
        shapes = [self._header(file) for file in self.files]
        for file, shape in zip(self.files, shapes):
            if shape[:2] != shapes[0][:2]:
                raise IoError(f"[data] {file}: expected {shapes[0][0]} x {shapes[0][1]} pixels like "
                              f"{self.files[0]}, got {shape[0]} x {shape[1]}; resize all, with size="
                              f"{min(shapes[0][:2])}")
        self.shape = (len(files), *shapes[0][:2], channels or max(shape[2] for shape in shapes))

    def _header(self, path: str) -> tuple[int, int, int]:
        """(height, width, channels) of a picture as it will be read."""
        with self._open(path) as picture:
            mode, (width, height), deep = picture.mode, _turned(picture)[1], _is_deep(picture)
            if _has_alpha(picture):
                self.transparent.add(path)
        if width * height > (most := max(MANY_PIXELS, PIXELS_A_BYTE * os.path.getsize(path))):
            raise IoError(f"[data] {path}: expected at most {most:,} pixels in a file of this size, "
                          f"got {height} x {width}")
        if deep or mode not in (*GREY, *COLOUR):
            raise IoError(f"[data] {path}: expected 8 bits a channel, got {'more' if deep else f'mode {mode}'}")
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

    def _decode(self, path: str) -> NDArray[np.uint8]:
        with self._open(path) as picture:
            turn, size = _turned(picture)
            box, side = self._box(path, *size), self.side
            # Pillow's plug-ins let errors of many kinds through from a broken file.
            try:
                keeps_alpha = self.shape[3] % 2 == 0
                picture = (picture if keeps_alpha else self._opaque(path, picture)).convert(MODES[self.shape[3]])
                picture = (picture if turn is None else picture.transpose(turn)).crop(box)
                if side is not None and self.smooth:
                    picture = picture.resize((side, side), self._image.Resampling.BICUBIC)
                pixels = np.asarray(picture)
                if side is not None and not self.smooth:
                    pixels = points(pixels, side)
            except Exception as error:
                raise _broken(path, error) from error
        if pixels.shape[:2] != self.shape[1:3]:
            raise IoError(f"[data] {path}: expected {self.shape[1]} x {self.shape[2]} pixels as before, "
                          f"got {pixels.shape[0]} x {pixels.shape[1]}")
        return pixels[..., None] if pixels.ndim == 2 else pixels

    def _opaque(self, path: str, picture: Any) -> Any:
        """The picture on the background, if parts of it are transparent."""
        if not _has_alpha(picture):
            return picture
        layer = picture.convert("RGBA")
        if layer.getchannel("A").getextrema() == (255, 255):
            self.transparent.discard(path)
            return picture
        return self._image.alpha_composite(self._image.new("RGBA", layer.size, self._ground), layer)

    def decoded(self) -> np.ndarray | Rows:
        """The pixels, if they are not too large for memory. Warns of transparent pictures."""
        pixels = self if is_large(self.nbytes) else self[:]
        if self.transparent and self.background is None and self.shape[3] % 2:
            what = "possibly transparent" if pixels is self else "transparent"
            warnings.warn(f"[data] {what} pictures: {len(self.transparent)} of {len(self)}, such as "
                          f"{min(self.transparent)}; transparent pixels become white, unless you choose a background",
                          DataWarning, stacklevel=4)
        return pixels


def points(pixels: np.ndarray, side: int) -> NDArray[np.uint8]:
    """(H, W, ...) uint8 at side x side points, between the four pixels around each and rounded.

    This is TensorFlow 1's bilinear resize_images, which smooths nothing that it shrinks.
    """
    out = pixels.astype(np.float64)
    for axis, length in enumerate(pixels.shape[:2]):
        at = np.arange(side) * (length / side)
        low = at.astype(np.intp)
        share = np.expand_dims(at - low, tuple(d for d in range(out.ndim) if d != axis))
        below, above = out.take(low, axis), out.take(np.minimum(low + 1, length - 1), axis)
        out = below + share * (above - below)
    return np.rint(out).astype(np.uint8)


def read_folder(path: str, size: int | None = None, crop: int | None = None, channels: int | None = None,
                background: str | None = None) -> Dataset:
    """All pictures of a folder, as docs/data.md describes it; arguments as in `evenflow.data.load`."""
    found = _pictures(path)
    if not found:
        raise IoError(f"[data] {path}: there are no pictures ({', '.join(SUFFIXES)})")
    train, test = ([p for p in found if len(p) > 1 and p[0].lower() in names] for names in (TRAIN, HELD_OUT))
    parts, depth = ([train, test], 1) if train and test else ([found], 0)
    for picture in found:
        if depth and (len(picture) == 1 or picture[0].lower() not in (*TRAIN, *HELD_OUT)):
            raise IoError(f"[data] {os.path.join(path, *picture)}: this picture is beside {train[0][0]} and "
                          f"{test[0][0]}, which are the parts of the data; move it into one of them")
    named = [_classes(path, part, depth) for part in parts]
    classes = sorted({name for names in named for name in names if name is not None} if named[0][0] is not None else ())
    number = {name: i for i, name in enumerate(classes)}
    labels = [np.array([number[n] for n in names if n in number], np.int32) for names in named]
    kept = [y if len(y) == len(names) else None for y, names in zip(labels, named)]
    box = None if size is None and crop is None else lambda w, h: middle(w, h, crop or min(w, h))
    pixels = Pictures([os.path.join(path, *picture) for part in parts for picture in part], size, box,
                      channels=channels, background=background).decoded()
    if not depth:
        return Dataset(pixels, kind="image", train_labels=kept[0], classes=classes)
    train_rows, test_rows = np.split(np.arange(len(pixels)), [len(train)])
    return Dataset(pick(pixels, train_rows), pick(pixels, test_rows), "image", kept[0], kept[1], classes=classes)


def _pictures(path: str) -> list[tuple[str, ...]]:
    """The pictures in a folder and below it, sorted: the names of the folders that each is in, and its own.

    Without hidden ones, as programs and systems leave behind (.ipynb_checkpoints, ._a.png).
    """
    def refuse(error: OSError) -> None:
        raise IoError(f"[data] {error.filename}: this folder can't be read: {error}") from error

    found = []
    for folder, names, files in os.walk(path, onerror=refuse, followlinks=True):
        above = Path(folder).relative_to(path).parts
        names[:] = [name for name in names if not name.startswith(".") and len(above) < DEEPEST]
        found += [(*above, file) for file in files if file.lower().endswith(SUFFIXES) and not file.startswith(".")]
    return sorted(found)


def _classes(path: str, part: list[tuple[str, ...]], depth: int) -> list[str | None]:
    """Of each picture, the class: the folder that it is in, below `depth` others; None: it is in no other."""
    for picture in part:
        if len(picture) - depth > 2:
            raise IoError(f"[data] {os.path.join(path, *picture)}: the pictures of a class must be in its folder "
                          f"{picture[depth]}, not in a subfolder of it")
    for beside in (picture for picture in part if len(picture) - depth == 1):
        for other in (picture for picture in part if len(picture) - depth == 2):
            raise IoError(f"[data] {os.path.join(path, *beside)}: this picture has no class, but "
                          f"{os.path.join(*other)} has one; move all pictures into subfolders, which are classes, or "
                          "none")
    return [picture[depth] if len(picture) - depth == 2 else None for picture in part]


def middle(width: int, height: int, side: int) -> Box:
    """The square of a side in the middle of a picture."""
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def _turned(picture: Any) -> tuple[int | None, tuple[int, int]]:
    """(the method of `transpose` that sets a picture upright or None, its size then), as a camera has noted it."""
    turn, (width, height) = None, picture.size
    if picture.format != "TIFF" and "exif" in picture.info:  # Pillow turns TIFF's; others' pixels it would decode
        with contextlib.suppress(Exception):  # a broken note: the picture is as it is
            turn = UPRIGHT.get(picture.getexif().get(ORIENTATION))
    return turn, (height, width) if turn is not None and turn not in (0, 1, 3) else (width, height)


def _has_alpha(picture: Any) -> bool:
    return picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info


def _is_deep(picture: Any) -> bool:
    """Whether the file has more than 8 bits a channel, of which Pillow would drop the lower ones unasked."""
    layout = [tile[3] for tile in picture.tile]  # as RGB;16B, or of a PPM (RGB, 65535)
    if picture.format == "PPM":
        return any(isinstance(args, tuple) and args[-1] > 255 for args in layout)
    return picture.format in ("PNG", "TIFF") and ";16" in str(layout)


def _broken(path: str, error: Exception) -> IoError:
    why = str(error).replace(repr(path), "it")
    return IoError(f"[data] {path}: this picture can't be read: {why}; remove or replace it")
