"""Density: the compiled core of a flow, with every argument checked and every array in the form the core takes."""

from __future__ import annotations

import copy
import functools
import json
import math
import secrets
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from evenflow import _core
from evenflow._border import arrays, checks
from evenflow._core import DeviceArray
from evenflow._border.batch import Batch
from evenflow._border.bounds import Pairs
from evenflow.errors import ConfigError, DataWarning, DeviceError, NumericError, ShapeError
from evenflow._border.weights import check_weights

Array = Any
"""A result: numpy.ndarray, or DeviceArray if the call's first array was on the GPU."""
Taken = np.ndarray | DeviceArray
"""An array of a call, in main memory or on the GPU where the model computes."""

DOUBLE = np.dtype(np.float64)

DRIFT = {"float32": 1e-3, "float64": 1e-8}
"""Largest error of a row that backward rebuilds, relative to its largest value, or to 1."""

BLOCK_VALUES, FIRST_VALUES = 1 << 22, 1 << 16
"""Largest and first number of values in a block of a call. Memory doesn't grow with N, and Ctrl-C ends a call between
two blocks."""
BLOCK_SECONDS = 0.2
"""Blocks that take longer are halved, shorter ones doubled. A row's bits don't depend on its block."""

CALLS = "calls"
"""Name in a state_dict: how many training calls have drawn noise."""


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
        self.last_step: dict[str, Any] = {}
        """Results of the last loss_and_grad or train_step.

        loss, nll, class_nll, class_error: means over the batch, in nats. drift: error of the rebuilt batch, relative
        to the largest value of the row. fallback: whether the step was repeated from checkpoints for that reason; then
        drift_layer is the layer whose own inverse was least accurate, and drift_in_layer its error. train_step adds
        grad_norm, before clipping.
        """
        self._made = frozenset({*vars(self), "_made", "_statistics"} - {"_names", "_calls"})

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
        if not self.is_image:
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
    def _bounds(self) -> list[list[float | None]] | None:
        return self._config.get("bounds")

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
        own = self.named_parameters()
        if not isinstance(state, dict):
            raise TypeError(f"[load_state_dict] expected a dict of arrays, got {type(state).__name__}")
        state = dict(state)
        calls = checks.whole("load_state_dict", CALLS, np.asarray(state.pop(CALLS, 0))[()], low=0)
        if own.keys() != state.keys():
            wrong = sorted(own.keys() ^ state.keys())
            raise ShapeError(f"[load_state_dict] the state is of another model: {wrong[0]!r} is in only one of them")
        taken = {}
        for name, value in own.items():
            array = arrays.as_numbers("load_state_dict", name, state[name])
            if array.shape != value.shape:
                raise ShapeError(f"[load_state_dict] expected {name} of shape {value.shape}, got {array.shape}")
            taken[name] = arrays.to_floats(f"load_state_dict, {name}", array.reshape(-1), self.dtype)
        before = self._core.values.copy()
        for name, value in own.items():
            value.reshape(-1)[:] = taken[name]
        try:
            self._core.check_parameters()
        except Exception:
            self._core.values[:] = before
            raise
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
        before, found = self._names, (("x", arrays.names_of(x)), ("context", arrays.names_of(context)))
        self._names = {what: names for what, names in found if names is not None}
        try:
            given = self._initialize("init", x, context)
        except BaseException:
            self._names = before
            raise
        if given is not None and len(given) > 1 and (column := arrays.constant_column(given)) is not None:
            warnings.warn(f"[init, context] column {column} is constant here, so the flow will ignore it; initialise "
                          "it with a context that varies", DataWarning, stacklevel=2)

    def _initialize(self, where: str, x: Any, context: Any) -> Any:
        """init, for a call of that name, without taking the names of columns; returns the context, if there is one."""
        x = self._take(where, x, least=1)
        self._check_levels(where, x)
        needed = self._context or context is not None
        given = self._given(where, None, context, len(x), resolve=True) if needed else None
        self._core.init(self._block(where, x, 0, len(x), seed=0), given)
        return given

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
        """
        return self._forward("forward", x, label, context)

    def _forward(self, where: str, x: Any, label: Any = None, context: Any = None,
                 first: int = 0) -> tuple[Array, Array]:
        """forward, for a call of that name. first: number of x's first row, for errors of data in pieces."""
        x = self._take(where, x)
        given = self._given(where, label, context, len(x), first=first)
        z, logdet = self._empty(x, (self.dims,)), self._empty(x, dtype=DOUBLE)
        for a, b in self._blocks(len(x)):
            block = self._block(where, x, a, b, first=first)
            self._core.forward(block, z[a:b], logdet[a:b], rows_of(given, a, b), first + a, where)
        return z, logdet

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
        """
        return self._inverse("inverse", z, label, context)

    def _inverse(self, where: str, z: Any, label: Any = None, context: Any = None,
                 first: int = 0) -> tuple[Array, Array]:
        """inverse, for a call of that name. first: as in _forward."""
        z = self._take_floats(where, z, (self.dims,))
        given = self._given(where, label, context, len(z), first=first)
        x, logdet = self._empty(z, self.shape), self._empty(z, dtype=DOUBLE)
        for a, b in self._blocks(len(z)):
            block = self._floats(where, z, a, b, first)
            self._core.inverse(block, x[a:b], logdet[a:b], rows_of(given, a, b), first + a, where)
        return x, logdet

    def encode(self, x: ArrayLike, *, label: ArrayLike | None = None, context: ArrayLike | None = None) -> Array:
        """Latents z (N, D) of data x, as in `forward`. Nothing is added or dropped: `decode` gives x back."""
        return self._forward("encode", x, label, context)[0]

    def decode(self, z: ArrayLike, *, label: ArrayLike | None = None, context: ArrayLike | None = None) -> Array:
        """Data x (N, *shape) of latents z (N, D), as in `inverse`; images in level units (see `to_uint8`)."""
        return self._inverse("decode", z, label, context)[0]

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
        """
        return self._log_prob("log_prob", x, label, context, seed, first)

    def _log_prob(self, where: str, x: Any, label: Any, context: Any, seed: int, first: int) -> Array:
        """log_prob, for a call of that name."""
        x, seed = self._take(where, x), checks.whole(where, "seed", seed, low=0)
        self._warn_of_levels(where, x)
        first = checks.whole(where, "first", first, low=0, high=checks.LARGEST - len(x))
        given = self._given(where, label, context, len(x), first=first)
        out = self._empty(x, dtype=DOUBLE)
        if self._in_one_block(x):
            self._core.log_prob(self._block(where, x, 0, len(x), seed, first), out, given, first, where)
            return out
        for a, b in self._blocks(len(x)):
            block = self._block(where, x, a, b, seed, first)
            self._core.log_prob(block, out[a:b], rows_of(given, a, b), first + a, where)
        return out

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
        """
        where = "log_prob_and_grad"
        x, seed = self._take(where, x), checks.whole(where, "seed", seed, low=0)
        first = checks.whole(where, "first", first, low=0, high=checks.LARGEST - len(x))
        given = self._given(where, label, context, len(x), first=first)
        place = self._place(where, dcontext, len(x))
        log_prob, grad = self._empty(x, dtype=DOUBLE), self._empty(x, self.shape)
        for a, b in self._blocks(len(x)):
            block = self._block(where, x, a, b, seed, first)
            self._core.log_prob_and_grad(block, log_prob[a:b], grad[a:b], rows_of(given, a, b), first + a,
                                         rows_of(place, a, b))
        return log_prob, grad

    def bits_per_dim(self, x: ArrayLike, *, label: ArrayLike | None = None, context: ArrayLike | None = None,
                     seed: int = 0) -> Array:
        """-log2 p(x) / D of each row, (N,) float64; uniform noise over all levels has exactly `bits`.

        Parameters and errors are those of `log_prob`.
        """
        log_prob = self._log_prob("bits_per_dim", x, label, context, seed, 0)
        nats = -self.dims * math.log(2)
        if isinstance(log_prob, np.ndarray):
            return log_prob / nats
        self._core.scale(log_prob, 1 / nats)
        return log_prob

    def sample(self, n: int, *, label: ArrayLike | None = None, context: ArrayLike | None = None,
               seed: int | None = None, first: int = 0, temperature: float = 1.0, device: str = "cpu") -> Array:
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

        Returns
        -------
        ndarray, (n, *shape)
            Of the model's dtype; images are in level units (see `to_uint8`).

        Raises
        ------
        ConfigError, DeviceError, NumericError
            An argument doesn't fit the model, or a sample is not finite.
        """
        return self._sample("sample", n, label, context, seed, first, temperature, device, False)[0]

    def sample_and_log_prob(self, n: int, *, label: ArrayLike | None = None, context: ArrayLike | None = None,
                            seed: int | None = None, first: int = 0, temperature: float = 1.0,
                            device: str = "cpu") -> tuple[Array, Array]:
        """Draws samples and returns their log density, in one pass.

        Parameters and errors are those of `sample`, and so are the samples.

        Returns
        -------
        x : ndarray, (n, *shape)
            The samples.
        log_prob : ndarray of float64, (n,)
            log p(x) in nats: the flow's density, at any temperature.
        """
        return self._sample("sample_and_log_prob", n, label, context, seed, first, temperature, device, True)

    def _sample(self, where: str, n: int, label: Any, context: Any, seed: int | None, first: int, temperature: float,
                device: str, scored: bool) -> tuple[Array, Array]:
        n, seed, first = self._draws(where, n, seed, first)
        temperature = checks.number(where, "temperature", temperature, 0.0)
        if not isinstance(device, str) or device not in ("cpu", self.device):
            raise DeviceError(f"[{where}] expected device 'cpu' or the model's, {self.device!r}, got {device!r}")
        with arrays.memory_for(where, f"{n} samples"):
            x = arrays.empty(device, (n, *self.shape), self.dtype)
            log_prob = arrays.empty(device, (n,), DOUBLE) if scored else None
        given = self._given(where, label, context, n)
        for a, b in self._blocks(n):
            self._core.sample(x[a:b], temperature, seed, rows_of(given, a, b), first + a, a, rows_of(log_prob, a, b))
        return x, log_prob

    def base_sample(self, n: int, *, seed: int | None = None, first: int = 0, temperature: float = 1.0) -> np.ndarray:
        """Draws from the base distribution: the latents z (n, D) of which `sample` makes its samples.

        Parameters
        ----------
        n, seed, first, temperature
            As in `sample`.
        """
        n, seed, first = self._draws("base_sample", n, seed, first)
        temperature = checks.number("base_sample", "temperature", temperature, 0.0)
        with arrays.memory_for("base_sample", f"{n} samples"):
            z = np.empty((n, self.dims), self.dtype)
        for a, b in self._blocks(n):
            self._core.base_sample(z[a:b], temperature, seed, first + a)
        return z

    def base_log_prob(self, z: ArrayLike) -> Array:
        """Log density (N,) float64 of latents z (N, D) under the base distribution, in nats.

        log_prob(x) = base_log_prob(z) + logdet for z, logdet = forward(x).
        """
        z = self._take_floats("base_log_prob", z, (self.dims,))
        out = self._empty(z, dtype=DOUBLE)
        for a, b in self._blocks(len(z)):
            self._core.base_log_prob(self._floats("base_log_prob", z, a, b), out[a:b])
        return out

    def _draws(self, where: str, n: int, seed: int | None, first: int) -> tuple[int, int, int]:
        most = checks.LARGEST // (self.dims * self.dtype.itemsize)
        n = checks.whole(where, "n", n, low=0, high=most)
        seed = secrets.randbits(63) if seed is None else checks.whole(where, "seed", seed, low=0)
        return n, seed, checks.whole(where, "first", first, low=0, high=checks.LARGEST - n)

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
        x = self._take("class_log_prob", x)
        if not self._config.get("class_weight"):
            raise ConfigError("[class_log_prob] this model has no class head; make one with class_weight > 0")
        out = self._empty(x, (self.classes,), DOUBLE)
        for a, b in self._blocks(len(x)):
            self._core.class_log_prob(self._block("class_log_prob", x, a, b), out[a:b], a)
        return out

    def to_uint8(self, x: ArrayLike) -> np.ndarray:
        """Samples or decoded images, in level units, as 8-bit pixels of the same shape; see `evenflow.to_uint8`."""
        return arrays.to_uint8(x, self.bits)

    def split_latent(self, z: ArrayLike) -> list[np.ndarray]:
        """Splits latents z (N, D) into their levels, finest first: views (N, h, w, c) for images, (N, d) for tables."""
        z = arrays.check_batch("split_latent", z, (self.dims,))
        parts = []
        for offset, shape in self._core.levels():
            part = z[:, offset:offset + math.prod(shape)]
            parts.append(part.reshape(len(z), *shape) if self.is_image else part)
        return parts

    def join_latent(self, levels: list[Any]) -> np.ndarray:
        """Joins levels as `split_latent` returns them to latents z (N, D)."""
        wanted = self._core.levels()
        if not isinstance(levels, (list, tuple)):
            raise TypeError(f"[join_latent] expected a list of {len(wanted)} levels, got {type(levels).__name__}")
        if len(levels) != len(wanted):
            raise ShapeError(f"[join_latent] expected {len(wanted)} levels, got {len(levels)}")
        parts: list[np.ndarray] = []
        for part, (_, shape) in zip(levels, wanted):
            expected = shape if self.is_image else (math.prod(shape),)
            parts.append(arrays.check_batch("join_latent", part, expected))
            if len(parts[-1]) != len(parts[0]):
                raise ShapeError(f"[join_latent] expected {len(parts[0])} samples in every level, got {len(parts[-1])}")
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
        place = self._place(where, dcontext, len(batch))
        if nll is not None and not _fits(nll, (len(batch),), DOUBLE):
            raise _no_place(where, "nll", nll, (len(batch),), DOUBLE)
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
        z = self._take_floats("backward", z, (self.dims,))
        dz = self._take_floats("backward", dz, (self.dims,))
        dlogdet = self._take_floats("backward", dlogdet, (), DOUBLE)
        if not len(z) == len(dz) == len(dlogdet):
            raise ShapeError(f"[backward] expected dz {z.shape} and dlogdet {z.shape[:1]}, "
                             f"got {dz.shape} and {dlogdet.shape}")
        given = self._given("backward", label, context, len(z))
        real = None
        if truth is not None:
            real = self._floats("backward", self._take_floats("backward", truth, self.shape))
        x, dx = self._empty(z, self.shape), self._empty(z, self.shape)
        place = self._place("backward", dcontext, len(z))
        if len(z) == 0:
            return x, dx
        drift = self._core.backward(self._floats("backward", z), self._floats("backward", dz),
                                    self._floats("backward", dlogdet, dtype=DOUBLE), x, dx, given, place, real)
        if not drift <= DRIFT[self._dtype.name]:
            raise NumericError(f"[backward] expected z to give truth back, got a row that is off by {drift:.1e} of its "
                               "largest value: z is of other data or parameters, or the flow can't be inverted here; "
                               "then lower the learning rate, clip the gradient, use float64, or train by "
                               "loss_and_grad (FlowModule.loss)")
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
        x, dx = self._take_floats(where, x, self.shape), self._take_floats(where, dx, self.shape)
        dlogdet = self._take_floats(where, dlogdet, (), DOUBLE)
        if not len(x) == len(dx) == len(dlogdet):
            raise ShapeError(f"[inverse_backward] expected dx {x.shape} and dlogdet {x.shape[:1]}, "
                             f"got {dx.shape} and {dlogdet.shape}")
        given = self._given(where, label, context, len(x))
        known = None
        if z is not None:
            z = self._take_floats(where, z, (self.dims,))
            if len(z) != len(x):
                raise ShapeError(f"[inverse_backward] expected z {(len(x), self.dims)}, got {z.shape}")
            known = self._floats(where, z)
        latents, dz = self._empty(x, (self.dims,)), self._empty(x, (self.dims,))
        place = self._place(where, dcontext, len(x))
        if len(x) == 0:
            return latents, dz
        distance = self._core.inverse_backward(self._floats(where, x), self._floats(where, dx),
                                               self._floats(where, dlogdet, dtype=DOUBLE), latents, dz, given, place,
                                               known)
        if not distance <= DRIFT[self._dtype.name]:
            raise NumericError(f"[inverse_backward] expected the x that inverse makes of z, got a row that is off "
                               f"by {distance:.1e} of its largest value; the parameters have changed since, or z "
                               "belongs to other samples")
        return latents, dz

    @functools.cached_property
    def _statistics(self) -> slice:
        """Where running statistics are among all values, next to each other."""
        places = [(at, at + n) for _, _, group, at, n in self.entries() if group == "stats"]
        return slice(min((a for a, _ in places), default=0), max((b for _, b in places), default=0))

    # Arrays in the core's form

    def _check(self, where: str, x: Any, least: int = 0) -> np.ndarray:
        """Data for a call that computes with numpy too."""
        self._check_names(where, "x", x)
        return arrays.check_batch(where, x, self._shape, image=self._is_image, least=least)

    def _take(self, where: str, x: Any, least: int = 0) -> Taken:
        """Data, on their device: uint8 images, else floats."""
        if self._names:
            self._check_names(where, "x", x)
        return arrays.take_batch(where, x, self._shape, self._dtype, self._device, image=self._is_image, least=least)

    def _take_floats(self, where: str, x: Any, shape: tuple[int, ...], dtype: np.dtype | None = None) -> Taken:
        return arrays.take_batch(where, x, shape, self._dtype if dtype is None else dtype, self._device)

    def _check_names(self, where: str, what: str, x: Any) -> None:
        """ShapeError for a data frame whose columns are not those, in that order, of the one that initialised."""
        wanted = self._names.get(what)
        if wanted is None or type(x) is np.ndarray:
            return
        names = arrays.names_of(x)
        if names is None and sorted(row := arrays.names_of_row(x)) == sorted(wanted):
            names = row
        if names is None or names == wanted:
            return
        if sorted(names) == sorted(wanted):
            raise ShapeError(f"[{where}] the columns are in another order than those that the flow was trained on; "
                             f"pass frame[{wanted}]")
        missing = [f"{name} is missing" for name in wanted if name not in names]
        others = [f"{name} is unexpected" for name in names if name not in wanted]
        twice = [f"{name} is there twice" for name in dict.fromkeys(names) if names.count(name) > 1]
        raise ShapeError(f"[{where}] the columns are not those that the flow was trained on: "
                         f"{', '.join(missing + others + twice)}"
                         + f"; pass frame[{wanted}]" * (not missing and not twice))

    def _check_levels(self, where: str, x: Taken) -> None:
        """ConfigError for images that are not in level units, such as torch's in [0, 1]."""
        wrong = self._wrong_levels(np.asarray(x))
        if wrong:
            raise ConfigError(f"[{where}] {wrong}")

    def _warn_of_levels(self, where: str, x: Taken) -> None:
        """The same as a DataWarning: a single image may well be black, and samples reach beyond the levels."""
        wrong = self._wrong_levels(x, beyond=2.0)
        if wrong:
            warnings.warn(f"[{where}] {wrong}", DataWarning, stacklevel=4)

    def _wrong_levels(self, x: Taken, beyond: float = 0.0) -> str:
        """What is wrong with the range of a batch of images; nothing for other data.

        beyond: how far it may reach beyond the levels, in units of their range.
        """
        if not self._is_image or not len(x) or isinstance(x, DeviceArray):
            return ""
        low, high, top = float(np.min(x)), float(np.max(x)), 2**self._bits
        if x.dtype == np.uint8:
            if not 0 < high < top < 256:
                return ""
            return (f"these pixels lie in 0 ... {high:g}, but pixels have 8 bits, of which a model of {self._bits} "
                    f"takes the upper ones; pass {256 // top} * x, or floats in 0 ... {top}")
        if not math.isfinite(high - low):
            return ""
        scale = f"pass uint8 pixels, or floats in 0 ... {top}"
        if 0 <= low and high <= 1 and self._bits > 1:
            return (f"these images lie in [0, 1], but a model of {self._bits} bits expects levels 0 ... {top - 1}; "
                    f"{scale}")
        if low < -beyond * top or high > (1 + beyond) * top:
            return f"expected image levels in 0 ... {top}, got values in {low:g} ... {high:g}; {scale}"
        return ""

    def _given(self, where: str, label: Any, context: Any, n: int, *, on_host: bool = False,
               resolve: bool = False, first: int = 0) -> Any:
        """What the density of n samples is conditioned on, checked: labels (n,) or a context (n, C), if any.

        on_host: a context is in main memory, as the rest of a training's data. resolve: see arrays.take_context.
        first: number of the first sample, for errors of data in pieces.
        """
        if self._context:
            arrays.check_labels(where, label, n, 0)
            self._check_names(f"{where}, context", "context", context)
            device = "cpu" if on_host else self._device
            taken = arrays.take_context(where, context, n, self._context, self._dtype, device, resolve, first)
            return self._floats(f"{where}, context", taken, first=first) if isinstance(taken, DeviceArray) else taken
        if context is not None:
            raise ConfigError(f"[{where}] a context was given, but the model has none")
        return arrays.check_labels(where, label, n, self._classes, first)

    def _by_name(self, given: Taken | None) -> dict[str, Any]:
        """_given's result as an argument of this class's calls."""
        return {"context" if self._context else "label": given}

    def _conditions(self, given: Any) -> dict[str, Any]:
        """What rows of a file come with, as an argument of this class's calls. Labels are left out if the model has no
        use for them."""
        return self._by_name(given if self._context or self._classes else None)

    def _place(self, where: str, dcontext: Taken | None, n: int) -> Taken | None:
        """dcontext, if the gradient by the context may be written to it."""
        if dcontext is None:
            return None
        if not self._context:
            raise ConfigError(f"[{where}] dcontext was given, but the model has no context")
        if isinstance(dcontext, DeviceArray):
            fits = dcontext.shape == (n, self._context) and dcontext.dtype == self._dtype
        else:
            fits = _fits(dcontext, (n, self._context), self._dtype)
        if not fits:
            raise _no_place(where, "dcontext", dcontext, (n, self._context), self._dtype)
        return dcontext

    def _in_one_block(self, x: Taken) -> bool:
        most = min(FIRST_VALUES, BLOCK_VALUES)
        return bool(0 < x.size <= most and len(x) * self._context_values <= most)

    def _blocks(self, n: int) -> Iterator[tuple[int, int]]:
        """Slices of n rows, which grow while the caller works through them quickly."""
        width = max(self._dims, self._context_values)
        most, a = max(1, BLOCK_VALUES // width), 0
        size = min(most, max(1, FIRST_VALUES // width))
        if 0 < n <= size:  # a call for one row should not wait for the clock
            yield 0, n
            return
        while a < n:
            b = min(n, a + size)
            start = time.monotonic()
            yield a, b
            seconds = time.monotonic() - start
            a = b
            if seconds < BLOCK_SECONDS / 2:
                size = min(most, 2 * size)
            elif seconds > 2 * BLOCK_SECONDS:
                size = max(1, size // 2)

    def _empty(self, like: Taken, shape: tuple[int, ...] = (), dtype: np.dtype | None = None) -> Taken:
        """For results (N, *shape) of the model's dtype, on the device of `like` (N, ...)."""
        device = like.device if isinstance(like, DeviceArray) else "cpu"
        return arrays.empty(device, (len(like), *shape), self._dtype if dtype is None else dtype)

    def _block(self, where: str, x: Taken, a: int, b: int, seed: int | None = None, first: int = 0) -> Any:
        """Rows [a, b) as floats; seed None: whole levels, no noise."""
        if x.dtype != np.uint8:
            return self._floats(where, x, a, b, first)
        part = x[a:b] if isinstance(x, DeviceArray) else np.ascontiguousarray(x[a:b])
        levels = self._empty(part, self._shape)
        self._core.dequantize(part, self._bits, seed, first + a, levels)
        return levels

    def _floats(self, where: str, x: Taken, a: int = 0, b: int | None = None, first: int = 0,
                dtype: np.dtype | None = None) -> Any:
        """Rows [a, b) of floats as the core takes them. NumericError names the first that is not finite."""
        part = x[a:b]
        if not isinstance(part, DeviceArray):
            names = self._names.get("x") if part.shape[1:] == self._shape else None
            return arrays.to_floats(where, part, self._dtype if dtype is None else dtype, first=first + a, names=names)
        at = self._core.first_not_finite(part)
        if at >= 0:
            row, *place = (int(i) for i in np.unravel_index(at, part.shape))
            value = np.asarray(part[row:row + 1])[(0, *place)]
            raise arrays.not_finite(where, value, first + a + row, place, part.dtype)
        return part


def rows_of(given: Taken | None, a: int, b: int) -> Taken | None:
    """Rows [a, b) of an array, if there is one."""
    return None if given is None else given[a:b]


def _fits(place: Any, shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether a call can write values to the array."""
    return (isinstance(place, np.ndarray) and place.dtype == dtype and place.shape == shape and place.flags.carray)


def _no_place(where: str, name: str, place: Any, shape: tuple[int, ...], dtype: np.dtype) -> TypeError:
    return TypeError(f"[{where}] expected {name} to be a writable, C-contiguous array {shape} of {dtype}, got "
                     f"{type(place).__name__} {np.shape(place)} of {getattr(place, 'dtype', 'no dtype')}")


def compiled(where: str, config: dict[str, Any], device: str, threads: int) -> _core.Flow32 | _core.Flow64:
    """The compiled model of a `config`. ConfigError or ShapeError if its settings don't fit together."""
    with arrays.memory_for(where, "the model"):
        try:
            return _core.build(json.dumps(config), device=device, threads=threads)
        except ShapeError as error:  # torch's order of an image's axes is another
            raise ShapeError(f"{error} (shapes are (H, W, C))") from None


for _name, _member in vars(Density).items():  # Python's own errors name the class that users know
    if callable(_member) and not _name.startswith("_"):
        _member.__qualname__ = f"Flow.{_name}"

Checked = TypeVar("Checked", bound=Density)


def check_flow(where: str, flow: Checked) -> Checked:
    """TypeError for anything but a flow."""
    if not isinstance(flow, Density):
        raise TypeError(f"[{where}] expected a Flow, got {type(flow).__name__}")
    return flow


# What other modules need of a flow, beyond what users have


def core_of(flow: Density) -> _core.Flow32 | _core.Flow64:
    """The compiled core. Its `values` are all tensors, flat and writable."""
    return flow._core


def bounds_of(flow: Density) -> Pairs | None:
    """(low, high) of every column of a table with bounds."""
    return flow._bounds


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


def blocks(flow: Density, n: int) -> Iterator[slice]:
    """Slices of n rows, which grow while the caller works through them quickly."""
    return (slice(a, b) for a, b in flow._blocks(n))


def take(flow: Density, where: str, x: Any, label: Any = None, context: Any = None, weight: Any = None, *,
         least: int = 0, first: int = 0) -> Batch:
    """What a call was given, checked, on the device where each was: uint8 images or floats of any type.

    first: number of the first row, for errors of data in pieces. least: smallest number of rows.
    """
    x = flow._take(where, x, least)
    return _batch(x, flow, flow._given(where, label, context, len(x), first=first),
                  check_weights(where, weight, len(x), first))


def take_latents(flow: Density, where: str, z: Any, label: Any = None, context: Any = None, *,
                 first: int = 0) -> Batch:
    """The same of latents (N, D)."""
    z = flow._take_floats(where, z, (flow.dims,))
    return _batch(z, flow, flow._given(where, label, context, len(z), first=first))


def check(flow: Density, where: str, x: Any, label: Any = None, context: Any = None, weight: Any = None, *,
          least: int = 0, resolve: bool = False) -> Batch:
    """The same for work in numpy: all in main memory. Data in files (`Rows`, np.memmap) stay there, unread.

    resolve: NumericError for a column of the context that varies, and not in the model's dtype.
    """
    x = flow._check(where, x, least)
    return _batch(x, flow, flow._given(where, label, context, len(x), on_host=True, resolve=resolve),
                  check_weights(where, weight, len(x)))


def for_flow(flow: Density, batch: Batch) -> Batch:
    """Rows of a file as this flow takes them: without the labels and contexts that it has no use for."""
    return Batch(batch.x, batch.label if flow._classes else None, batch.context if flow._context else None,
                 batch.weight)


def check_levels(flow: Density, where: str, x: Any) -> None:
    """ConfigError for images that are not in level units, such as torch's in [0, 1]."""
    flow._check_levels(where, x)


def floats(flow: Density, where: str, x: Any, seed: int | None = None, first: int = 0) -> Any:
    """Taken data in the model's dtype, images in level units: uint8 with noise of this seed, or None: whole levels.

    NumericError names the first value that is not finite.
    """
    return flow._block(where, x, 0, len(x), seed, first)


def initialize(flow: Density, where: str, batch: Batch) -> None:
    """`Flow.init`, for a call of that name; the names of columns stay as they are."""
    flow._initialize(where, batch.x, batch.context)


def forward(flow: Density, where: str, batch: Batch, first: int = 0) -> tuple[Array, Array]:
    """`Flow.forward`, for a call of that name. first: number of the first row, for errors of data in pieces."""
    return flow._forward(where, batch.x, **batch.conditions, first=first)


def inverse(flow: Density, where: str, batch: Batch, first: int = 0) -> tuple[Array, Array]:
    """`Flow.inverse` of latents, in the same way."""
    return flow._inverse(where, batch.x, **batch.conditions, first=first)


def loss_and_grad(flow: Density, batch: Batch, budget: int, seed: int, *, first: int = 0, weight: float = 1.0,
                  **more: Any) -> float:
    """`Flow.loss_and_grad` of a checked batch; `first` numbers the rows, for noise and dropout.

    budget: bytes of activations to keep, -1: a share of the free memory.
    more: dcontext; nll; sum_over_ranks adds up an array in place, so that batch norm takes the moments of all ranks'
    rows; complete is told during the pass which of gradient_parts(least) are complete.
    """
    block = flow._block("loss_and_grad", batch.x, 0, len(batch), seed, first)
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


def budget_of(where: str, activation_budget: int | None) -> int:
    """Bytes of activations that a training call keeps, as the core takes them."""
    return -1 if activation_budget is None else checks.whole(where, "activation_budget", activation_budget, low=0)


def _batch(x: Any, flow: Density, given: Any, weight: Any = None) -> Batch:
    return Batch(x, None if flow._context else given, given if flow._context else None, weight)
