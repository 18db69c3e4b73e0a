"""Density: the compiled core of a flow, with every argument checked and every array in the form the core takes."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from evenflow import _core
from evenflow._border import arrays, checks
from evenflow._core import DeviceArray
from evenflow._border.batch import Batch
from evenflow._border.arrays import Taken
from evenflow._border.bounds import Box, Pairs
from evenflow.errors import ConfigError, DeviceError, NumericError, ShapeError, warn, wrong
from evenflow._border.extras import need
from evenflow._border.rows import Rows
from evenflow._border.weights import check_weights

Array = Any
"""A result: numpy.ndarray, or DeviceArray if the call's first array was on the GPU."""

DOUBLE = np.dtype(np.float64)

DRIFT = {"float32": 1e-3, "float64": 1e-8}
"""Largest error of a row that backward rebuilds, relative to its largest value, or to 1."""

BLOCK_VALUES, FIRST_VALUES = 1 << 22, 1 << 16
"""Largest and first number of values in a block of a call. Memory doesn't grow with N, and Ctrl-C ends a call between
two blocks."""
BLOCK_SECONDS = 0.2
"""After a block that took longer the next is half as large, else twice. A row's bits don't depend on its block."""

LAST = 2**62
"""Largest number of a first row: rows after it have numbers, too."""
ATTEMPTS = 10
"""Draws in the place of a sample that is not finite."""
CALLS = "calls"
"""Name in a state_dict: how many training calls have drawn noise."""


class Words(str):
    """A text that a notebook shows as it is printed."""

    __slots__ = ()
    __repr__ = str.__str__


