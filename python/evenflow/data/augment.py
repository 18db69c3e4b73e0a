"""Random changes of images that keep what they show, new in every epoch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenflow._border import checks
from evenflow.errors import ConfigError
from evenflow.data.dataset import said

DRAWS = 8
LARGEST = {"shift": 1.0, "rotation": 180.0, "zoom": 0.9, "shear": 1.5}


@dataclass(frozen=True)
class Augment:
    """Shifts, flips, rotations, zooms and shears, each drawn uniformly for every image.

    What happens to an image depends on the seed, the epoch and the image's number alone. Every pixel is copied from the
    nearest one, so levels stay levels; beyond the edge the last pixel repeats. The transforms are those of Glow's code
    (Keras' ImageDataGenerator), whose level 1 is a shift of 0.1, and level 2 also flip, a rotation of 15, a zoom of 0.1
    and a shear of 0.02.

    Parameters
    ----------
    shift : float
        Largest shift each way, as a fraction of height and width.
    flip : bool
        Mirror half of the images, left to right.
    rotation : float
        Largest angle each way [degrees].
    zoom : float
        Largest change of height and of width, each drawn separately, as a fraction.
    shear : float
        Largest shear angle each way [radians].

    Raises
    ------
    ConfigError
        If a number is negative or too large.

    Examples
    --------
    >>> import numpy as np
    >>> images = np.zeros((5, 8, 8, 1), np.uint8)
    >>> Augment(shift=0.1, flip=True)(images, seed=0, epoch=0, index=np.arange(5)).shape
    (5, 8, 8, 1)
    """

    shift: float = said(0.0, "images: largest shift, as a fraction of height and width")
    flip: bool = said(False, "images: half of them are mirrored in training")
    rotation: float = said(0.0, "images: largest angle, degrees")
    zoom: float = said(0.0, "images: largest change of size, as a fraction")
    shear: float = said(0.0, "images: largest shear angle, radians")

    def __post_init__(self) -> None:
        if not isinstance(self.flip, bool):
            raise TypeError(f"[augment] expected True or False for flip, got {self.flip!r}")
        for name, high in LARGEST.items():
            object.__setattr__(self, name, checks.number("augment", name, getattr(self, name), 0.0, high))

    @staticmethod
    def of(value: Augment | dict[str, Any] | None) -> Augment | None:
        """From the dict that `dataclasses.asdict` makes of one, as settings hold it."""
        if value is None or isinstance(value, Augment):
            return value
        if not isinstance(value, dict):
            raise TypeError(f"[augment] expected an Augment, a dict or None, got {value!r}")
        known = [f.name for f in dataclasses.fields(Augment)]
        for name in value:
            if name not in known:
                raise ConfigError(f"[augment] there is no setting {name!r}; the settings are {', '.join(known)}")
        return Augment(**value)

    def __call__(self, images: NDArray[np.uint8], seed: int, epoch: int,
                 index: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """Change images.

        Parameters
        ----------
        images : ndarray (n, H, W, C) of uint8
            They stay as they are.
        seed, epoch : int
            What to draw.
        index : ndarray (n,) of int
            The images' numbers in the data set.

        Returns
        -------
        ndarray (n, H, W, C) of uint8
            Changed copies.
        """
        n, height, width, _ = images.shape
        u = 2 * _uniforms(seed, epoch, index) - 1
        y, x = np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2
        x = np.where(self.flip & (u[:, :1] < 0), -x, x)
        # From a pixel of the result, zoom, shear, shift and rotate to where it is copied from.
        y, x = (1 + self.zoom * u[:, 1:2]) * y, (1 + self.zoom * u[:, 2:3]) * x
        angle, turn = self.shear * u[:, 3, None, None], np.deg2rad(self.rotation) * u[:, 4, None, None]
        y, x = y[:, :, None] - np.sin(angle) * x[:, None, :], np.cos(angle) * x[:, None, :]
        y, x = y + self.shift * height * u[:, 5, None, None], x + self.shift * width * u[:, 6, None, None]
        y, x = np.cos(turn) * y - np.sin(turn) * x, np.sin(turn) * y + np.cos(turn) * x
        return images[np.arange(n)[:, None, None], _nearest(y, height), _nearest(x, width)]


def _uniforms(seed: int, epoch: int, index: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """(n, DRAWS) numbers in [0, 1) that depend on (seed, epoch, index[i]) alone."""
    key = np.random.SeedSequence([seed, epoch, DRAWS]).generate_state(2, np.uint64)
    count = index.astype(np.uint64)[:, None] * np.uint64(DRAWS) + np.arange(DRAWS, dtype=np.uint64)
    return np.asarray((_scramble(_scramble(count ^ key[0]) + key[1]) >> np.uint64(11)) * 2.0**-53)


def _scramble(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A hash of 64-bit numbers, one to one (the last step of SplitMix64; Steele, Lea, Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def _nearest(place: NDArray[np.float64], size: int) -> NDArray[np.intp]:
    """Numbers of the pixels at places that are counted from the middle."""
    # A thousandth of a pixel keeps halves, where flips and odd shifts fall, away from the rounding's edge.
    return np.clip(np.floor(place + (size / 2 + 1e-3)), 0, size - 1).astype(np.intp)
