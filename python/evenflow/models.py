"""The models: constructors that check their settings and record them as `config`."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from evenflow import _core, checkpoint
from evenflow._border import checks, masks
from evenflow._border.bounds import by_column
from evenflow._border.bounds import checked as checked_bounds
from evenflow._border.checks import LARGEST, choice, flag, is_sequence, number, whole
from evenflow.errors import ConfigError, DeviceError, IoError, wrong
from evenflow._border.extras import load_backend
from evenflow.flow import Flow
from evenflow._border.names import hinted

DEVICES = ("cpu", "cuda")
MOST_THREADS = 1024


@dataclass(frozen=True)
class Setting:
    """The declaration of one setting of a model, for images or for tables (cpp/src/models/settings.hpp)."""

    model: str
    kind: str
    """"image" | "table"."""
    name: str
    type: str
    """"int" | "ints" | "float" | "bool" | "str" | "seed" | "bounds" | "mask" | "shape"."""
    default: Any
    low: int | None
    high: int | None
    """Of a number, or of each number in a list."""
    choices: list[str] | None
    optional: bool
    """Left out of `config` where it is 0, empty or the first of its choices."""
    laws: list[str]
    """The couplings that have the setting; empty: all."""
    help: str

    def checked(self, value: Any) -> Any:
        """The value as JSON holds it. TypeError, ConfigError."""
        if self.type == "bool":
            return flag(self.model, self.name, value)
        if self.type == "float":
            return number(self.model, self.name, value, self.low or 0)
        if self.type == "str":
            named = getattr(value, "__name__", getattr(value, "name", value)) if self.name == "dtype" else value
            return choice(self.model, self.name, named, tuple(self.choices or ()))
        if self.type != "ints":
            return self._whole(self.name, value)
        if not is_sequence(value):
            raise wrong(TypeError, self.model, self.name,
                        f"expected a sequence of widths for {self.name}, got {value!r}; one layer is (64,)")
        return [self._whole(f"a width in {self.name}", width) for width in value]

    def left_out(self, value: Any) -> bool:
        """Whether `config` has no such value."""
        return self.optional and (not value or self.choices is not None and value == self.choices[0])

    def _whole(self, name: str, value: Any) -> int:
        number = whole(self.model, name, value, self.low, 2**64 - 1 if self.type == "seed" else LARGEST)
        if self.high is not None and number > self.high:
            raise wrong(ConfigError, self.model, self.name,
                        f"expected {name} in {self.low} ... {self.high}, got {number}")
        return number


DECLARED: dict[tuple[str, str], list[Setting]] = {}
"""The settings of each model, by its name and "image" or "table"."""
for _setting in _core.settings():
    DECLARED.setdefault((_setting["model"], _setting["kind"]), []).append(Setting(**_setting))


class Glow(Flow):
    """Glow (Kingma, Dhariwal 2018) for images: steps of actnorm, 1x1 convolution and coupling, at several scales.

    Parameters
    ----------
    shape : (int, int, int)
        (H, W, C); H and W are divisible by 2^levels.
    levels, steps : int
        Number of scales, and steps of flow at each.
    hidden : int
        Channels inside the coupling nets.
    coupling : str
        Law of the couplings: "affine", the paper's; "additive"; or "bounded", affine with log-scales within +-2, also
        of the learned priors between scales. A "bounded" model stays invertible far from the data, where the nets of
        an "affine" one make samples overflow, and learns flat pictures faster.
    permutation : str
        Mixing of the channels: "lu" or "plain" (learned 1x1 convolution), "shuffle" or "reverse".
    learn_top : bool
        Learn mean and scale of the coarsest latents.
    classes : int
        Number of classes y of a density p(x | y); 0: none.
    class_weight : float
        Weight of a classification loss on the coarsest latents, in nats a sample.
    context : int
        Number of context values c of a density p(x | c); 0: none. The nets see them at each pixel, standardised by
        `init`. Excludes classes.
    bits : int
        Bits per channel of the images, 1 ... 8.
    seed : int
        For the initial parameters.
    dtype : str
        "float32" or "float64".
    conditioner_dtype : str
        Arithmetic inside the nets: "float32", or "bfloat16" (weights and hidden activations rounded, sums in float32;
        the flow stays exactly invertible). "float32" stands for dtype.
    device : str
        "cpu" or "cuda".
    threads : int
        0: `OMP_NUM_THREADS`, or all processors that the process may use.

    Raises
    ------
    ShapeError, ConfigError, TypeError
        A size or setting doesn't fit.
    DeviceError
        The device is not there.

    See Also
    --------
    RealNVP, NICE : Other models of images.
    Flow.fit : How to train it.

    Examples
    --------
    >>> digits = ef.data.load("digits")
    >>> flow = ef.Glow((8, 8, 1), levels=2, steps=2, hidden=16, bits=4)
    >>> flow.init(digits.train)
    >>> flow.sample(3, seed=1).shape
    (3, 8, 8, 1)
    """

    @hinted
    def __init__(self, shape: Sequence[int], *, levels: int = 3, steps: int = 32, hidden: int = 512,
                 coupling: str = "affine", permutation: str = "lu", learn_top: bool = True, classes: int = 0,
                 class_weight: float = 0.0, context: int = 0, bits: int = 8, seed: int = 0, dtype: str = "float32",
                 conditioner_dtype: str = "float32", device: str = "cpu", threads: int = 0):
        super().__init__(config_of("Glow", locals()), **place("Glow", device, threads))


class RealNVP(Flow):
    """Real NVP (Dinh, Sohl-Dickstein, Bengio 2016) for images: the paper's multi-scale model.

    For tables see `CouplingFlow`.

    Parameters
    ----------
    shape : (int, int, int)
        (H, W, C); H and W are divisible by 2^(levels - 1).
    levels, base_dim : int
        Number of scales, and channels of the residual nets at the finest.
    residual_blocks : int
        Blocks of each net.
    bottleneck, skip, weight_norm : bool
        Of the nets: blocks with a bottleneck, skip connections from every block to the output, weight norm.
    batch_norm : bool
        In the nets and between couplings. "auto": True, but False with a context, since a batch's moments are those
        of the contexts that it happens to have.
    recursion : int
        Share factored out at each scale: 1 none, 2 half, 3 three quarters, 4 as 3 with nets of equal width.
    coupling : str
        "affine", or "additive", in which the last coupling of each group stays affine.
    context, bits, seed, dtype, device, threads
        As in `Glow`.

    Raises
    ------
    ShapeError, ConfigError, TypeError, DeviceError
        As `Glow`.

    See Also
    --------
    Glow, NICE : Other models of images.
    CouplingFlow : For tables.

    Examples
    --------
    >>> flow = ef.RealNVP((8, 8, 1), base_dim=8, residual_blocks=1, bits=4)
    >>> flow.init(ef.data.load("digits").train)
    >>> flow.sample(3, seed=1).shape
    (3, 8, 8, 1)
    """

    @hinted
    def __init__(self, shape: Sequence[int], *, levels: int = 2, base_dim: int = 64, residual_blocks: int = 8,
                 bottleneck: bool = False, skip: bool = True, batch_norm: bool | Literal["auto"] = "auto",
                 weight_norm: bool = True, recursion: int = 2, coupling: str = "affine", context: int = 0,
                 bits: int = 8, seed: int = 0, dtype: str = "float32", device: str = "cpu", threads: int = 0):
        arguments = locals()
        if isinstance(batch_norm, str) and batch_norm == "auto":
            arguments["batch_norm"] = not whole("RealNVP", "context", context)
        super().__init__(config_of("RealNVP", arguments), **place("RealNVP", device, threads))


class CouplingFlow(Flow):
    """A flow of couplings for tables of D columns, p(x) or, with a context, p(x | c).

    A single column is mapped by numbers that the nets make of the context or, without one, that are parameters: nets,
    `mask` and `permutation` then have no effect.

    Parameters
    ----------
    shape : int
        Number of columns, D.
    context : int
        Number of context values c of a density p(x | c); 0: none. Every coupling's net sees them, standardised by
        `init`.
    couplings : int
        Number of couplings.
    law : str
        "spline" (monotone rational-quadratic; Durkan et al. 2019), "affine" (log-scale bounded by 2), "additive",
        "sigmoid" (nflows' affine law), "softplus" (glasflow's), "exp" or "glow" (normflows'); see
        "Coupling" in the documentation.
    bins : int
        Number of bins of a spline.
    bound : float
        A spline's bins lie on [-bound, bound], in units after `preprocess`; outside it is the identity.
    unconditional : bool
        Of splines: the columns that a coupling passes go through splines of their own, whose numbers are parameters,
        after the coupling's net has read them (RQ-NSF's option).
    net : str
        Net of each coupling: "residual", blocks of two dense layers around which the values pass, and which the context
        gates (nflows' `ResidualNet`), or "mlp", dense layers.
    hidden : sequence of int
        Widths of the hidden layers of each coupling's net; of a residual net one entry a block, all equal.
    activation : str
        What hidden units compute: "relu", "leaky_relu", "tanh", "silu" or "elu", as in torch.
    dropout : float
        Share of hidden units that each training step sets to 0, in [0, 1): after each hidden layer of an "mlp", between
        the two layers of a residual block. `train_step`, `loss_and_grad` and `fit` drop units; no density, sample or
        other gradient does.
    mask : str or array_like of bool
        Columns that a coupling changes; the others pass, and its net reads them. "halves", "odd-even": the second half
        or the odd columns, and the others, in turn. "log2": columns whose number has bit 0, then those without, then
        by bit 1 and so on, so that of any two columns each is changed by a coupling that reads the other within
        2 ceil(log2 D) couplings. Or (couplings, D), True where a column is changed: every coupling changes a column
        and, without a context, passes one. With permutation "none" every column is changed by a coupling.
    permutation : str
        Mixing of the columns between couplings: "none", "reverse", "shuffle" (an order that is drawn once), "lu" (a
        learned matrix, at first a random rotation) or "lu-shuffle" (a shuffle, then a learned matrix that is the
        identity at first). "auto": "lu-shuffle", but "shuffle" for more than 256 columns and for a uniform base.
    mix_last : bool
        Mix the columns after the last coupling, too, as sbi's "nsf" does.
    batch_norm, actnorm : bool
        Between couplings.
    base : str
        Distribution of the latents: "logistic", whose tails forgive rows far from the others, "gaussian" or "uniform".
        "auto": "logistic" with a learned matrix between couplings, which can scale it, and without a context; else
        "gaussian". With "uniform" data and latents lie in [0, 1]^D, as integrators want them: for splines, which lie on
        [0, 1] with free slopes at both ends, and no `bound`, `bounds`, `preprocess`, learned matrix or norm.
    preprocess : str
        Linear map of the data, fitted by `init`: "none", "standardize", "zca" or "whiten". "auto": "standardize", but
        "none" for a uniform base.
    bounds : sequence of (low, high), or dict of them by column, optional
        None for an open end or an unbounded column: values lie strictly between, so do samples, and the density outside
        is zero. The flow learns log(x - low) - log(high - x), without the logarithm of an open end.
    seed : int
        For the initial parameters and orders of columns.
    dtype, conditioner_dtype, device, threads
        As in `Glow`.

    Raises
    ------
    ShapeError, ConfigError, TypeError, DeviceError
        As `Glow`.

    See Also
    --------
    fit, log_prob, sample : What a flow does.
    load : A flow from its file.

    Examples
    --------
    >>> x, _ = ef.data.two_moons(1000, seed=0)
    >>> flow = ef.CouplingFlow(2, couplings=4, hidden=(32, 32))
    >>> history = flow.fit(x, epochs=2, verbose=False)
    >>> flow.sample(5, seed=1).shape
    (5, 2)

    Positive values of one column, given two others:

    >>> flow = ef.CouplingFlow(1, context=2, bounds=[(0, None)])
    >>> flow.init(np.exp(x[:, :1]), context=x)
    >>> bool((flow.sample(1000, context=[0.5, 0.2]) > 0).all())
    True
    """

    @hinted
    def __init__(self, shape: int, *, context: int = 0, couplings: int = 8, law: str = "spline", bins: int = 8,
                 bound: float = 4.0, unconditional: bool = False, net: str = "residual",
                 hidden: Sequence[int] = (64, 64), activation: str = "relu", dropout: float = 0.0,
                 mask: str | ArrayLike = "halves", permutation: str = "auto", mix_last: bool = False,
                 batch_norm: bool = False, actnorm: bool = False, base: str = "auto", preprocess: str = "auto",
                 bounds: Sequence[Any] | Mapping[int, Any] | None = None, seed: int = 0, dtype: str = "float32",
                 conditioner_dtype: str = "float32", device: str = "cpu", threads: int = 0):
        super().__init__(config_of("CouplingFlow", locals()), **place("CouplingFlow", device, threads))


class NICE(Flow):
    """NICE (Dinh, Krueger, Bengio 2014): additive couplings, then one scaling of every dimension.

    Parameters
    ----------
    shape : int or (int, int, int)
        Number of columns D >= 2, or (H, W, C) of images, whose levels are scaled to [0, 1].
    couplings : int
        Number of couplings.
    hidden : sequence of int
        Widths of the hidden layers of each coupling's net.
    prior : str
        Distribution of the latents, "logistic" or "gaussian".
    permutation : str
        First order of the dimensions: "tile" (even, then odd), "shuffle", "reverse" or "none".
    preprocess : str
        Linear map of the data, fitted by `init`: "none", "standardize", "zca" or "whiten".
    bounds : sequence of (low, high), or dict of them by column, optional
        For tables; see `CouplingFlow`.
    bits : int
        For images: bits per channel.
    seed, dtype, conditioner_dtype, device, threads
        As in `Glow`.

    Raises
    ------
    ShapeError, ConfigError, TypeError, DeviceError
        As `Glow`.

    See Also
    --------
    Glow, RealNVP : Other models of images.
    CouplingFlow : For tables.

    Examples
    --------
    >>> flow = ef.NICE((8, 8, 1), hidden=(64, 64), bits=4)
    >>> flow.init(ef.data.load("digits").train)
    >>> flow.encode(ef.data.load("digits").test).shape
    (297, 64)
    """

    @hinted
    def __init__(self, shape: int | Sequence[int], *, couplings: int = 4, hidden: Sequence[int] = (1000,) * 5,
                 prior: str = "logistic", permutation: str = "tile", preprocess: str = "none",
                 bounds: Sequence[Any] | Mapping[int, Any] | None = None, bits: int = 8, seed: int = 0,
                 dtype: str = "float32", conditioner_dtype: str = "float32", device: str = "cpu", threads: int = 0):
        super().__init__(config_of("NICE", locals()), **place("NICE", device, threads))

    def spectrum(self) -> np.ndarray:
        """The scaling layer's sigma = exp(-s), (D,) float64, largest first: NICE's figure 4.

        A latent dimension with a small sigma is one in which the data hardly vary, like a small singular value of a
        principal component analysis.
        """
        return np.sort(np.exp(-self.named_parameters()["scaling.logs"].astype(np.float64)))[::-1]


def set_matmul_precision(precision: str) -> None:
    """Sets how a GPU multiplies in the nets of float32 models.

    Parameters
    ----------
    precision : str
        "highest": as float32; "high": as TF32, which rounds the factors to 11 bits and is faster.
    """
    # Checked here, since a text that is not UTF-8 would not reach the core.
    _core.set_matmul_precision(choice("set_matmul_precision", "precision", precision, ("highest", "high")))


MODELS: dict[str, type[Flow]] = {"Glow": Glow, "RealNVP": RealNVP, "CouplingFlow": CouplingFlow, "NICE": NICE}


def build(config: dict[str, Any], device: str = "cpu", threads: int = 0) -> Flow:
    """The model that a `config` describes, with fresh parameters. ConfigError names what doesn't fit."""
    run = place("config", device, threads)
    name = config.get("model")
    model = MODELS.get(str(name), Flow)  # the core says what is wrong with another name
    flow = model.__new__(model)
    Flow.__init__(flow, config, **run)
    return flow


def load(path: str | os.PathLike[str] | bytes | IO[bytes], *, device: str = "cpu", threads: int = 0) -> Flow:
    """Loads a model that `Flow.save` wrote, ready to use.

    Parameters
    ----------
    path : path, bytes or binary file
        The model file.
    device : str
        Where to compute, "cpu" or "cuda".
    threads : int
        0: `OMP_NUM_THREADS`, or all processors that the process may use.

    Raises
    ------
    IoError
        The file is missing, truncated, foreign or damaged.
    DeviceError, ConfigError, TypeError
        The device or number of threads is not available.

    See Also
    --------
    Flow.save : Writes the file.

    Examples
    --------
    >>> flow = ef.CouplingFlow(2)
    >>> flow.save("model.safetensors")
    >>> ef.load("model.safetensors").num_params == flow.num_params
    True
    """
    run = place("load", device, threads)
    if isinstance(path, (str, os.PathLike)) and not os.path.isfile(name := checks.file_name("load", path)):
        what = (f"{name} is a folder; the model of a run is its file model.safetensors" if os.path.isdir(name)
                else f"there is no file {name!r}")
        raise wrong(IoError, "load", "path", what)
    with checkpoint.as_file(path) as file:
        flow = checkpoint.load_into(file, lambda config: build(config, **run))
    assert isinstance(flow, Flow)
    return flow


def left_out(flow: Flow) -> dict[str, Any]:
    """The settings that `config` leaves out, though they are not the constructor's defaults."""
    config = flow.config
    declared = DECLARED[config["model"], "image" if flow.is_image else "table"]
    return {s.name: s.choices[0] if s.choices else 0 for s in declared
            if s.optional and s.name not in config and not s.left_out(s.default)}


def config_of(model: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among the arguments of a model's constructor, checked against their declaration, as JSON holds them.

    A setting that this kind of data or this law doesn't have must keep its default.
    """
    columns = model == "CouplingFlow" or model == "NICE" and not is_sequence(arguments["shape"])
    kind = "table" if columns else "image"
    declared = DECLARED[model, kind]
    names = {setting.name for setting in declared}
    changed = {name for name, argument in inspect.signature(MODELS[model]).parameters.items()
               if name not in ("device", "threads") and not _equal(arguments[name], argument.default)}
    for name in sorted(changed - names):
        raise wrong(ConfigError, model, name, f"{name} is no setting of a model for {kind}s")
    config: dict[str, Any] = {"model": model}
    for setting in declared:
        name, value = setting.name, arguments[setting.name]
        if setting.laws and config["law"] not in setting.laws:
            if name in changed:
                raise wrong(ConfigError, model, name, f"{name} is a setting of law="
                            f"{' or '.join(map(repr, setting.laws))}, and law is {config['law']!r}")
            continue
        if setting.type == "shape":
            least = 1 if model == "CouplingFlow" else 2
            value = whole(model, "the number of columns", value, least) if columns else _image_shape(model, value)
        elif setting.type == "bounds":
            columns = config["shape"]
            value = checked_bounds(model, by_column(model, value, (), columns), columns)
        elif setting.type == "mask":
            value = masks.checked(model, value, tuple(setting.choices or ()), config["couplings"], config["shape"])
        else:
            value = setting.checked(value)
        if not setting.left_out(value):
            config[name] = value
    return config


def _equal(value: Any, default: Any) -> bool:
    return type(value) is type(default) and bool(value == default)


def place(model: str, device: Any, threads: Any) -> dict[str, Any]:
    """Where a model runs, checked: TypeError, ConfigError, DeviceError."""
    if not isinstance(device, str) or device not in DEVICES:
        raise wrong(DeviceError, model, "device", f"expected device cpu or cuda, got {device!r}")
    load_backend(device)
    return dict(device=device, threads=whole(model, "threads", threads, low=0, high=MOST_THREADS))


def _image_shape(model: str, shape: Any) -> list[int]:
    if not is_sequence(shape) or len(shape) != 3:
        raise wrong(ConfigError if is_sequence(shape) else TypeError, model, "shape", "expected "
                    f"{'a number of columns, or ' * (model == 'NICE')}a shape (H, W, C), got {shape!r}")
    return [whole(model, "a size in shape", size, low=1) for size in shape]