class Density:
    """What `Flow` computes: densities, latents, samples and gradients. `Flow` adds training and files."""

    def __init__(self, core: _core.Flow32 | _core.Flow64):
        self._core = core
        self._config: dict[str, Any] = json.loads(core.config)
        self._is_image = isinstance(self._config["shape"], list)
        self._bits = int(self._config.get("bits", 0))
        # Every call needs these, and for one row asking the core would take longer than the products.
        self._dtype, self._dims = np.dtype(core.dtype), core.dims
        self._classes, self._context = core.classes, core.context
        self._device = core.device
        self._shape: tuple[int, ...] = core.sample_shape if self._is_image else (self._dims,)
        # A net of images sees the context at every pixel.
        self._context_values = self._context * math.prod(self._shape[:-1])
        self._calls = 0  # training calls that have drawn noise
        self._names: dict[str, list[str]] = {}  # columns of "x" and "context", if a data frame initialised the flow
        places = [(at, at + size) for _, _, group, at, size in core.entries() if group == "stats"]  # next to each other
        self._statistics = slice(min(places, default=(0, 0))[0], max(places, default=(0, 0))[1])
        self.last_step: dict[str, Any] = {}
        """Results of the last loss_and_grad or train_step.

        loss, nll, class_nll, class_error: means over the batch, in nats. drift: error of the rebuilt batch, relative
        to the largest value of the row. fallback: whether the step was repeated from checkpoints for that reason; then
        drift_layer is the layer whose own inverse was least accurate, and drift_in_layer its error. train_step adds
        grad_norm, before clipping.
        """
        self._made = frozenset({*vars(self), "_made"} - {"_names", "_calls"})

    # What the model is

    @property
    def config(self) -> dict[str, Any]:
        """The model's name and all its settings, as its file holds them; a copy."""
        return copy.deepcopy(self._config)

    @property
    def dtype(self) -> np.dtype:
        """float32 or float64."""
        return self._dtype

    @property
    def device(self) -> str:
        """Where the model computes: "cpu" or "cuda"."""
        return self._device

    @property
    def is_image(self) -> bool:
        """Whether a sample is an image (H, W, C) in level units, rather than a row of a table."""
        return self._is_image

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample: (H, W, C) or (D,)."""
        return self._shape

    @property
    def dims(self) -> int:
        """Number of values in a sample, D."""
        return self._dims

    @property
    def bits(self) -> int:
        """Bits per channel of an image; its levels are 0 ... 2^bits - 1."""
        if not self._is_image:
            raise ConfigError("[bits] this model is for tables; only images have bits")
        return self._bits

    @property
    def classes(self) -> int:
        """Number of classes that the density is conditioned on; 0 if none."""
        return self._classes

    @property
    def context(self) -> int:
        """Number of context values that the density is conditioned on, C; 0 if none."""
        return self._context

    @property
    def columns(self) -> list[str] | None:
        """Names of the columns, if a data frame initialised the flow; else None."""
        return list(self._names["x"]) if "x" in self._names else None

    @property
    def initialized(self) -> bool:
        """Whether `init` has run. Before, calls that compute with the model raise ConfigError."""
        return self._core.initialized

    # Parameters

    @property
    def params(self) -> np.ndarray:
        """The trained values, flat: a writable view of the model. Gaps between tensors are zero."""
        return self._core.params

    @property
    def grads(self) -> np.ndarray:
        """Gradients of the trained values, laid out like `params`: a writable view."""
        return self._core.grads

    @property
    def device_params(self) -> DeviceArray:
        """`params` on the GPU, without a copy: what another library writes there is the model's.

        Pass the model an array of the same stream, or wait for the other library's work, before the model computes
        and before you read `params`. DeviceError on the CPU.
        """
        return self._core.device_params

    @property
    def device_grads(self) -> DeviceArray:
        """`grads` on the GPU, without a copy; see device_params."""
        return self._core.device_grads

    @property
    def num_params(self) -> int:
        """Number of trained values, without the gaps in `params`."""
        return sum(size for _, _, group, _, size in self.entries() if group in ("decay", "no_decay"))

    def summary(self) -> str:
        """The model in words: its settings, with what "auto" chose, and its layers with their tensors.

        Returns
        -------
        str
            `print` it, or let a notebook show it.
        """
        defaults = inspect.signature(type(self)).parameters
        settings = [f"  {name:18} {value!r}" + " (auto)" * (name in defaults and defaults[name].default == "auto")
                    for name, value in self._config.items()]
        layers: dict[str, list[tuple[str, tuple[int, ...], int]]] = {}
        for name, shape, group, _, size in self.entries():
            layer, _, tensor = name.rpartition(".")
            layers.setdefault(layer, []).append((tensor, shape, size if group in ("decay", "no_decay") else 0))
        rows = [f"  {layer or 'flow':40} {sum(size for *_, size in tensors):>12,}  "
                + ", ".join(f"{name} {shape}" for name, shape, _ in tensors) for layer, tensors in layers.items()]
        state = "initialised" if self.initialized else "not initialised"
        return Words("\n".join([f"{type(self).__name__} {self.shape}: {self.num_params:,} parameters, {state}, on "
                                f"{self.device}", "settings", *settings, f"{'layers':42} {'parameters':>12}  tensors",
                                *rows]))

    def zero_grad(self) -> None:
        """Sets all gradients to zero."""
        self._core.zero_grad()

    def entries(self) -> list[tuple[str, tuple[int, ...], str, int, int]]:
        """Every tensor of the model, from the data's side on.

        Returns
        -------
        list of (name, shape, group, offset, size)
            offset is the place of the first value in the flat buffers. Groups are in this order there: "decay" and
            "no_decay" are trained, "stats" are running statistics, "fixed" never change.
        """
        return self._core.entries()

    def named_parameters(self) -> dict[str, np.ndarray]:
        """Every tensor by name, with running statistics and fixed tensors: writable views."""
        values = self._core.values
        return {name: values[offset:offset + size].reshape(shape)
                for name, shape, _, offset, size in self.entries()}

    def named_grads(self) -> dict[str, np.ndarray]:
        """The gradient of every trained tensor by name: writable views."""
        grads = self._core.grads
        return {name: grads[offset:offset + size].reshape(shape)
                for name, shape, group, offset, size in self.entries() if group in ("decay", "no_decay")}

    def state_dict(self) -> dict[str, np.ndarray]:
        """A copy of every tensor by name, running statistics included.

        Returns
        -------
        dict of str to ndarray
            The tensors of `named_parameters`, and "calls": how many training calls have drawn noise with seed=None.
        """
        state = {name: value.copy() for name, value in self.named_parameters().items()}
        return {**state, CALLS: np.array(self._calls)}

    def load_state_dict(self, state: dict[str, ArrayLike]) -> None:
        """Copies the values of a `state_dict` into the model.

        Parameters
        ----------
        state : dict of str to array_like
            Of a model of the same settings.

        Raises
        ------
        ShapeError
            The names or shapes are not the model's.
        NumericError
            A value is not finite, or a fixed tensor is invalid. The model keeps its values after any error.
        """
        where, own = "load_state_dict", self.named_parameters()
        if not isinstance(state, dict):
            raise wrong(TypeError, where, "state", f"expected a dict of arrays, got {type(state).__name__}")
        calls = checks.whole(where, CALLS, np.asarray(state.get(CALLS, 0))[()], low=0)
        if odd := sorted(own.keys() ^ (state.keys() - {CALLS})):
            raise wrong(ShapeError, where, "state", f"the state is of another model: {odd[0]!r} is in only one of them")
        taken = {name: arrays.as_numbers(where, name, state[name]) for name in own}
        for name, value in own.items():
            if taken[name].shape != value.shape:
                raise wrong(ShapeError, where, name, f"expected {name} of shape {value.shape}, got {taken[name].shape}")
            taken[name] = arrays.to_floats(where, taken[name].reshape(-1), self._dtype, name=name)
        with undone_on_error(self):
            for name, value in own.items():
                value.reshape(-1)[:] = taken[name]
            self._core.check_parameters()
        self._calls = calls

    def reset(self, seed: int) -> None:
        """Draws new random weights, as a new model of this seed would have them.

        The orders of columns and channels (permutation="shuffle") stay. The model is then not initialised: call
        `init` or `fit`.

        Parameters
        ----------
        seed : int
            For the new weights.
        """
        seed = checks.whole("reset", "seed", seed, low=0)
        named = self.named_parameters()
        orders = {name: value.copy() for name, value in named.items()
                  if name.endswith(".permutation") and name.removesuffix("permutation") + "sign" not in named}
        self._core.values[:] = 0  # as in a new model, of which the core sets the rest
        self._core.reset(seed)
        for name, order in orders.items():
            named[name][...] = order
        self.zero_grad()
        self._names, self._calls = {}, 0

    def init(self, x: ArrayLike, *, context: ArrayLike | None = None) -> None:
        """Initialises the model from data, once, before training: standardisation and actnorm.

        `fit` calls it for a model that is not initialised. A second call starts from the present parameters.

        Parameters
        ----------
        x : array_like, (N, *shape)
            A batch of data. uint8 images get noise of seed 0.
        context : array_like, (N, C)
            For a model with a context, which is standardised by this batch's mean and deviation.

        Raises
        ------
        NumericError
            A value is not finite, or a column or channel is constant.
        """
        where = "init"
        with undone_on_error(self):
            name_columns(self, arrays.names_of(x), arrays.names_of(context))
            data = _data(self, where, x, least=1)
            given = _context(self, where, context, len(data))
            initialize(self, where, Batch(data, context=given))

    # Density, latents, samples

    def forward(self, x: ArrayLike, *, label: ArrayLike | None = None,
                context: ArrayLike | None = None) -> tuple[Array, Array]:
        """Maps data to latents.

        Parameters
        ----------
        x : array_like, (N, *shape)
            Data. uint8 images get no noise.
        label : int or array_like of int, (N,)
            For a model with classes.
        context : array_like, (N, C) or (C,)
            For a model with a context.

        Returns
        -------
        z : ndarray, (N, D)
            Latents, of the model's dtype.
        logdet : ndarray of float64, (N,)
            log |det dz/dx|.

        Raises
        ------
        ShapeError, ConfigError, NumericError
            An argument doesn't fit the model, or a value is not finite.

        See Also
        --------
        inverse : The way back.
        encode : The latents alone.

        Examples
        --------
        >>> x, _ = ef.data.two_moons(1000, seed=0)
        >>> flow = ef.CouplingFlow(2)
        >>> flow.init(x)
        >>> z, logdet = flow.forward(x[:3])
        >>> bool(np.allclose(flow.base_log_prob(z) + logdet, flow.log_prob(x[:3])))
        True
        """
        return forward(self, "forward", take(self, "forward", x, label, context))

    def inverse(self, z: ArrayLike, *, label: ArrayLike | None = None,
                context: ArrayLike | None = None) -> tuple[Array, Array]:
        """Maps latents to data.

        Parameters
        ----------
        z : array_like, (N, D)
            Latents.
        label, context
            As in `forward`.

        Returns
        -------
        x : ndarray, (N, *shape)
            Data; images in level units (see `to_uint8`).
        logdet : ndarray of float64, (N,)
            log |det dx/dz|, minus that of `forward` at x.

        Raises
        ------
        ShapeError, ConfigError, NumericError
            An argument doesn't fit the model, or a value is not finite.

        See Also
        --------
        forward : The way to the latents.
        decode : The data alone.

        Examples
        --------
        >>> x, _ = ef.data.two_moons(1000, seed=0)
        >>> flow = ef.CouplingFlow(2)
        >>> flow.init(x)
        >>> z, logdet = flow.forward(x[:3])
        >>> back, minus = flow.inverse(z)
        >>> bool(np.allclose(back, x[:3], atol=1e-4) and np.allclose(minus, -logdet, atol=1e-3))
        True
        """
        return inverse(self, "inverse", take_latents(self, "inverse", z, label, context))

    def encode(self, x: ArrayLike, *, label: ArrayLike | None = None, context: ArrayLike | None = None) -> Array:
        """Latents z (N, D) of data x, as in `forward`. Nothing is added or dropped: `decode` gives x back."""
        return forward(self, "encode", take(self, "encode", x, label, context))[0]

    def decode(self, z: ArrayLike, *, label: ArrayLike | None = None, context: ArrayLike | None = None) -> Array:
        """Data x (N, *shape) of latents z (N, D), as in `inverse`; images in level units (see `to_uint8`)."""
        return inverse(self, "decode", take_latents(self, "decode", z, label, context))[0]

    def log_prob(self, x: ArrayLike, *, label: ArrayLike | None = None, context: ArrayLike | None = None,
                 seed: int = 0, first: int = 0) -> Array:
        """Log density of each row, log p(x) or log p(x | label or context).

        Parameters
        ----------
        x : array_like, (N, *shape)
            Data.
        label, context
            As in `forward`.
        seed : int
            For the uniform noise that uint8 images get; floats get none.
        first : int
            Number of x's first row, for data in pieces: the noise of row i depends on (seed, first + i) alone.

        Returns
        -------
        ndarray of float64, (N,)
            Nats, for the density in the units of x.

        Raises
        ------
        ShapeError, ConfigError, NumericError
            An argument doesn't fit the model, or a value is not finite.

        See Also
        --------
        log_prob_and_grad : The gradient by x as well.
        bits_per_dim : The same of images, in bits.

        Examples
        --------
        >>> x, _ = ef.data.two_moons(1000, seed=0)
        >>> flow = ef.CouplingFlow(2)
        >>> flow.init(x)
        >>> flow.log_prob(x[:3]).shape
        (3,)
        """
        return _log_prob(self, "log_prob", x, label, context, seed, first)

    def log_prob_and_grad(self, x: ArrayLike, *, label: ArrayLike | None = None, context: ArrayLike | None = None,
                          seed: int = 0, first: int = 0, dcontext: Taken | None = None) -> tuple[Array, Array]:
        """Log density of each row and its gradient, for MAP estimates and for Langevin or Hamiltonian samplers.

        `grads` are left alone, and batch norm uses its running moments. Where the flow can't be inverted in its
        precision, far from the data, the pass is repeated from stored inputs.

        Parameters
        ----------
        x, label, context, seed, first
            As in `log_prob`.
        dcontext : ndarray, (N, C), optional
            Receives the gradient by the context; of the model's dtype, C-contiguous.

        Returns
        -------
        log_prob : ndarray of float64, (N,)
            Nats.
        grad : ndarray, (N, *shape)
            d log p(x) / dx, of the model's dtype.

        Raises
        ------
        ShapeError, ConfigError, NumericError
            An argument doesn't fit the model, or a value, a density or a gradient is not finite.

        See Also
        --------
        log_prob : The density alone.
        backward : The gradient of a loss of your own.

        Examples
        --------
        >>> x, _ = ef.data.two_moons(1000, seed=0)
        >>> flow = ef.CouplingFlow(2)
        >>> flow.init(x)
        >>> log_prob, grad = flow.log_prob_and_grad(x[:3])
        >>> grad.shape
        (3, 2)
        """
        where = "log_prob_and_grad"
        batch, seed, first = _numbered(self, where, x, label, context, seed, first)
        place = _place(self, where, "dcontext", dcontext, len(batch))
        log_prob, grad = _empty(self, batch.x, dtype=DOUBLE), _empty(self, batch.x, self._shape)
        for block, given, rows, number in _pieces(self, where, batch, seed, first):
            self._core.log_prob_and_grad(block, log_prob[rows], grad[rows], given, number,
                                         None if place is None else place[rows])
        return log_prob, grad

    def bits_per_dim(self, x: ArrayLike, *, label: ArrayLike | None = None, context: ArrayLike | None = None,
                     seed: int = 0) -> Array:
        """-log2 p(x) / D of each row, (N,) float64; uniform noise over all levels has exactly `bits`.

        Parameters and errors are those of `log_prob`.
        """
        log_prob, nats = _log_prob(self, "bits_per_dim", x, label, context, seed, 0), -self._dims * math.log(2)
        if isinstance(log_prob, np.ndarray):
            return log_prob / nats
        self._core.scale(log_prob, 1 / nats)
        return log_prob

    def sample(self, n: int, *, label: ArrayLike | None = None, context: ArrayLike | None = None,
               seed: int | None = None, first: int = 0, temperature: float = 1.0, device: str = "cpu",
               as_frame: bool = False, per_context: bool = False, on_nonfinite: str = "redraw") -> Array:
        """Draws samples.

        Parameters
        ----------
        n : int
            How many; 0 is allowed.
        label, context
            As in `forward`.
        seed : int, optional
            None draws anew in every call. With a seed, sample i depends on (seed, first + i) alone, whatever n is.
        first : int
            Number of the first sample, to make a large draw in pieces.
        temperature : float
            Factor on the base draw, at every level. Below 1, samples are more alike.
        device : str
            Where the samples are wanted: "cpu" (numpy), or the model's device.
        as_frame : bool
            Return a data frame of pandas, with the names of the flow's columns, else x0, x1, ... For tables.
        per_context : bool
            Draw n samples for each of m contexts (m, C). Sample j of context i has number first + i n + j.
        on_nonfinite : str
            For samples that overflow, of a flow that stretches too far: "redraw" draws these anew, with a warning that
            counts them, if they are at most one in a hundred (or one); "raise" does not.

        Returns
        -------
        ndarray, (n, *shape) or, with per_context, (m, n, *shape)
            Of the model's dtype; images are in level units (see `to_uint8`). With as_frame a DataFrame, whose index is
            (context, draw) with per_context.

        Raises
        ------
        ConfigError, DeviceError, NumericError
            An argument doesn't fit the model, or more samples are not finite than `on_nonfinite` allows.

        See Also
        --------
        sample_and_log_prob : Their densities as well.
        decode : Samples of latents of your own.

        Examples
        --------
        >>> x, _ = ef.data.two_moons(1000, seed=0)
        >>> flow = ef.CouplingFlow(2)
        >>> flow.init(x)
        >>> flow.sample(4, seed=1).shape
        (4, 2)
        >>> bool((flow.sample(9, seed=1)[:4] == flow.sample(4, seed=1)).all())
        True
        """
        checks.choice("sample", "on_nonfinite", on_nonfinite, ("redraw", "raise"))
        x, _, lost = sample(self, "sample", n, label, context, seed, first, temperature, device, per_context,
                            redraw=on_nonfinite == "redraw")
        tell_of_redrawn(lost, math.prod(x.shape) // self._dims)
        if as_frame is False or not checks.flag("sample", "as_frame", as_frame):
            return x
        return _frame(self, "sample", x)

    def sample_and_log_prob(self, n: int, *, label: ArrayLike | None = None, context: ArrayLike | None = None,
                            seed: int | None = None, first: int = 0, temperature: float = 1.0,
                            device: str = "cpu", per_context: bool = False) -> tuple[Array, Array]:
        """Draws samples and returns their log density, in one pass.

        Parameters and errors are those of `sample`, and so are the samples; one that is not finite is an error.

        Returns
        -------
        x : ndarray, (n, *shape) or, with per_context, (m, n, *shape)
            The samples.
        log_prob : ndarray of float64, (n,) or (m, n)
            log p(x) in nats: the flow's density, at any temperature.

        See Also
        --------
        sample, log_prob : One of both.
        importance : Samples with weights towards another density.

        Examples
        --------
        >>> x, _ = ef.data.two_moons(1000, seed=0)
        >>> flow = ef.CouplingFlow(2)
        >>> flow.init(x)
        >>> rows, log_prob = flow.sample_and_log_prob(4, seed=1)
        >>> bool(np.allclose(log_prob, flow.log_prob(rows), atol=1e-3))
        True
        """
        return sample(self, "sample_and_log_prob", n, label, context, seed, first, temperature, device, per_context,
                      scored=True)[:2]

    def base_sample(self, n: int, *, seed: int | None = None, first: int = 0, temperature: float = 1.0) -> np.ndarray:
        """Draws from the base distribution: the latents z (n, D) of which `sample` makes its samples.

        Parameters
        ----------
        n, seed, first, temperature
            As in `sample`.
        """
        where = "base_sample"
        n, seed, first = _draws(self, where, n, seed, first)
        temperature = checks.number(where, "temperature", temperature, 0.0)
        z = np.empty((n, self._dims), self._dtype)
        for rows in blocks(self, n):
            self._core.base_sample(z[rows], temperature, seed, first + rows.start)
        return z

    def base_log_prob(self, z: ArrayLike) -> Array:
        """Log density (N,) float64 of latents z (N, D) under the base distribution, in nats.

        log_prob(x) = base_log_prob(z) + logdet for z, logdet = forward(x).
        """
        batch = Batch(_array(self, "base_log_prob", "z", z, (self._dims,)))
        out = _empty(self, batch.x, dtype=DOUBLE)
        for block, _, rows, _ in _pieces(self, "base_log_prob", batch, name="z"):
            self._core.base_log_prob(block, out[rows])
        return out

    def class_log_prob(self, x: ArrayLike) -> Array:
        """Log probability of each class, by the class head of a Glow with class_weight > 0.

        Parameters
        ----------
        x : array_like, (N, H, W, C)
            Images.

        Returns
        -------
        ndarray of float64, (N, classes)
            log p(label | x).

        Raises
        ------
        ConfigError
            The model has no class head.
        """
        where = "class_log_prob"
        batch = Batch(_data(self, where, x))
        if not self._config.get("class_weight"):
            raise ConfigError(f"[{where}] this model has no class head; make one with class_weight > 0")
        out = _empty(self, batch.x, (self._classes,), DOUBLE)
        for block, _, rows, number in _pieces(self, where, batch):
            self._core.class_log_prob(block, out[rows], number)
        return out

    def to_uint8(self, x: ArrayLike) -> np.ndarray:
        """Samples or decoded images, in level units, as 8-bit pixels of the same shape; see `evenflow.to_uint8`."""
        return arrays.to_uint8(x, self.bits)

    def split_latent(self, z: ArrayLike) -> list[np.ndarray]:
        """Splits latents z (N, D) into their levels, finest first: views (N, h, w, c) for images, (N, d) for tables."""
        z = arrays.check_batch("split_latent", z, (self._dims,), name="z")
        parts = [(z[:, at:at + math.prod(shape)], shape) for at, shape in self._core.levels()]
        return [part.reshape(len(z), *shape) if self._is_image else part for part, shape in parts]

    def join_latent(self, levels: list[Any]) -> np.ndarray:
        """Joins levels as `split_latent` returns them to latents z (N, D)."""
        where, wanted = "join_latent", [shape for _, shape in self._core.levels()]
        if not isinstance(levels, (list, tuple)):
            raise wrong(TypeError, where, "levels",
                        f"expected a list of {len(wanted)} levels, got {type(levels).__name__}")
        if len(levels) != len(wanted):
            raise wrong(ShapeError, where, "levels", f"expected a list of {len(wanted)} levels, got {len(levels)}")
        parts = [arrays.check_batch(where, part, shape if self._is_image else (math.prod(shape),), name="levels")
                 for part, shape in zip(levels, wanted)]
        if len({len(part) for part in parts}) > 1:
            raise wrong(ShapeError, where, "levels",
                        f"expected as many samples in every level, got {', '.join(str(len(part)) for part in parts)}")
        return np.concatenate([part.reshape(len(part), math.prod(part.shape[1:])) for part in parts], axis=1)

    # Gradients

    def loss_and_grad(self, x: ArrayLike, *, label: ArrayLike | None = None, context: ArrayLike | None = None,
                      seed: int | None = None, sample_weight: ArrayLike | None = None, weight: float = 1.0,
                      dcontext: Taken | None = None, activation_budget: int | None = None,
                      nll: np.ndarray | None = None) -> float:
        """Computes the mean negative log-likelihood and adds its gradient to `grads`.

        Running statistics are updated, and `last_step` holds details. With a class head the loss includes
        class_weight times the classification loss.

        Parameters
        ----------
        x, label, context
            As in `log_prob`.
        seed : int, optional
            For the noise of uint8 images and the masks of dropout. None takes others in every call: the number of the
            call, counted by the flow, is its seed.
        sample_weight : array_like, (N,), optional
            Factors >= 0 on the rows' terms of the loss. The sum is still divided by N.
        weight : float
            Factor on the gradient, not on the returned loss.
        dcontext : ndarray, (N, C), optional
            Receives the gradient by the context.
        activation_budget : int, optional
            Bytes of activations to keep instead of recomputing them. None: a share of the free memory; 0: none.
        nll : ndarray of float64, (N,), optional
            Receives each row's negative log-likelihood in nats, without its weight.

        Returns
        -------
        float
            The loss in nats a sample.

        Raises
        ------
        ShapeError, ConfigError, NumericError
            An argument doesn't fit the model, or the loss or its gradient is not finite.
        """
        where = "loss_and_grad"
        batch = take(self, where, x, label, context, sample_weight, least=1)
        budget, weight = budget_of(where, activation_budget), checks.number(where, "weight", weight, -math.inf)
        place = _place(self, where, "dcontext", dcontext, len(batch))
        nll = _place(self, where, "nll", nll, len(batch))
        return loss_and_grad(self, batch, budget, noise_seed(self, where, seed), weight=weight, dcontext=place, nll=nll)

    def backward(self, z: ArrayLike, dz: ArrayLike, dlogdet: ArrayLike, *, label: ArrayLike | None = None,
                 context: ArrayLike | None = None, dcontext: Taken | None = None,
                 truth: ArrayLike | None = None) -> tuple[Array, Array]:
        """Gradient of your own loss L(z, logdet) of `forward`'s outputs. Adds dL/dparams to `grads`.

        Parameters
        ----------
        z, dz : array_like, (N, D)
            Latents, and dL/dz.
        dlogdet : array_like, (N,)
            dL/dlogdet.
        label, context
            As in `forward`.
        dcontext : ndarray, (N, C), optional
            Receives dL/dcontext; of the model's dtype, C-contiguous, on z's device.
        truth : array_like of float, (N, *shape), optional
            The batch that z was computed from, to compare the rebuilt one with.

        Returns
        -------
        x, dx : ndarray, (N, *shape)
            The batch, rebuilt from z, and dL/dx.

        Raises
        ------
        NumericError
            A row that was rebuilt is off from `truth` by more than 1e-3 (float64: 1e-8) of its largest value, so that
            gradients can't be trusted: z is not what `forward` makes of `truth` now, or the flow can't be inverted
            there.
        """
        where = "backward"
        latents = take_latents(self, where, z, label, context)
        batch, place, by_z, by_logdet, real = _pulled(self, where, latents, "z", dcontext, ("dz", dz, (self._dims,)),
                                                      dlogdet, ("truth", truth, self._shape))
        x, dx = _empty(self, batch.x, self._shape), _empty(self, batch.x, self._shape)
        drift = self._core.backward(batch.x, by_z, by_logdet, x, dx, batch.given, place, real) if len(batch) else 0.0
        if not drift <= DRIFT[self._dtype.name]:
            raise wrong(NumericError, where, "z",
                        f"expected z to give truth back, got a row that is off by {drift:.1e} of its largest value: z "
                        "is of other data or parameters, or the flow can't be inverted here; then lower the learning "
                        "rate, clip the gradient, use float64, or train by loss_and_grad (FlowModule.loss)")
        return x, dx

    def inverse_backward(self, x: ArrayLike, dx: ArrayLike, dlogdet: ArrayLike, *, label: ArrayLike | None = None,
                         context: ArrayLike | None = None, z: ArrayLike | None = None,
                         dcontext: Taken | None = None) -> tuple[Array, Array]:
        """Gradient of your own loss L(x, logdet) of `inverse`'s outputs, such as reverse KL of samples.

        Adds dL/dparams to `grads`. Give it `z` wherever you have it: the gradient then holds however steep or flat the
        flow is. Without, the latents are rebuilt from x, which a steep flow in float32 does badly and without a word.

        Parameters
        ----------
        x, dx : array_like, (N, *shape)
            Data, and dL/dx.
        dlogdet : array_like, (N,)
            dL/dlogdet, for the log-determinant of `inverse`.
        label, context, dcontext
            As in `backward`.
        z : array_like, (N, D), optional
            The latents that `inverse` computed x from. The pass then takes the same values between layers as `inverse`
            did, and stores (N, D) of them a layer.

        Returns
        -------
        z, dz : ndarray, (N, D)
            Latents, rebuilt from x or as given, and dL/dz.

        Raises
        ------
        NumericError
            A row of x is off by more than 1e-3 (float64: 1e-8) of its largest value from what `inverse` makes of z
            now. `grads` are unchanged.
        """
        where = "inverse_backward"
        taken = _array(self, where, "x", x, self._shape)
        batch, place, by_x, by_logdet, known = _pulled(
            self, where, _given(self, where, taken, label, context), "x", dcontext, ("dx", dx, self._shape), dlogdet,
            ("z", z, (self._dims,)))
        latents, dz = _empty(self, batch.x, (self._dims,)), _empty(self, batch.x, (self._dims,))
        distance = 0.0
        if len(batch):
            distance = self._core.inverse_backward(batch.x, by_x, by_logdet, latents, dz, batch.given, place, known)
        if not distance <= DRIFT[self._dtype.name]:
            raise wrong(NumericError, where, "x",
                        f"expected the x that inverse makes of z, got a row that is off by {distance:.1e} of its "
                        "largest value; the parameters have changed since, or z belongs to other samples")
        return latents, dz


def compiled(where: str, config: dict[str, Any], device: str, threads: int) -> _core.Flow32 | _core.Flow64:
    """The compiled model of a `config`. ConfigError or ShapeError if its settings don't fit together."""
    try:
        return _core.build(json.dumps(config), device=device, threads=threads)
    except ShapeError as error:  # torch's order of an image's axes is another
        raise ShapeError(f"{error} (shapes are (H, W, C))") from None
    except MemoryError as error:
        raise MemoryError(f"[{where}] expected memory for the model, got: {error}") from error


