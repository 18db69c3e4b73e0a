"""Flow: the public surface of every model, over the compiled core."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import difflib
import functools
import inspect
import math
import os
from typing import TYPE_CHECKING, Any
from collections.abc import Callable, Iterator

import numpy as np

from evenflow import _core, arrays
from evenflow._core import DeviceArray
from evenflow.arrays import Batch
from evenflow.batches import Batches, rows_of
from evenflow.errors import ConfigError, DeviceError, NumericError, ShapeError
from evenflow.weights import check_weights

if TYPE_CHECKING:
    from evenflow.optim import MovingAverage, Optimizer

Array = Any
"""What a call returns: numpy.ndarray, or DeviceArray where its (first) array came on the GPU."""

DOUBLE = np.dtype(np.float64)

DRIFT = {"float32": 1e-3, "float64": 1e-8}
"""How far a batch that backward rebuilds may be off, relative to its largest value, of the data or standardised."""


class Flow(Batches):
    """A normalizing flow: x <-> z with exact log-density. Made by Glow, RealNVP, NICE or `load`.

    Images are (N, H, W, C), uint8 or floats in level units 0 ... 2^bits; tables are (N, D) floats. Arrays in
    are numpy, or anything with DLPack or __array__; arrays out are numpy of the model's dtype. Latents are
    flat, (N, D), and standardised: the base density has no parameters. log_prob is in nats of the density in
    the units of the data; log-determinants are float64, one a sample.

    A model of device="cuda" takes arrays on its GPU as well, from any library with DLPack, and leaves them
    there: C-contiguous, of the model's dtype or uint8 for images, log-determinants float64. A call whose
    first array is on the GPU returns DeviceArrays. Labels and weights are in main memory. See docs/cuda.md.

    A conditional density takes what it is given in every call: a model with classes their numbers as label,
    (N,) or one for all; a model with a context that many numbers a sample as context, (N, C) or (C,) for all.

    Everywhere: TypeError on a wrong dtype, ShapeError on a wrong shape or an empty batch, NumericError on NaN
    or infinity in the data (with its place), ConfigError on an unknown label, on a label or context that is
    missing or that the model has none of, and before `init`, DeviceError on an array of another GPU.

    Calls that only read the model (forward, inverse, log_prob, sample, encode, decode) may run in several
    threads at once, and release the GIL; calls that write it (init, loss_and_grad, train_step, backward, fit) need the
    flow for themselves: others beside them may give mixed numbers, but nothing crashes. The child of a fork
    computes on one thread if its parent had several, since these stay there; the bits are the same. copy,
    deepcopy and pickle give an independent flow with the same values, without gradients.
    """

    def __init__(self, core: _core.Flow32 | _core.Flow64, config: dict[str, Any]):
        super().__init__(core, isinstance(config["shape"], list), config.get("bits"))
        self._config = config
        self.last_step: dict[str, Any] = {}
        """Of the last loss_and_grad or train_step: loss, nll, class_nll, class_error; drift: how far the rebuilt batch
        was off, relative to its largest value; fallback: whether the step was repeated from checkpoints for that;
        then drift_layer, the layer whose own inverse was worst, and drift_in_layer, how far it was off.
        """

    # What the model is

    @property
    def config(self) -> dict[str, Any]:
        """The model's name and all its settings, as JSON holds them; a copy."""
        return copy.deepcopy(self._config)

    @property
    def dtype(self) -> np.dtype:
        """float32 or float64."""
        return self._dtype

    @property
    def device(self) -> str:
        """Where the model computes, "cpu" or "cuda"."""
        return self._device

    @property
    def is_image(self) -> bool:
        """Whether samples are images (H, W, C) in level units, rather than rows of a table."""
        return self._is_image

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample: (H, W, C) or (D,)."""
        return self._shape

    @property
    def dims(self) -> int:
        """Values a sample, D."""
        return self._dims

    @property
    def bits(self) -> int:
        """Images: bits a channel; the data are levels 0 ... 2^bits - 1."""
        if not self.is_image:
            raise ConfigError("[bits] expected an image model, got one for tables")
        return int(self._config["bits"])

    @property
    def classes(self) -> int:
        """Number of classes that the density is conditioned on, 0 without."""
        return self._classes

    @property
    def context(self) -> int:
        """How many numbers a sample's density is conditioned on, C; 0 without."""
        return self._context

    @property
    def _bounds(self) -> list[list[float | None]] | None:
        return self._config.get("bounds")

    @property
    def initialized(self) -> bool:
        """Whether `init` was called; before, calls that compute with the model raise ConfigError."""
        return self._core.initialized

    def __repr__(self) -> str:
        settings = ", ".join(f"{k}={v!r}" for k, v in self._config.items() if k not in ("model", "shape"))
        state = "initialised" if self.initialized else "not initialised"
        return f"<{self._config['model']} {self.shape}, {settings}: {self.num_params} parameters, {state}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """For copy.deepcopy and pickle: settings and values; the copy runs on the default device."""
        return _restored, (self.config, self._core.values.copy())

    # Parameters

    @property
    def params(self) -> np.ndarray:
        """The trained values, flat; a writable view of the model. Gaps between tensors are zero."""
        return self._core.params

    @property
    def grads(self) -> np.ndarray:
        """Gradients of the trained values, in the layout of `params`; a writable view."""
        return self._core.grads

    @property
    def device_params(self) -> DeviceArray:
        """`params` on the GPU, the same memory: what another library writes there is the model's.

        DeviceError on the CPU. Another library's work on it is ordered before the model's by a call that is
        given an array of the same stream, else by waiting for it; the same before `params` is looked at.
        """
        return self._core.device_params

    @property
    def device_grads(self) -> DeviceArray:
        """`grads` on the GPU, the same memory, as device_params."""
        return self._core.device_grads

    @property
    def num_params(self) -> int:
        """Number of trained values, without the layout's gaps."""
        return sum(size for _, _, group, _, size in self.entries() if group in ("decay", "no_decay"))

    def zero_grad(self) -> None:
        """Sets all gradients to zero."""
        self._core.zero_grad()

    def entries(self) -> list[tuple[str, tuple[int, ...], str, int, int]]:
        """(name, shape, group, offset, size) of every tensor, the data's side first.

        offset: of its first value in the flat buffers, which are ordered by group: "decay" and "no_decay" are
        trained, "stats" are running statistics, "fixed" never change.
        """
        return self._core.entries()

    def named_parameters(self) -> dict[str, np.ndarray]:
        """Every tensor by name, running statistics and fixed tensors included; writable views."""
        values = self._core.values
        return {name: values[offset:offset + size].reshape(shape)
                for name, shape, _, offset, size in self.entries()}

    def named_grads(self) -> dict[str, np.ndarray]:
        """The gradient of every trained tensor by name; writable views."""
        grads = self._core.grads
        return {name: grads[offset:offset + size].reshape(shape)
                for name, shape, group, offset, size in self.entries() if group in ("decay", "no_decay")}

    def init(self, x: Any, context: Any = None) -> None:
        """Data-dependent initialisation from a batch, once, before training (actnorm, standardisation).

        uint8 images are dequantised with seed 0. A context is standardised by this batch's mean and deviation.
        Calling it again starts again from the present parameters. NumericError where a channel is constant.
        """
        x = self._take("init", x)
        needed = self._context or context is not None
        given = self._given("init", None, context, len(x), resolve=True) if needed else None
        self._core.init(self._block("init", x, 0, len(x), seed=0), given)

    # Density, latents, samples

    def forward(self, x: Any, label: Any = None, context: Any = None) -> tuple[Array, Array]:
        """x -> z (N, D) and logdet (N,) = log |det dz/dx|. uint8 images get no noise."""
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

    def inverse(self, z: Any, label: Any = None, context: Any = None) -> tuple[Array, Array]:
        """z (N, D) -> x and logdet (N,) = log |det dx/dz|, minus forward's at x."""
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

    def encode(self, x: Any, label: Any = None, context: Any = None) -> Array:
        """x -> z (N, D). Nothing is added or dropped, so `decode` gives x back."""
        return self._forward("encode", x, label, context)[0]

    def decode(self, z: Any, label: Any = None, context: Any = None) -> Array:
        """z (N, D) -> x; images in level units (see `to_uint8`)."""
        return self._inverse("decode", z, label, context)[0]

    def log_prob(self, x: Any, seed: int = 0, label: Any = None, first: int = 0, context: Any = None) -> Array:
        """log p(x) (N,) float64, nats of the density in the units of x; log p(x | context) where there is one.

        seed: of the uniform dequantisation noise that uint8 images get; floats get none. The noise of row i
        depends on (seed, first + i) alone: first is the number of x's first row, for data in pieces.
        """
        return self._log_prob("log_prob", x, seed, label, first, context)

    def _log_prob(self, where: str, x: Any, seed: int, label: Any, first: int, context: Any) -> Array:
        """log_prob, for a call of that name."""
        x, seed = self._take(where, x), arrays.whole(where, "seed", seed, low=0)
        first = arrays.whole(where, "first", first, low=0, high=arrays.LARGEST - len(x))
        given = self._given(where, label, context, len(x), first=first)
        out = self._empty(x, dtype=DOUBLE)
        if self._in_one_block(x):
            self._core.log_prob(self._block(where, x, 0, len(x), seed, first), out, given, first, where)
            return out
        for a, b in self._blocks(len(x)):
            block = self._block(where, x, a, b, seed, first)
            self._core.log_prob(block, out[a:b], rows_of(given, a, b), first + a, where)
        return out

    def log_prob_and_grad(self, x: Any, seed: int = 0, label: Any = None, first: int = 0, context: Any = None,
                          dcontext: Batch | None = None) -> tuple[Array, Array]:
        """log p(x) (N,) float64 in nats and its gradient by x, in x's shape and the model's dtype.

        For MAP estimates, Langevin and Hamiltonian samplers, inpainting. Arguments as in log_prob. Far from
        the data, where a flow can't be inverted in its precision, the pass is repeated without rebuilding
        inputs. `grads` are left alone, and batch norm uses its running moments. NumericError where the
        density or its gradient is not finite. dcontext: see `backward`, of the sum of log-densities.
        """
        where = "log_prob_and_grad"
        x, seed = self._take(where, x), arrays.whole(where, "seed", seed, low=0)
        first = arrays.whole(where, "first", first, low=0, high=arrays.LARGEST - len(x))
        given = self._given(where, label, context, len(x), first=first)
        place = self._place(where, dcontext, len(x))
        log_prob, grad = self._empty(x, dtype=DOUBLE), self._empty(x, self.shape)
        for a, b in self._blocks(len(x)):
            block = self._block(where, x, a, b, seed, first)
            self._core.log_prob_and_grad(block, log_prob[a:b], grad[a:b], rows_of(given, a, b), first + a,
                                         rows_of(place, a, b))
        return log_prob, grad

    def bits_per_dim(self, x: Any, seed: int = 0, label: Any = None, context: Any = None) -> Array:
        """-log2 p(x) / D (N,); for images of `bits` bits, uniform data give exactly `bits`."""
        log_prob = self._log_prob("bits_per_dim", x, seed, label, 0, context)
        nats = -self.dims * math.log(2)
        if isinstance(log_prob, np.ndarray):
            return log_prob / nats
        self._core.scale(log_prob, 1 / nats)
        return log_prob

    def sample(self, n: int, temperature: float = 1.0, seed: int = 0, label: Any = None, first: int = 0,
               device: str = "cpu", context: Any = None) -> Array:
        """n samples, images as floats in level units (see `to_uint8`).

        temperature multiplies the base draw at every level. Sample i depends on (seed, first + i) alone, not
        on n: a large draw can be made in pieces, and the same seed gives the same samples: pass seed=step in a loop.
        device: where they shall be, "cpu" (numpy) or the model's.
        """
        most = arrays.LARGEST // (self.dims * self.dtype.itemsize)
        n, seed = arrays.whole("sample", "n", n, low=1, high=most), arrays.whole("sample", "seed", seed, low=0)
        temperature = arrays.number("sample", "temperature", temperature, 0.0)
        first = arrays.whole("sample", "first", first, low=0, high=arrays.LARGEST - n)
        if not isinstance(device, str) or device not in ("cpu", self.device):
            raise DeviceError(f"[sample] expected device 'cpu' or the model's, {self.device!r}, got {device!r}")
        with arrays.memory_for("sample", f"{n} samples"):
            x = arrays.empty(device, (n, *self.shape), self.dtype)
        given = self._given("sample", label, context, n)
        for a, b in self._blocks(n):
            self._core.sample(x[a:b], temperature, seed, rows_of(given, a, b), first=first + a, first_row=a)
        return x

    def class_log_prob(self, x: Any) -> Array:
        """The class head's log p(label | x), (N, classes). ConfigError without a class head."""
        x = self._take("class_log_prob", x)
        if not self._config.get("class_weight"):
            raise ConfigError("[class_log_prob] expected a model with class_weight > 0, "
                              "got one without a class head")
        out = self._empty(x, (self.classes,), DOUBLE)
        for a, b in self._blocks(len(x)):
            self._core.class_log_prob(self._block("class_log_prob", x, a, b), out[a:b], a)
        return out

    def to_uint8(self, x: Any) -> np.ndarray:
        """Samples or decoded images (level units) as 8-bit pixels of the same shape; see `evenflow.to_uint8`."""
        return arrays.to_uint8(x, self.bits)

    def split_latent(self, z: Any) -> list[np.ndarray]:
        """z (N, D) -> its levels, finest first: views (N, h, w, c) for images, (N, d) for tables."""
        z = arrays.check_batch("split_latent", z, (self.dims,), uint8=False)
        parts = []
        for offset, shape in self._core.levels():
            part = z[:, offset:offset + math.prod(shape)]
            parts.append(part.reshape(len(z), *shape) if self.is_image else part)
        return parts

    def join_latent(self, levels: list[Any]) -> np.ndarray:
        """The inverse of split_latent: levels -> z (N, D)."""
        wanted = self._core.levels()
        if not isinstance(levels, (list, tuple)):
            raise TypeError(f"[join_latent] expected a list of {len(wanted)} levels, "
                            f"got {type(levels).__name__}")
        if len(levels) != len(wanted):
            raise ShapeError(f"[join_latent] expected {len(wanted)} levels, got {len(levels)}")
        parts = []
        for part, (_, shape) in zip(levels, wanted):
            expected = shape if self.is_image else (math.prod(shape),)
            parts.append(arrays.check_batch("join_latent", part, expected, uint8=False))
            if len(parts[-1]) != len(parts[0]):
                raise ShapeError(f"[join_latent] expected {len(parts[0])} samples in every level, "
                                 f"got {len(parts[-1])}")
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)

    # Gradients

    def loss_and_grad(self, x: Any, label: Any = None, activation_budget: int | None = None, seed: int = 0,
                      weight: float = 1.0, *, context: Any = None, dcontext: Batch | None = None,
                      sample_weight: Any = None) -> float:
        """Mean negative log-likelihood in nats; adds its gradient, times `weight`, to `grads`.

        sample_weight: finite numbers (N,) >= 0, by which each row's terms of the loss are multiplied; the sum is
        still divided by N. Batch norm's moments are of all rows alike. With a class head the loss holds class_weight
        times the classification loss. activation_budget: bytes of conditioner activations to keep instead of
        recomputing them; None: a share of the free memory, 0: rebuild everything. Running statistics are updated.
        `last_step` holds the details. dcontext: see `backward`. NumericError where the loss is not finite.
        """
        x, seed = self._take("loss_and_grad", x), arrays.whole("loss_and_grad", "seed", seed, low=0)
        given = self._given("loss_and_grad", label, context, len(x))
        budget = -1 if activation_budget is None else arrays.whole("loss_and_grad", "activation_budget",
                                                                   activation_budget, low=0)
        weight = arrays.number("loss_and_grad", "weight", weight, -math.inf)
        return self._loss_and_grad(x, given, budget, seed, first=0, weight=weight,
                                   dcontext=self._place("loss_and_grad", dcontext, len(x)),
                                   sample_weight=check_weights("loss_and_grad", sample_weight, len(x)))

    def _loss_and_grad(self, x: Batch, given: Batch | None, budget: int, seed: int, first: int,
                       weight: float, **more: Any) -> float:
        """loss_and_grad of checked arguments; `first` numbers the rows for the dequantisation noise.

        more: dcontext; sample_weight; sum_over_ranks adds up an array in place: batch norms then take the moments of
        all ranks' rows. complete is told, in the pass, which of gradient_parts(least) are complete; see GradientWatch
        in C++.
        """
        block = self._block("loss_and_grad", x, 0, len(x), seed, first)
        step = self._core.loss_and_grad(block, given, budget, weight, **more)
        self.last_step = {**step}
        return step["loss"]

    def train_step(self, x: Any, optimizer: Optimizer, label: Any = None, activation_budget: int | None = None,
                   seed: int = 0, *, max_norm: float = 0.0, average: MovingAverage | None = None,
                   context: Any = None, sample_weight: Any = None) -> float:
        """One training step in one call, and its loss: `zero_grad`, `loss_and_grad`, `clip_grad_norm` where
        max_norm is not 0, `optimizer.step()` and `average.update()`.

        Faster than these one by one. Arguments as there; `last_step` has grad_norm, before clipping, as well.
        NumericError where the loss or a gradient is not finite: no value is changed, and `grads` are zero; bad data are
        refused before anything is.
        """
        where = "train_step"
        Optimizer, MovingAverage = _parts_of_a_step()
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"[{where}] expected an optimizer, got {type(optimizer).__name__}")
        if average is not None and not isinstance(average, MovingAverage):
            raise TypeError(f"[{where}] expected a MovingAverage or None, got {type(average).__name__}")
        if optimizer.flow is not self or (average is not None and average.flow is not self):
            raise ConfigError(f"[{where}] expected an optimizer, and an average if any, of this flow, "
                              "got another's")
        x, seed = self._take(where, x), arrays.whole(where, "seed", seed, low=0)
        given = self._given(where, label, context, len(x))
        budget = -1 if activation_budget is None else arrays.whole(where, "activation_budget",
                                                                   activation_budget, low=0)
        return self._train_step(x, given, check_weights(where, sample_weight, len(x)), budget, seed, optimizer,
                                arrays.number(where, "max_norm", max_norm, 0.0), average)

    def _train_step(self, x: Batch, given: Batch | None, sample_weight: np.ndarray | None, budget: int, seed: int,
                    optimizer: Optimizer, max_norm: float, average: MovingAverage | None) -> float:
        """train_step of checked arguments."""
        block = self._block("train_step", x, 0, len(x), seed, 0)
        if average is None:
            step = self._core.train_step(block, optimizer._core, given, budget, max_norm,
                                         sample_weight=sample_weight)
        else:
            step = self._core.train_step(block, optimizer._core, given, budget, max_norm, average._core,
                                         average.next_decay(), sample_weight)
            average.steps += 1
        self.last_step = {**step}
        return step["loss"]

    def backward(self, z: Any, dz: Any, dlogdet: Any, label: Any = None, context: Any = None,
                 dcontext: Batch | None = None, truth: Any = None) -> tuple[Array, Array]:
        """For a loss L(z, logdet) of your own: z, dL/dz (N, D) and dL/dlogdet (N,) -> x and dL/dx.

        x is rebuilt from z. Adds dL/dparams to `grads`. dcontext: an array (N, C) of the model's dtype, where
        z is, which dL/dcontext is written to. truth: floats, the batch that z was computed from; NumericError
        where the rebuilt one is off by more than 1e-3 (float64: 1e-8), so that gradients can't be trusted.
        """
        z = self._take_floats("backward", z, (self.dims,))
        dz = self._take_floats("backward", dz, (self.dims,))
        dlogdet = self._take_floats("backward", dlogdet, (), DOUBLE)
        if not len(z) == len(dz) == len(dlogdet):
            raise ShapeError(f"[backward] expected dz {z.shape} and dlogdet {z.shape[:1]}, "
                             f"got {dz.shape} and {dlogdet.shape}")
        given = self._given("backward", label, context, len(z))
        if truth is not None:
            truth = self._floats("backward", self._take_floats("backward", truth, self.shape))
        x, dx = self._empty(z, self.shape), self._empty(z, self.shape)
        drift = self._core.backward(self._floats("backward", z), self._floats("backward", dz),
                                    self._floats("backward", dlogdet, dtype=DOUBLE), x, dx, given,
                                    self._place("backward", dcontext, len(z)), truth)
        if not drift <= DRIFT[self._dtype.name]:
            raise NumericError(f"[backward] expected an invertible flow, got one whose rebuilt batch is off by "
                               f"{drift:.1e} of the largest value; use float64, or train by loss_and_grad "
                               "(FlowModule.loss)")
        return x, dx

    def inverse_backward(self, x: Any, dx: Any, dlogdet: Any, label: Any = None, context: Any = None,
                         dcontext: Batch | None = None) -> tuple[Array, Array]:
        """For a loss L(x, logdet) of `inverse`'s outputs: x, dL/dx (as x) and dL/dlogdet (N,) -> z and dL/dz.

        z (N, D) is rebuilt from x. Adds dL/dparams to `grads`. For losses of samples, such as reverse KL.
        dcontext: see `backward`.
        """
        where = "inverse_backward"
        x, dx = self._take_floats(where, x, self.shape), self._take_floats(where, dx, self.shape)
        dlogdet = self._take_floats(where, dlogdet, (), DOUBLE)
        if not len(x) == len(dx) == len(dlogdet):
            raise ShapeError(f"[inverse_backward] expected dx {x.shape} and dlogdet {x.shape[:1]}, "
                             f"got {dx.shape} and {dlogdet.shape}")
        given = self._given(where, label, context, len(x))
        z, dz = self._empty(x, (self.dims,)), self._empty(x, (self.dims,))
        self._core.inverse_backward(self._floats(where, x), self._floats(where, dx),
                                    self._floats(where, dlogdet, dtype=DOUBLE), z, dz, given,
                                    self._place(where, dcontext, len(x)))
        return z, dz

    # Training, files, self-test

    def fit(self, x: Any, valid: Any = None, *, label: Any = None, valid_label: Any = None,
            context: Any = None, valid_context: Any = None, sample_weight: Any = None,
            valid_sample_weight: Any = None, epochs: int | None = None, steps: int | None = None,
            callback: Any = None, checkpoint: str | os.PathLike[str] | None = None, resume: bool = False,
            comm: Any = None, **settings: Any) -> list[dict[str, Any]]:
        """Trains by maximum likelihood and returns the history, one dict an epoch.

        x, valid: data as in log_prob; label, valid_label: for models with classes; context, valid_context: for
        models with a context. sample_weight, valid_sample_weight: what rows count for, finite numbers (N,) >= 0, not
        all zero; None: all alike. Those of x are divided by their mean; an epoch's loss and the validation's are
        weighted means, a step's is its rows' terms times their weights, over the number of rows. Training ends after
        `epochs` passes (10 when neither is given) or `steps` updates, counted from the very first one, or
        when `patience` runs out. `valid` is looked at after every epoch, and the parameters that were best on
        it are kept; without it the moving average, if there is one, or the last. An uninitialised model is
        initialised from the data first. An error before the first step leaves the model as it was. DataWarning for a
        table that has no density: columns of few values, one value in many rows, repeated rows.

        Another call trains the present parameters, but begins everything else anew: optimiser, counts, and, with the
        same `seed`, the same order and noise, to which many short calls would fit the model. Give each its own
        `seed`, or go on from a checkpoint.

        checkpoint: model file; the training state goes beside it (model.safetensors,
        model.state.safetensors), every minute, at the end, and on Ctrl-C, SIGTERM or SIGHUP before
        KeyboardInterrupt is raised. resume=True goes on from it, with the same data and settings, as if there had
        been no stop; without, ConfigError where there is one already: training would begin by writing over it.
        callback(record) is called with a dict after every step ("event": "step") and epoch ("epoch"), as
        docs/training.md lists them; the history holds the latter.

        comm: an mpi4py communicator, or what `distributed` gives, whose ranks train together, each with the same flow,
        data and settings (docs/ranks.md). Its step is one process's, up to the order of sums; rank 0 writes the files.

        settings: the fields of `evenflow.settings.Settings`: batch_size=64, optimizer="adamax", lr=1e-3,
        warmup=0, lr_decay=1.0, lr_floor=0.0, clip=0.0, accumulate=1, average=0.0, patience=None,
        on_nonfinite="raise", seed=0, ... Of tables batch_size=32 ... 256 by N (`evenflow.presets.table`),
        optimizer="adam", lr=3e-3, a warm-up of an epoch or 100 steps, clip=20.0, average=0.99.
        """
        from evenflow import discrete, presets
        from evenflow.ranks import Ranks
        from evenflow.settings import Settings
        from evenflow.train import Trainer, refuse_used
        if arrays.flag("fit", "resume", resume) and checkpoint is None:
            raise ConfigError("[fit] expected checkpoint=... with resume=True, got none")
        known = [field.name for field in dataclasses.fields(Settings)]
        for name in settings:
            if name not in known:
                near = difflib.get_close_matches(name, [*inspect.signature(self.fit).parameters, *known], n=1)
                raise TypeError(f"[fit] expected the name of a setting, got {name}"
                                f"{'; nearest: ' if near else ''}{''.join(near)}")
        usual: dict[str, Any] = {}
        if not self._is_image:
            with contextlib.suppress(TypeError):  # of what is no data, or no number, which Trainer says
                usual = presets.table(len(x if hasattr(x, "__len__") else arrays.as_array("fit", x)),
                                      settings.get("batch_size"))
        checkpoint = None if checkpoint is None else arrays.file_name("fit", checkpoint)
        ranks = comm if isinstance(comm, Ranks) else Ranks(comm)
        ranks.lead(lambda: None if resume or checkpoint is None else refuse_used(checkpoint))
        with self._undone_on_error():
            trainer = Trainer(self, x, valid, label=label, valid_label=valid_label,
                              context=context, valid_context=valid_context, sample_weight=sample_weight,
                              valid_sample_weight=valid_sample_weight, settings=Settings(**{**usual, **settings}),
                              ranks=ranks)
            if checkpoint is not None and resume:
                trainer.load_state(checkpoint)
            if not self._is_image:
                ranks.lead(lambda: discrete.warn("fit", trainer))
            train = trainer._begin(epochs, steps, callback, checkpoint)
        train()
        return trainer.history

    @contextlib.contextmanager
    def _undone_on_error(self) -> Iterator[None]:
        """An error of the block leaves the values as they were."""
        values = self._core.values.copy()
        try:
            yield
        except BaseException:
            self._core.values[:] = values
            raise

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes settings and all tensors as one safetensors file. IoError leaves an old file as it was."""
        from evenflow.checkpoint import save
        save(self, arrays.file_name("save", path))

    def verify(self, x: Any, label: Any = None, seed: int = 0, context: Any = None) -> Any:
        """Tests the model on a few samples; see `evenflow.verify.Report`."""
        from evenflow.verify import verify
        return verify(self, x, label, seed, context)

    @functools.cached_property
    def _statistics(self) -> slice:
        """Where running statistics are among all values, next to each other."""
        places = [(at, at + n) for _, _, group, at, n in self.entries() if group == "stats"]
        return slice(min((a for a, _ in places), default=0), max((b for _, b in places), default=0))


@functools.cache
def _parts_of_a_step() -> tuple[type[Optimizer], type[MovingAverage]]:
    """Of evenflow.optim, which imports this module: looked up once, not in each step."""
    from evenflow.optim import MovingAverage, Optimizer
    return Optimizer, MovingAverage


def check_flow(where: str, flow: Any) -> Flow:
    """TypeError for anything but a flow."""
    if not isinstance(flow, Flow):
        raise TypeError(f"[{where}] expected a Flow, got {type(flow).__name__}")
    return flow


def _restored(config: dict[str, Any], values: np.ndarray) -> Flow:
    from evenflow.models import build
    flow = build(config)
    own = flow._core.values
    if np.shape(values) != own.shape:  # which numpy might broadcast
        raise ShapeError(f"[Flow] expected {own.size} values for {config['model']}, got {np.shape(values)}")
    own[:] = values
    return flow
