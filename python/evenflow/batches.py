"""How a flow takes batches, and what its density is given: checked, in the core's form."""

from __future__ import annotations

import math
from typing import Any
from collections.abc import Iterator

import numpy as np

from evenflow import _core, arrays
from evenflow._core import DeviceArray
from evenflow.arrays import Batch
from evenflow.errors import ConfigError

# Inference runs over blocks of about this many values, so that its memory does not grow with N.
BLOCK_VALUES = 1 << 22


class Batches:
    """The core of a flow, and the batches of its calls."""

    def __init__(self, core: _core.Flow32 | _core.Flow64, is_image: bool, bits: int | None):
        self._core = core
        # Every call asks for these, and for one row asking the core would take longer than the products.
        self._dtype, self._dims = np.dtype(core.dtype), core.dims
        self._classes, self._context = core.classes, core.context
        self._device = core.device
        self._is_image, self._bits = is_image, bits or 0
        self._shape: tuple[int, ...] = core.sample_shape if is_image else (self._dims,)
        # A net of images sees the context at every pixel.
        self._context_values = self._context * math.prod(self._shape[:-1])

    def _check(self, where: str, x: Any) -> np.ndarray:
        """Data for a call that computes with numpy too."""
        return arrays.check_batch(where, x, self._shape, uint8=self._is_image)

    def _take(self, where: str, x: Any) -> Batch:
        return arrays.take_batch(where, x, self._shape, self._dtype, self._device, uint8=self._is_image)

    def _take_floats(self, where: str, x: Any, shape: tuple[int, ...], dtype: np.dtype | None = None) -> Batch:
        return arrays.take_batch(where, x, shape, self._dtype if dtype is None else dtype, self._device)

    def _given(self, where: str, label: Any, context: Any, n: int, *, on_host: bool = False,
               resolve: bool = False, first: int = 0) -> Any:
        """What the density of n samples is conditioned on, checked: labels (n,) or a context (n, C), if any.

        on_host: a context is in main memory, as the rest of a training's data. resolve: see arrays.take_context.
        first: number of the first sample, for errors of data in pieces.
        """
        if self._context:
            arrays.check_labels(where, label, n, 0)
            device = "cpu" if on_host else self._device
            taken = arrays.take_context(where, context, n, self._context, self._dtype, device, resolve, first)
            return self._floats(f"{where}, context", taken, first=first) if isinstance(taken, DeviceArray) else taken
        if context is not None:
            raise ConfigError(f"[{where}] expected no context, since the model has none, got one")
        return arrays.check_labels(where, label, n, self._classes, first)

    def _by_name(self, given: Batch | None) -> dict[str, Any]:
        """_given's result as an argument of this class's calls."""
        return {"context" if self._context else "label": given}

    def _conditions(self, given: Any) -> dict[str, Any]:
        """What rows of a file come with, as an argument of this class's calls; labels are left out that the model
        has no use for."""
        return self._by_name(given if self._context or self._classes else None)

    def _place(self, where: str, dcontext: Batch | None, n: int) -> Batch | None:
        """dcontext, where the gradient by the context may be written to it."""
        if dcontext is None:
            return None
        if not self._context:
            raise ConfigError(f"[{where}] expected no dcontext, since the model has no context, got one")
        if isinstance(dcontext, DeviceArray):
            fits = dcontext.shape == (n, self._context) and dcontext.dtype == self._dtype
        else:
            fits = (isinstance(dcontext, np.ndarray) and dcontext.dtype == self._dtype
                    and dcontext.shape == (n, self._context) and dcontext.flags.carray)
        if not fits:
            raise TypeError(f"[{where}] expected dcontext to be a writable, C-contiguous array {(n, self._context)} "
                            f"of {self._dtype}, got {type(dcontext).__name__} {np.shape(dcontext)} of "
                            f"{getattr(dcontext, 'dtype', 'no dtype')}")
        return dcontext

    def _in_one_block(self, x: Batch) -> bool:
        return bool(x.size <= BLOCK_VALUES and len(x) * self._context_values <= BLOCK_VALUES)

    def _blocks(self, n: int) -> Iterator[tuple[int, int]]:
        size = max(1, BLOCK_VALUES // max(self._dims, self._context_values))
        for a in range(0, n, size):
            yield a, min(n, a + size)

    def _empty(self, like: Batch, shape: tuple[int, ...] = (), dtype: np.dtype | None = None) -> Batch:
        """For results (N, *shape) of the model's dtype: where `like` (N, ...) lies."""
        device = like.device if isinstance(like, DeviceArray) else "cpu"
        return arrays.empty(device, (len(like), *shape), self._dtype if dtype is None else dtype)

    def _block(self, where: str, x: Batch, a: int, b: int, seed: int | None = None, first: int = 0) -> Any:
        """Rows [a, b) as floats; seed None: whole levels, no noise."""
        if x.dtype != np.uint8:
            return self._floats(where, x, a, b, first)
        part = x[a:b] if isinstance(x, DeviceArray) else np.ascontiguousarray(x[a:b])
        levels = self._empty(part, self._shape)
        self._core.dequantize(part, self._bits, seed, first + a, levels)
        return levels

    def _floats(self, where: str, x: Batch, a: int = 0, b: int | None = None, first: int = 0,
                dtype: np.dtype | None = None) -> Any:
        """Rows [a, b) of floats as the core takes them. NumericError names the first that is not finite."""
        part = x[a:b]
        if not isinstance(part, DeviceArray):
            return arrays.to_floats(where, part, self._dtype if dtype is None else dtype, first=first + a)
        at = self._core.first_not_finite(part)
        if at >= 0:
            row, *place = (int(i) for i in np.unravel_index(at, part.shape))
            value = np.asarray(part[row:row + 1])[(0, *place)]
            raise arrays.not_finite(where, value, first + a + row, place, part.dtype)
        return part


def rows_of(given: Batch | None, a: int, b: int) -> Batch | None:
    """Rows [a, b) of labels or a context, if there are any."""
    return None if given is None else given[a:b]