Checked = TypeVar("Checked", bound=Density)


def check_flow(where: str, flow: Checked) -> Checked:
    """TypeError for anything but a flow."""
    if not isinstance(flow, Density):
        raise wrong(TypeError, where, "flow", f"expected a Flow, got {type(flow).__name__}")
    return flow


# What other modules need of a flow, beyond what users have


def core_of(flow: Density) -> _core.Flow32 | _core.Flow64:
    """The compiled core. Its `values` are all tensors, flat and writable."""
    return flow._core


def bounds_of(flow: Density) -> Pairs | None:
    """(low, high) of every column of a table with bounds."""
    return flow._config.get("bounds")


def limits_of(flow: Density) -> Pairs | None:
    """Where rows of a table must lie: within its bounds, or the box of a uniform base."""
    return Box([(0.0, 1.0)] * flow._dims) if flow._core.base == "uniform" else bounds_of(flow)


def column_names(flow: Density) -> dict[str, list[str]]:
    """Names of the columns of "x" and of "context", where a data frame or a file told them; a copy."""
    return {what: list(names) for what, names in flow._names.items()}


def name_columns(flow: Density, x: Sequence[str] | None = None, context: Sequence[str] | None = None) -> None:
    """Sets the names of the columns, by which data frames are checked; None or nothing: there are none."""
    flow._names = {what: list(names) for what, names in (("x", x), ("context", context)) if names}


