"""The three models: constructors that check their settings and record them as `config`."""

from __future__ import annotations

import difflib
import functools
import inspect
import json
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from collections.abc import Callable, Mapping, Sequence, Set

import numpy as np

from evenflow import _core
from evenflow.arrays import LARGEST, choice, flag, memory_for, number, whole
from evenflow.bounds import checked as checked_bounds
from evenflow.errors import ConfigError, DeviceError, ShapeError
from evenflow.extras import load_backend
from evenflow.flow import Flow

DEVICES = ("cpu", "cuda")
MOST_THREADS = 1024
"""OpenMP ends the process where the system refuses it a thread."""
ELSEWHERE = {name: ours for ours, theirs in {
    ("shape",): ("features", "dim", "dims", "input_shape"),
    ("couplings", "steps"): ("num_layers", "n_layers", "num_flows", "n_flows", "transforms", "flow_layers"),
    ("hidden",): ("hidden_features", "hidden_channels", "hidden_units", "hidden_dims", "nn_width"),
    ("classes",): ("num_classes", "n_classes"),
    ("context",): ("context_features", "cond_dim"),
}.items() for name in theirs}
"""Names of settings in other libraries, and ours, of which a model has one."""


@dataclass(frozen=True)
class Setting:
    """The declaration of one setting of a model, for images or for tables (cpp/src/models/settings.hpp)."""

    model: str
    kind: str
    """"image" | "table"."""
    name: str
    type: str
    """"int" | "ints" | "float" | "bool" | "str" | "seed" | "bounds" | "shape"."""
    default: Any
    low: int | None
    high: int | None
    """Of a number, or of each number in a list."""
    choices: list[str] | None
    optional: bool
    """Left out of `config` where it is 0 or empty."""
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
            return choice(self.model, self.name, _dtype_name(value) if self.name == "dtype" else value,
                          tuple(self.choices or ()))
        if self.type != "ints":
            return self._whole(self.name, value)
        if not _is_sequence(value):
            one = f"; one layer is ({value},)" if _is_number(value) else ""
            raise TypeError(f"[{self.model}] expected a sequence of widths for {self.name}, got {value!r}{one}")
        return [self._whole(f"a width in {self.name}", width) for width in value]

    def _whole(self, name: str, value: Any) -> int:
        number = whole(self.model, name, value, self.low, 2**64 - 1 if self.type == "seed" else LARGEST)
        if self.high is not None and number > self.high:
            raise ConfigError(f"[{self.model}] expected {name} in {self.low} ... {self.high}, got {number}")
        return number


DECLARED: dict[tuple[str, str], list[Setting]] = {}
"""The settings of each model, by its name and "image" or "table"."""
for _setting in _core.settings():
    DECLARED.setdefault((_setting["model"], _setting["kind"]), []).append(Setting(**_setting))

Constructor = TypeVar("Constructor", bound=Callable[..., None])


def _says_what_is_near(init: Constructor) -> Constructor:
    """Another name than a setting's is answered with the nearest one, which Python's own error would not name.

    Around the constructor and not within it: type checkers and help go on seeing its settings.
    """
    known = list(inspect.signature(init).parameters)[1:]

    @functools.wraps(init)
    def checked(self: Flow, *args: Any, **settings: Any) -> None:
        for name in settings:
            if name not in known:
                ours = [our for our in ELSEWHERE.get(name, ()) if our in known]
                near = (ours or difflib.get_close_matches(name, known, n=1))[:1]
                raise TypeError(f"[{init.__qualname__.split('.')[0]}] expected the name of a setting, got {name}"
                                f"{'; nearest: ' if near else ''}{''.join(near)}")
        init(self, *args, **settings)

    return cast(Constructor, checked)


