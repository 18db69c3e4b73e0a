"""Random changes of images that keep what they show, new in every epoch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from evenflow import arrays
from evenflow.errors import ConfigError
from evenflow.rows import scramble

DRAWS = 8


@dataclass(frozen=True)
class Augment:
    """Shifts, flips, rotations, zooms and shears, each drawn uniformly for every image.

    What happens to an image depends on the seed, the epoch and the image's number alone. Every pixel is
    copied from the nearest one, so levels stay levels; beyond the edge the last pixel repeats. The same
    transforms as in Glow's code (Keras' ImageDataGenerator).
    """

    shift: float = 0.0
    """Largest shift each way, as a fraction of height and width."""
    flip: bool = False
    """Left and right changed over in half of the images."""
    rotation: float = 0.0
    """Largest angle each way [degrees]."""
    zoom: float = 0.0
    """Largest change of height and width, each drawn alone, as a fraction."""
    shear: float = 0.0
    """Largest shear angle each way [radians]."""

    def __post_init__(self) -> None:
        if not isinstance(self.flip, bool):
            raise TypeError(f"[augment] expected True or False for flip, got {self.flip!r}")
        for name, high in (("shift", 1.0), ("rotation", 180.0), ("zoom", 0.9), ("shear", 1.5)):
            arrays.number("augment", name, getattr(self, name), 0.0, high)
            object.__setattr__(self, name, arrays.plain(getattr(self, name)))

    @staticmethod
    def level(level: int) -> Augment:
        """Glow's levels: 0 nothing; 1 shifts of 10 % (MNIST); 2 also flips, 15 degrees, zoom 10 %, shear."""
        if arrays.whole("augment", "level", level, low=0) > 2:
            raise ConfigError(f"[augment] expected a level in 0 ... 2, got {level}")
        return (Augment(), Augment(shift=0.1),
                Augment(shift=0.1, flip=True, rotation=15.0, zoom=0.1, shear=0.02))[level]

    @staticmethod
    def of(value: Augment | dict[str, Any] | None) -> Augment | None:
        """From the dict that `dataclasses.asdict` makes of one. ConfigError names an unknown setting."""
        if value is None or isinstance(value, Augment):
            return value
        if not isinstance(value, dict):
            raise TypeError(f"[augment] expected an Augment, a dict or None, got {value!r}")
        known = [f.name for f in dataclasses.fields(Augment)]
        unknown = sorted(set(value) - set(known))
        if unknown:
            raise ConfigError(f"[augment] expected {', '.join(known)}, got {unknown[0]}")
        return Augment(**value)

    def __call__(self, images: np.ndarray, seed: int, epoch: int, index: np.ndarray) -> np.ndarray:
        """Changed copies of images (n, H, W, C); index: their n numbers in the data set."""
        n, height, width, _ = images.shape
        u = 2 * uniforms(seed, epoch, index) - 1
        y, x = np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2
        x = np.where(self.flip & (u[:, :1] < 0), -x, x)
        # From a pixel of the result, zoom, shear, shift and rotate to where it is copied from.
        y, x = (1 + self.zoom * u[:, 1:2]) * y, (1 + self.zoom * u[:, 2:3]) * x
        angle, turn = self.shear * u[:, 3, None, None], np.deg2rad(self.rotation) * u[:, 4, None, None]
        y, x = y[:, :, None] - np.sin(angle) * x[:, None, :], np.cos(angle) * x[:, None, :]
        y, x = y + self.shift * height * u[:, 5, None, None], x + self.shift * width * u[:, 6, None, None]
        y, x = np.cos(turn) * y - np.sin(turn) * x, np.sin(turn) * y + np.cos(turn) * x
        return np.asarray(images[np.arange(n)[:, None, None], _nearest(y, height), _nearest(x, width)])


def uniforms(seed: int, epoch: int, index: np.ndarray) -> np.ndarray:
    """(n, DRAWS) numbers in [0, 1) that depend on (seed, epoch, index[i]) alone."""
    key = np.random.SeedSequence([seed, epoch, DRAWS]).generate_state(2, np.uint64)
    count = index.astype(np.uint64)[:, None] * np.uint64(DRAWS) + np.arange(DRAWS, dtype=np.uint64)
    return np.asarray((scramble(scramble(count ^ key[0]) + key[1]) >> np.uint64(11)) * 2.0**-53)


def _nearest(place: np.ndarray, size: int) -> np.ndarray:
    """Numbers of the pixels at places that are counted from the middle."""
    # A thousandth of a pixel keeps halves, where flips and odd shifts fall, away from the rounding's edge.
    return np.clip(np.floor(place + (size / 2 + 1e-3)), 0, size - 1).astype(np.intp)