def statistics_of(flow: Density) -> np.ndarray:
    """Running statistics, flat: a writable view, empty for a flow without."""
    return flow._core.values[flow._statistics]


def values_a_row(flow: Density) -> int:
    """How many numbers a row brings: its values, and its context once for each pixel."""
    return flow._dims + flow._context_values


@contextlib.contextmanager
def undone_on_error(flow: Density) -> Iterator[None]:
    """If the block raises, the flow has the values and names of columns that it had."""
    values, names = flow._core.values.copy(), flow._names
    try:
        yield
    except BaseException:
        flow._core.values[:] = values
        flow._names = names
        raise


def blocks(flow: Density, n: int) -> Iterator[slice]:
    """Slices of n rows, which grow while the caller works through them quickly."""
    width = max(flow._dims, flow._context_values)
    most, a = max(1, BLOCK_VALUES // width), 0
    size = min(most, max(1, FIRST_VALUES // width))
    if 0 < n <= size:  # a call for one row should not wait for the clock
        yield slice(0, n)
        return
    while a < n:
        start = time.monotonic()
        yield slice(a, min(n, a + size))
        a += size
        quick = time.monotonic() - start < BLOCK_SECONDS
        size = min(most, 2 * size) if quick else max(1, size // 2)


def take(flow: Density, where: str, x: Any, label: Any = None, context: Any = None, weight: Any = None, *,
         least: int = 0, first: int = 0) -> Batch:
    """What a call was given, checked, on the device where each was: uint8 images or floats of any type.

    first: number of the first row, for errors of data in pieces. least: smallest number of rows.
    """
    return _given(flow, where, _data(flow, where, x, least), label, context, weight, first=first)


def take_latents(flow: Density, where: str, z: Any, label: Any = None, context: Any = None, *,
                 first: int = 0) -> Batch:
    """The same of latents (N, D)."""
    return _given(flow, where, _array(flow, where, "z", z, (flow._dims,)), label, context, first=first)


def check(flow: Density, where: str, x: Any, label: Any = None, context: Any = None, weight: Any = None, *,
          least: int = 0, only: bool = False) -> Batch:
    """The same for work in numpy: all in main memory. Data in files (`Rows`, np.memmap) stay there, unread."""
    arrays.check_names(where, "x", x, flow._names.get("x"))
    x = arrays.check_batch(where, x, flow._shape, image=flow._is_image, least=least)
    if only:  # the data alone
        return Batch(x)
    return _given(flow, where, x, label, context, weight, device="cpu")


def for_flow(flow: Density, batch: Batch) -> Batch:
    """Rows of a file as this flow takes them: without the labels and contexts that it has no use for."""
    return Batch(batch.x, batch.label if flow._classes else None, batch.context if flow._context else None,
                 batch.weight)


def check_levels(flow: Density, where: str, x: Any) -> None:
    """ConfigError for images that are not in level units, such as torch's in [0, 1]."""
    if flow._is_image and (told := arrays.wrong_levels(np.asarray(x), flow._bits)):
        raise wrong(ConfigError, where, "x", told)


def floats(flow: Density, where: str, x: Any, seed: int | None = None, first: int = 0, name: str = "x",
           dtype: np.dtype | None = None) -> Any:
    """Taken data in the model's dtype, images in level units: uint8 with noise of this seed, or None: whole levels.

    NumericError names the first value that is not finite. Other arrays than data have another name, perhaps a dtype.
    """
    x = x[:] if isinstance(x, Rows) else x
    if flow._is_image and x.dtype == np.uint8:
        levels = _empty(flow, x, flow._shape)
        x = np.ascontiguousarray(x) if isinstance(x, np.ndarray) else x
        flow._core.dequantize(x, flow._bits, seed, first, levels)
        return levels
    if not isinstance(x, DeviceArray):
        return arrays.to_floats(where, x, dtype or flow._dtype, first, names=flow._names.get(name), name=name)
    at = flow._core.first_not_finite(x)
    if at >= 0:
        row, *place = (int(i) for i in np.unravel_index(at, x.shape))
        value = np.asarray(x[row:row + 1])[(0, *place)]
        raise arrays.not_finite(where, value, first + row, place, x.dtype, name=name)
    return x


def initialize(flow: Density, where: str, batch: Batch) -> None:
    """`Flow.init`, for a call of that name; the names of columns stay as they are."""
    check_levels(flow, where, batch.x)
    flow._core.init(floats(flow, where, batch.x, 0), batch.context)
    context = np.zeros((1, 0)) if batch.context is None else np.asarray(batch.context)
    for column in np.flatnonzero(context.min(0) == context.max(0))[:1] if len(context) > 1 else ():
        warn(f"[{where}] column {column} of the context is constant here, in {flow.dtype}, so the flow will ignore it; "
             "initialise it with a context that varies")


def forward(flow: Density, where: str, batch: Batch, first: int = 0) -> tuple[Array, Array]:
    """`Flow.forward`, for a call of that name. first: number of the first row, for errors of data in pieces."""
    z, logdet = _empty(flow, batch.x, (flow._dims,)), _empty(flow, batch.x, dtype=DOUBLE)
    for block, given, rows, number in _pieces(flow, where, batch, first=first):
        flow._core.forward(block, z[rows], logdet[rows], given, number, where)
    return z, logdet


def inverse(flow: Density, where: str, batch: Batch, first: int = 0) -> tuple[Array, Array]:
    """`Flow.inverse` of latents, in the same way."""
    x, logdet = _empty(flow, batch.x, flow._shape), _empty(flow, batch.x, dtype=DOUBLE)
    for block, given, rows, number in _pieces(flow, where, batch, first=first, name="z"):
        flow._core.inverse(block, x[rows], logdet[rows], given, number, where)
    return x, logdet


def loss_and_grad(flow: Density, batch: Batch, budget: int, seed: int, *, first: int = 0, weight: float = 1.0,
                  **more: Any) -> float:
    """`Flow.loss_and_grad` of a checked batch; `first` numbers the rows, for noise and dropout.

    budget: bytes of activations to keep, -1: a share of the free memory.
    more: dcontext; nll; sum_over_ranks adds up an array in place, so that batch norm takes the moments of all ranks'
    rows.
    """
    block = floats(flow, "loss_and_grad", batch.x, seed, first)
    step = flow._core.loss_and_grad(block, batch.given, budget, weight, seed=seed, first=first,
                                    sample_weight=batch.weight, **more)
    flow.last_step = {**step}
    return step["loss"]


def noise_seed(flow: Density, where: str, seed: int | None) -> int:
    """Seed of a training call's noise. None: the number of the call."""
    if seed is not None:
        return checks.whole(where, "seed", seed, low=0)
    flow._calls += 1
    return flow._calls


def calls_of(flow: Density) -> int:
    """How many training calls have drawn noise of their own."""
    return flow._calls


def set_calls(flow: Density, calls: int) -> None:
    """Sets their number, as a file has it."""
    flow._calls = calls


def budget_of(where: str, activation_budget: int | None) -> int:
    """Bytes of activations that a training call keeps, as the core takes them."""
    return -1 if activation_budget is None else checks.whole(where, "activation_budget", activation_budget, low=0)


# Steps of the calls above


def _data(flow: Density, where: str, x: Any, least: int = 0) -> Taken:
    """Data, on their device: uint8 images, else floats."""
    if flow._names:
        arrays.check_names(where, "x", x, flow._names.get("x"))
    return arrays.take_batch(where, x, flow._shape, flow._dtype, flow._device, image=flow._is_image, least=least)


def _array(flow: Density, where: str, name: str, x: Any, shape: tuple[int, ...],
           dtype: np.dtype | None = None) -> Taken:
    """An array of floats other than data, on its device."""
    return arrays.take_batch(where, x, shape, dtype or flow._dtype, flow._device, name=name)


def _context(flow: Density, where: str, context: Any, n: int, *, first: int = 0,
             device: str | None = None) -> Taken | None:
    """A context (n, C) of the model's dtype, if the model has one; on the device unless another is named."""
    if not flow._context:
        if context is None:
            return None
        raise wrong(ConfigError, where, "context", "a context was given, but the model has none")
    arrays.check_names(where, "context", context, flow._names.get("context"))
    taken = arrays.take_context(where, context, n, flow._context, flow._dtype, device or flow._device, first)
    return floats(flow, where, taken, first=first, name="context") if isinstance(taken, DeviceArray) else taken


def _given(flow: Density, where: str, x: Any, label: Any, context: Any, weight: Any = None, *, first: int = 0,
           device: str | None = None) -> Batch:
    """Samples with what their density is conditioned on, checked: labels (n,) or a context (n, C), and weights."""
    if label is None is context and weight is None and not flow._classes and not flow._context:
        return Batch(x)  # a call for one row should not wait for the rest
    n = len(x)
    label = arrays.check_labels(where, label, n, flow._classes, first)
    if flow._context or context is not None:
        context = _context(flow, where, context, n, first=first, device=device)
    return Batch(x, label, context, check_weights(where, weight, n, first))


def _numbered(flow: Density, where: str, x: Any, label: Any, context: Any, seed: Any,
              first: Any) -> tuple[Batch, int, int]:
    """A batch whose row i has the number first + i, by which its noise is drawn."""
    seed, first = checks.whole(where, "seed", seed, low=0), checks.whole(where, "first", first, 0, LAST)
    return take(flow, where, x, label, context, first=first), seed, first


def _log_prob(flow: Density, where: str, x: Any, label: Any, context: Any, seed: Any, first: Any) -> Array:
    batch, seed, first = _numbered(flow, where, x, label, context, seed, first)
    if flow._is_image and (told := arrays.wrong_levels(batch.x, flow._bits, beyond=2.0)):  # one may well be black
        warn(f"[{where}] {told}")
    out = _empty(flow, batch.x, dtype=DOUBLE)
    for block, given, rows, number in _pieces(flow, where, batch, seed, first):
        flow._core.log_prob(block, out[rows], given, number, where)
    return out


def _draws(flow: Density, where: str, n: Any, seed: Any, first: Any) -> tuple[int, int, int]:
    n = checks.whole(where, "n", n, low=0, high=checks.LARGEST // (flow._dims * flow._dtype.itemsize))
    seed = int.from_bytes(os.urandom(8), "little") >> 1 if seed is None else checks.whole(where, "seed", seed, low=0)
    return n, seed, checks.whole(where, "first", first, 0, LAST)


def sample(flow: Density, where: str, n: Any, label: Any = None, context: Any = None, seed: Any = None, first: Any = 0,
           temperature: Any = 1.0, device: Any = "cpu", per_context: Any = False, *, scored: bool = False,
           redraw: bool = False, of: int = 0) -> tuple[Array, Array, int]:
    """Samples, their densities if `scored`, and, with `redraw`, how many of them were drawn anew.

    of: how many samples there will be in all, of a large draw in pieces.
    """
    n, seed, first = _draws(flow, where, n, seed, first)
    temperature = checks.number(where, "temperature", temperature, 0.0)
    if not isinstance(device, str) or device not in ("cpu", flow._device):
        raise wrong(DeviceError, where, "device", f"expected 'cpu' or the model's, {flow._device!r}, got {device!r}")
    shape: tuple[int, ...] = (n,)
    if per_context is not False and checks.flag(where, "per_context", per_context):
        given = arrays.as_numbers(where, "context", context).shape
        if len(given) != 2 or device != "cpu":
            raise wrong(ShapeError, where, "context", "expected contexts (m, C) and samples in main memory for "
                        f"per_context=True, got {given} and device {device!r}")
        context = np.repeat(np.asarray(_context(flow, where, context, given[0])), n, axis=0)
        n, shape = len(context), (given[0], n)
    x = arrays.empty(device, (n, *flow._shape), flow._dtype)
    log_prob = arrays.empty(device, (n,), DOUBLE) if scored else None
    batch, lost = _given(flow, where, x, label, context), 0
    for rows in blocks(flow, n):
        part = batch if rows.stop == n and not rows.start else batch[rows]
        draw = functools.partial(flow._core.sample, part.x, temperature, seed, part.given, first + rows.start,
                                 rows.start, None if log_prob is None else log_prob[rows])
        if draw(overflow=redraw and isinstance(x, np.ndarray)):
            continue
        bad = np.flatnonzero(~np.isfinite(part.x.reshape(len(part), -1)).all(1))
        lost += len(bad)
        if lost > max(1, max(n, of) // 100):
            try:
                draw()
            except NumericError as error:
                raise NumericError(f"{error}; {lost:,} of the first {rows.stop:,} samples are not finite") from None
        for row in bad:
            _redraw(flow, part[row:row + 1], temperature, seed, first + rows.start + int(row))
    if isinstance(x, np.ndarray) and len(shape) == 2:
        x, log_prob = x.reshape(*shape, *flow._shape), None if log_prob is None else np.asarray(log_prob).reshape(shape)
    return x, log_prob, lost


def _redraw(flow: Density, one: Batch, temperature: float, seed: int, number: int) -> None:
    """Draws a sample anew, by its number and other seeds."""
    for attempt in range(1, ATTEMPTS + 1):
        another = int(np.random.SeedSequence([seed, attempt]).generate_state(1, np.uint64)[0] >> np.uint64(1))
        if flow._core.sample(one.x, temperature, another, one.given, number, overflow=attempt < ATTEMPTS):
            return


def tell_of_redrawn(lost: int, n: int) -> None:
    """A warning for samples that were drawn anew."""
    if lost:
        warn(f"[sample] {lost:,} of {n:,} samples were not finite, and were drawn anew: the flow stretches too far; "
             'see "Samples are not finite, or extreme" in the documentation')


def _frame(flow: Density, where: str, x: Array) -> Any:
    """Samples of a table, (n, D) or (m, n, D), as a data frame of pandas."""
    if flow._is_image or not isinstance(x, np.ndarray):
        raise wrong(ConfigError, where, "as_frame", "expected samples of a table in main memory for as_frame=True")
    pandas = need(where, "pandas", "pandas", "pandas")
    names = flow._names.get("x") or [f"x{i}" for i in range(flow._dims)]
    index = None if x.ndim == 2 else pandas.MultiIndex.from_product(map(range, x.shape[:2]), names=["context", "draw"])
    return pandas.DataFrame(x.reshape(-1, flow._dims), columns=names, index=index)


def _pulled(flow: Density, where: str, batch: Batch, name: str, dcontext: Any, gradient: tuple[str, Any, Any],
            dlogdet: Any, known: tuple[str, Any, Any]) -> tuple[Any, ...]:
    """What a gradient is pulled back through, as the core takes it: batch, dcontext's place, gradient by outputs and by
    their log-determinants, and what is known of the inputs. gradient, known: name, array and shape of a row.
    """
    taken = []
    for what, values, shape, dtype in ((*gradient, None), ("dlogdet", dlogdet, (), DOUBLE), (*known, None)):
        if values is not None or what != known[0]:
            values = _array(flow, where, what, values, shape, dtype)
            if len(values) != len(batch):
                raise wrong(ShapeError, where, what, f"expected {what} of {len(batch)} rows, got {len(values)}")
            values = floats(flow, where, values, name=what, dtype=dtype)
        taken.append(values)
    x = floats(flow, where, batch.x, name=name)
    return Batch(x, batch.label, batch.context), _place(flow, where, "dcontext", dcontext, len(batch)), *taken


def _place(flow: Density, where: str, name: str, place: Any, n: int) -> Any:
    """An array that a call writes a result of n rows to: the gradient by the context, or likelihoods."""
    if place is None:
        return None
    if name == "dcontext" and not flow._context:
        raise wrong(ConfigError, where, name, "dcontext was given, but the model has no context")
    shape, dtype = ((n, flow._context), flow._dtype) if name == "dcontext" else ((n,), DOUBLE)
    fits = getattr(place, "shape", None) == shape and place.dtype == dtype
    if not fits or not (isinstance(place, DeviceArray) or isinstance(place, np.ndarray) and place.flags.carray):
        raise wrong(TypeError, where, name,
                    f"expected {name} to be a writable, C-contiguous array {shape} of {dtype}, got "
                    f"{type(place).__name__} {np.shape(place)} of {getattr(place, 'dtype', 'no dtype')}")
    return place


def _empty(flow: Density, like: Taken, shape: tuple[int, ...] = (), dtype: np.dtype | None = None) -> Any:
    """For results (N, *shape) of the model's dtype, on the device of `like` (N, ...)."""
    shape, dtype = (len(like), *shape), dtype or flow._dtype
    return _core.empty(like.device, shape, dtype) if isinstance(like, DeviceArray) else np.empty(shape, dtype)


def _pieces(flow: Density, where: str, batch: Batch, seed: int | None = None, first: int = 0,
            name: str = "x") -> Iterator[tuple[Any, Any, slice, int]]:
    """Blocks of a batch: its floats, what they are given, which rows these are, and the number of their first."""
    x, given = batch.x, batch.given
    if len(x) == 1:  # a call for one row should not wait for the rest
        yield floats(flow, where, x, seed, first, name), given, slice(0, 1), first
        return
    for rows in blocks(flow, len(x)):
        number = first + rows.start
        yield (floats(flow, where, x[rows], seed, number, name), None if given is None else given[rows], rows, number)