class Glow(Flow):
    """Glow (Kingma, Dhariwal 2018): steps of actnorm, 1x1 convolution and coupling, at several scales.

    shape: (H, W, C), H and W divisible by 2^levels.  levels, steps: scales, and steps of flow at each.
    hidden: channels inside the coupling nets.  coupling: "affine" | "additive".
    permutation: "lu" | "plain" (1x1 convolution) | "shuffle" | "reverse".
    learn_top: learned mean and scale of the coarsest latents.
    classes: the top prior depends on a label in 0 ... classes - 1; 0: none.
    class_weight: weight of a classification loss on the coarsest latents [nats a sample].
    bits: bits a channel of the images.
    conditioner_dtype: arithmetic inside the coupling nets, "float32" | "bfloat16" (weights and hidden
    activations rounded, sums in float32; the flow itself stays exactly invertible).
    context: how many numbers C the density of an image is given, p(x | c); 0: none, and no classes with it. Every
    coupling's net sees them at each pixel, standardised as `init` finds them, and every call takes context=, (N, C)
    or (C,) for all images.
    dtype: "float32" | "float64", or numpy's; None, which numpy takes for float64, is refused.
    device: "cpu" | "cuda".  threads: 0 takes the OpenMP default.

    ShapeError or ConfigError for sizes and settings that don't fit, TypeError for others than numbers, names
    and flags where these belong, DeviceError for a device that is not there.
    """

    @_says_what_is_near
    def __init__(self, shape: Sequence[int], levels: int = 3, steps: int = 32, hidden: int = 512,
                 coupling: str = "affine", permutation: str = "lu", learn_top: bool = True, classes: int = 0,
                 class_weight: float = 0.0, bits: int = 8, seed: int = 0, dtype: str = "float32",
                 conditioner_dtype: str = "float32", device: str = "cpu", threads: int = 0, context: int = 0):
        super().__init__(*_built("Glow", locals()))


class RealNVP(Flow):
    """Real NVP (Dinh, Sohl-Dickstein, Bengio 2016).

    shape: (H, W, C) for images, the paper's multi-scale model; a number D for tables of D columns, couplings
    on alternating halves. Settings of the other kind are refused.

    context: how many numbers C the density of a row or an image is given, p(x | c): every coupling's net sees them
    beside its half (of images at each pixel), standardised as `init` finds them, and every call takes context=,
    (N, C) or (C,) for all. Default 0: none.

    Images: scales, base_dim: number of scales, and channels of the residual nets at the finest.
    residual_blocks, bottleneck, skip, weight_norm: of those nets.  batch_norm: in nets and between couplings; with a
    context off by default, since its moments are those of the contexts that a batch happens to have.
    coupling: "affine" | "additive" (the third of each group, and the fourth of the last, stay affine).
    recursion: factored out at each scale, 1: nothing, 2: half, 3: three quarters, 4: 3 at constant width.
    bits: bits a channel.  Defaults: scales=2, base_dim=64, residual_blocks=8 (the paper's CIFAR-10 model),
    bottleneck=False, skip=True, weight_norm=True, batch_norm=True, recursion=2, bits=8.

    Tables: couplings, hidden: number of couplings, widths of their hidden layers.
    coupling: "affine" (log-scale bounded by 2), "spline" (monotone rational-quadratic, `bins` bins, 1 to 64, on [-bound,
    bound] in units after `preprocess`, the identity outside), or another law of docs/math/coupling.md.  mask: "halves" | "odd-even".
    permutation: between couplings, "none" | "shuffle" | "lu".
    preprocess: "none" | "standardize" | "zca" | "whiten", fitted by `init`.  batch_norm, actnorm: between
    couplings.  prior: "gaussian" | "logistic".  conditioner_dtype: "float32" | "bfloat16", see Glow.
    bounds: (low, high) of every column, None for an open end: its values lie strictly between, so do samples, and the
    density outside is zero. It is learned in log(x - low) - log(high - x), without the logarithm of an open end, which
    comes before `preprocess`. Values on or outside of a bound are a NumericError.
    Defaults: couplings=8, hidden=(64, 64), mask="halves", permutation="none", preprocess="standardize",
    batch_norm=False, actnorm=False, prior="gaussian", conditioner_dtype that of the model, bounds=None, bins=8,
    bound=4.0.

    dtype, device, threads, and errors: see Glow.
    """

    @_says_what_is_near
    def __init__(self, shape: int | Sequence[int], *, coupling: str = "affine", scales: int | None = None,
                 base_dim: int | None = None, residual_blocks: int | None = None,
                 bottleneck: bool | None = None, skip: bool | None = None, weight_norm: bool | None = None,
                 recursion: int | None = None, bits: int | None = None, couplings: int | None = None,
                 hidden: Sequence[int] | None = None, mask: str | None = None, permutation: str | None = None,
                 preprocess: str | None = None, actnorm: bool | None = None, prior: str | None = None,
                 batch_norm: bool | None = None, conditioner_dtype: str | None = None,
                 context: int | None = None, bounds: Sequence[Any] | None = None, bins: int | None = None,
                 bound: float | None = None, seed: int = 0, dtype: str = "float32", device: str = "cpu", threads: int = 0):
        if batch_norm is None and context is not None and whole("RealNVP", "context", context):
            batch_norm = False
        super().__init__(*_built("RealNVP", locals()))


class NICE(Flow):
    """NICE (Dinh, Krueger, Bengio 2014): additive couplings, then one scaling of every dimension.

    shape: a number D for tables, (H, W, C) for images (levels are scaled to [0, 1], but of one pixel).
    couplings, hidden: number of couplings, widths of their hidden layers.  prior: "logistic" | "gaussian".
    order: first reordering, "tile" (even, then odd dimensions) | "shuffle" | "reverse" | "none".
    preprocess: "none" | "standardize" | "zca" | "whiten", fitted by `init`.  bits: of images.
    bounds: of a table's columns, see RealNVP.
    conditioner_dtype: "float32" | "bfloat16"; dtype, device, threads, and errors: see Glow.
    """

    @_says_what_is_near
    def __init__(self, shape: int | Sequence[int], couplings: int = 4, hidden: Sequence[int] = (1000,) * 5,
                 prior: str = "logistic", order: str = "tile", preprocess: str = "none",
                 bits: int | None = None, conditioner_dtype: str = "float32",
                 bounds: Sequence[Any] | None = None, seed: int = 0, dtype: str = "float32", device: str = "cpu",
                 threads: int = 0):
        super().__init__(*_built("NICE", locals()))

    def spectrum(self) -> np.ndarray:
        """(D,) float64, the scaling layer's sigma = exp(-s), largest first: NICE's figure 4.

        A latent dimension with a small sigma is one that the data hardly vary in, as a small singular value
        of a principal component analysis.
        """
        return np.sort(np.exp(-self.named_parameters()["scaling.logs"].astype(np.float64)))[::-1]


def set_matmul_precision(precision: str) -> None:
    """How a GPU multiplies the nets of float32 models: "highest" or "high". ConfigError for another word."""
    if not isinstance(precision, str):
        raise TypeError(f"[set_matmul_precision] expected highest or high, got {precision!r}")
    if precision not in ("highest", "high"):  # said here, since a text that is not UTF-8 would not reach the core
        raise ConfigError(f"[set_matmul_precision] expected highest or high, got {precision!r}")
    _core.set_matmul_precision(precision)


MODELS: dict[str, type[Flow]] = {"Glow": Glow, "RealNVP": RealNVP, "NICE": NICE}


def build(config: dict[str, Any], device: str = "cpu", threads: int = 0) -> Flow:
    """The model that a `config` describes, with fresh parameters. ConfigError names what does not fit."""
    core = _core_of("config", config, place("config", device, threads))
    model = MODELS[config["model"]]
    flow = model.__new__(model)
    Flow.__init__(flow, core, config)
    return flow


def _core_of(where: str, config: dict[str, Any], run: dict[str, Any]) -> _core.Flow32 | _core.Flow64:
    with memory_for(where, "the model"):
        try:
            return _core.build(json.dumps(config), **run)
        except ShapeError as error:  # of an image; torch's order of axes is another
            raise ShapeError(f"{error} (shapes are (H, W, C))") from None


def _built(model: str, arguments: dict[str, Any]) -> tuple[_core.Flow32 | _core.Flow64, dict[str, Any]]:
    """The core of a model and its `config`, by the arguments of its constructor."""
    config = config_of(model, arguments)
    return _core_of(model, config, place(model, arguments["device"], arguments["threads"])), config


def config_of(model: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among the arguments of a model's constructor, checked against their declaration, as JSON holds them.

    Where an argument's default is None, None stands for the declared default of the kind of model, or for no setting.
    """
    kind = "table" if (model, "table") in DECLARED and _is_number(arguments["shape"]) else "image"
    declared = DECLARED[model, kind]
    unset = [name for name, argument in inspect.signature(MODELS[model]).parameters.items()
             if argument.default is None and arguments[name] is None]
    known = {setting.name for setting in declared}
    foreign = sorted(setting.name for settings in DECLARED.values() for setting in settings
                     if setting.model == model and setting.name not in {*known, *unset})
    if foreign:
        raise ConfigError(f"[{model}] expected settings for {kind}s, got {', '.join(foreign)}")
    config: dict[str, Any] = {"model": model}
    for setting in declared:
        name = setting.name
        if setting.laws and config["coupling"] not in setting.laws:
            if name not in unset:
                raise ConfigError(f"[{model}] {name} is a setting of coupling={' or '.join(map(repr, setting.laws))}, "
                                  f"and coupling is {config['coupling']!r}")
            continue
        value = setting.default if name in unset else arguments[name]
        if setting.type == "shape":
            value = _columns(model, value) if kind == "table" else _image_shape(model, value)
        elif setting.type == "bounds":
            value = checked_bounds(model, value, config["shape"])
        else:
            value = setting.checked(value)
        if value or not setting.optional:
            config[name] = value
    return config


def place(model: str, device: Any, threads: Any) -> dict[str, Any]:
    """Where a model runs, checked: TypeError, ConfigError, DeviceError."""
    if not isinstance(device, str):
        raise TypeError(f"[{model}] expected the name of a device, got {device!r}")
    if device not in DEVICES:
        raise DeviceError(f"[{model}] expected device cpu or cuda, got {device!r}")
    load_backend(device)
    return dict(device=device, threads=whole(model, "threads", threads, low=0, high=MOST_THREADS))


def _is_number(shape: Any) -> bool:
    return isinstance(shape, (int, np.integer)) and not isinstance(shape, bool)


def _columns(model: str, columns: Any) -> int:
    number = whole(model, "the number of columns", columns, low=1)
    if number == 1:
        raise ShapeError(f"[{model}] expected two columns at least, since a coupling splits them, got 1; append a "
                         "column of independent noise")
    return number


def _image_shape(model: str, shape: Any) -> list[int]:
    wanted = "a shape (H, W, C)" if model == "Glow" else "a number of columns, or a shape (H, W, C)"
    if not _is_sequence(shape):
        raise TypeError(f"[{model}] expected {wanted}, got {shape!r}")
    if len(shape) != 3:
        raise ConfigError(f"[{model}] expected {wanted}, got {tuple(shape)}")
    return [whole(model, "a size in shape", size, low=1) for size in shape]


def _is_sequence(value: Any) -> bool:
    """Of numbers in an order, with a length; an array of numpy without axes has none."""
    return (hasattr(value, "__len__") and not isinstance(value, (str, bytes, Set, Mapping))
            and getattr(value, "shape", None) != ())


def _dtype_name(dtype: Any) -> Any:
    """numpy takes None for float64."""
    try:
        return None if dtype is None else np.dtype(dtype).name
    except (TypeError, ValueError):
        return dtype
