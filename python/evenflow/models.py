"""The three models: constructors that check their settings and record them as `config`."""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
from typing import Any, TypeVar, cast
from collections.abc import Callable, Iterator, Mapping, Sequence, Set

import numpy as np

from evenflow import _core
from evenflow.arrays import choice, flag, memory_for, number, whole
from evenflow.bounds import checked as checked_bounds
from evenflow.errors import ConfigError, DeviceError, ShapeError
from evenflow.extras import load_backend
from evenflow.flow import Flow

DTYPES = ("float32", "float64")
DEVICES = ("cpu", "cuda")
MOST_THREADS = 1024
"""OpenMP ends the process where the system refuses it a thread."""
RUN_SETTINGS = ("device", "threads")
"""Arguments that say where a model runs, not what it is: they are no part of `config`."""
ELSEWHERE = {name: ours for ours, theirs in {
    ("shape",): ("features", "dim", "dims", "input_shape"),
    ("couplings", "steps"): ("num_layers", "n_layers", "num_flows", "n_flows", "transforms", "flow_layers"),
    ("hidden",): ("hidden_features", "hidden_channels", "hidden_units", "hidden_dims", "nn_width"),
    ("classes",): ("num_classes", "n_classes"),
    ("context",): ("context_features", "cond_dim"),
}.items() for name in theirs}
"""Names of settings in other libraries, and ours, of which a model has one."""

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
        settings: dict[str, Any] = dict(
            levels=_count("Glow", "levels", levels), steps=_count("Glow", "steps", steps),
            hidden=_count("Glow", "hidden", hidden),
            coupling=choice("Glow", "coupling", coupling, ("affine", "additive")),
            permutation=choice("Glow", "permutation", permutation, ("lu", "plain", "shuffle", "reverse")),
            learn_top=flag("Glow", "learn_top", learn_top), classes=_count("Glow", "classes", classes, low=0),
            class_weight=number("Glow", "class_weight", class_weight, 0.0), bits=_bits("Glow", bits),
            seed=_seed("Glow", seed))
        if settings["class_weight"] > 0 and classes == 0:
            raise ConfigError("[Glow] expected classes > 0 with class_weight > 0, got classes 0")
        dtype = _dtype("Glow", dtype)
        settings["conditioner_dtype"] = _conditioner_dtype("Glow", conditioner_dtype, dtype)
        settings.update(_context("Glow", context))
        shape = _image_shape("Glow", shape)
        run = place("Glow", device, threads)
        with memory_for("Glow", "the model"), _order_of_axes():
            core = _core.make_glow(dtype, shape, **run, **settings)
        super().__init__(core, {"model": "Glow", "shape": list(shape), **settings, "dtype": dtype})


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
    coupling: "affine" (log-scale bounded by 2) | "additive".  mask: "halves" | "odd-even".
    permutation: between couplings, "none" | "shuffle" | "lu".
    preprocess: "none" | "standardize" | "zca" | "whiten", fitted by `init`.  batch_norm, actnorm: between
    couplings.  prior: "gaussian" | "logistic".  conditioner_dtype: "float32" | "bfloat16", see Glow.
    bounds: (low, high) of every column, None for an open end: its values lie strictly between, so do samples, and the
    density outside is zero. It is learned in log(x - low) - log(high - x), without the logarithm of an open end, which
    comes before `preprocess`. Values on or outside of a bound are a NumericError.
    Defaults: couplings=8, hidden=(64, 64), mask="halves", permutation="none", preprocess="standardize",
    batch_norm=False, actnorm=False, prior="gaussian", conditioner_dtype that of the model, bounds=None.

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
                 context: int | None = None, bounds: Sequence[Any] | None = None, seed: int = 0,
                 dtype: str = "float32", device: str = "cpu", threads: int = 0):
        image = dict(scales=scales, base_dim=base_dim, residual_blocks=residual_blocks, bottleneck=bottleneck,
                     skip=skip, weight_norm=weight_norm, recursion=recursion, bits=bits)
        table = dict(couplings=couplings, hidden=hidden, mask=mask, permutation=permutation,
                     preprocess=preprocess, actnorm=actnorm, prior=prior,
                     conditioner_dtype=conditioner_dtype, bounds=bounds)
        is_table = _is_number(shape)
        foreign = sorted(k for k, v in (image if is_table else table).items() if v is not None)
        if foreign:
            raise ConfigError(f"[RealNVP] expected settings for {'tables' if is_table else 'images'}, "
                              f"got {', '.join(foreign)}")
        dtype = _dtype("RealNVP", dtype)
        coupling = choice("RealNVP", "coupling", coupling, ("affine", "additive"))
        run = place("RealNVP", device, threads)
        make: Any = _core.make_real_nvp_table if is_table else _core.make_real_nvp_image
        given = _context("RealNVP", context)
        settings = (_real_nvp_table(shape, **table, batch_norm=batch_norm, dtype=dtype) if is_table
                    else _real_nvp_image(**image, batch_norm=_default(batch_norm, not given)))
        settings.update(given, coupling=coupling, seed=_seed("RealNVP", seed))
        size: Any = _columns("RealNVP", shape) if is_table else _image_shape("RealNVP", shape)
        with memory_for("RealNVP", "the model"), _order_of_axes():
            core = make(dtype, size, **settings, **run)
        super().__init__(core, {"model": "RealNVP", "shape": size if is_table else list(size), **settings,
                                "dtype": dtype})


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
        is_table = _is_number(shape)
        foreign = "bits" if is_table and bits is not None else "bounds" if not is_table and bounds is not None else None
        if foreign:
            raise ConfigError(f"[NICE] expected settings for {'tables' if is_table else 'images'}, got {foreign}")
        settings: dict[str, Any] = dict(
            couplings=_count("NICE", "couplings", couplings), hidden=_widths("NICE", hidden),
            prior=choice("NICE", "prior", prior, ("logistic", "gaussian")),
            order=choice("NICE", "order", order, ("tile", "shuffle", "reverse", "none")),
            preprocess=_preprocess("NICE", preprocess), seed=_seed("NICE", seed))
        bits = _bits("NICE", 8 if bits is None else bits)
        dtype = _dtype("NICE", dtype)
        settings["conditioner_dtype"] = _conditioner_dtype("NICE", conditioner_dtype, dtype)
        size = (1, 1, _columns("NICE", shape)) if is_table else _image_shape("NICE", shape)
        if pairs := checked_bounds("NICE", bounds, size[2]):
            settings["bounds"] = pairs
        run = place("NICE", device, threads)
        with memory_for("NICE", "the model"):
            core = _core.make_nice(dtype, size, **settings, bits=bits, **run)
        if not is_table:
            settings["bits"] = bits
        super().__init__(core, {"model": "NICE", "shape": size[2] if is_table else list(size), **settings,
                                "dtype": dtype})

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


MODELS = {"Glow": Glow, "RealNVP": RealNVP, "NICE": NICE}


def build(config: dict[str, Any], device: str = "cpu", threads: int = 0) -> Flow:
    """The model that a `config` describes, with fresh parameters. ConfigError names what does not fit."""
    if not isinstance(config, dict) or config.get("model") not in MODELS:
        got = config.get("model") if isinstance(config, dict) else config
        raise ConfigError(f"[config] expected model to be one of {', '.join(MODELS)}, got {got!r}")
    model = MODELS[config["model"]]
    known = [k for k in inspect.signature(model).parameters if k not in RUN_SETTINGS]
    unknown = sorted(set(config) - {"model", *known})
    if unknown:
        raise ConfigError(f"[config] expected the settings {', '.join(known)} for {config['model']}, "
                          f"got {', '.join(unknown)}")
    flow: Flow = model(**{k: v for k, v in config.items() if k != "model"}, device=device, threads=threads)
    missing = sorted(set(flow.config) - set(config))
    if missing:
        raise ConfigError(f"[config] expected {', '.join(missing)} for {config['model']}, got none")
    return flow


def _real_nvp_image(*, scales: Any, base_dim: Any, residual_blocks: Any, bottleneck: Any, skip: Any,
                    weight_norm: Any, recursion: Any, bits: Any, batch_norm: Any) -> dict[str, Any]:
    recursion = whole("RealNVP", "recursion", _default(recursion, 2), low=1)
    if recursion > 4:
        raise ConfigError(f"[RealNVP] expected recursion in 1 ... 4, got {recursion}")
    return dict(scales=_count("RealNVP", "scales", _default(scales, 2)),
                base_dim=_count("RealNVP", "base_dim", _default(base_dim, 64)),
                residual_blocks=_count("RealNVP", "residual_blocks", _default(residual_blocks, 8), low=0),
                bottleneck=flag("RealNVP", "bottleneck", _default(bottleneck, False)),
                skip=flag("RealNVP", "skip", _default(skip, True)),
                batch_norm=flag("RealNVP", "batch_norm", batch_norm),
                weight_norm=flag("RealNVP", "weight_norm", _default(weight_norm, True)),
                recursion=recursion, bits=_bits("RealNVP", _default(bits, 8)))


def _real_nvp_table(columns: Any, *, couplings: Any, hidden: Any, mask: Any, permutation: Any, preprocess: Any,
                    actnorm: Any, prior: Any, conditioner_dtype: Any, batch_norm: Any,
                    bounds: Any, dtype: str) -> dict[str, Any]:
    settings: dict[str, Any] = dict(couplings=_count("RealNVP", "couplings", _default(couplings, 8)),
                hidden=_widths("RealNVP", _default(hidden, (64, 64))),
                mask=choice("RealNVP", "mask", _default(mask, "halves"), ("halves", "odd-even")),
                permutation=choice("RealNVP", "permutation", _default(permutation, "none"),
                                   ("none", "shuffle", "lu")),
                preprocess=_preprocess("RealNVP", _default(preprocess, "standardize")),
                batch_norm=flag("RealNVP", "batch_norm", _default(batch_norm, False)),
                actnorm=flag("RealNVP", "actnorm", _default(actnorm, False)),
                prior=choice("RealNVP", "prior", _default(prior, "gaussian"), ("gaussian", "logistic")),
                conditioner_dtype=_conditioner_dtype("RealNVP", _default(conditioner_dtype, "float32"), dtype))
    pairs = checked_bounds("RealNVP", bounds, columns)
    return {**settings, "bounds": pairs} if pairs else settings  # of earlier files, which have none


def _context(model: str, numbers: Any) -> dict[str, int]:
    numbers = _count(model, "context", _default(numbers, 0), low=0)
    return {"context": numbers} if numbers else {}  # as in earlier files, which have none


def place(model: str, device: Any, threads: Any) -> dict[str, Any]:
    """Where a model runs, checked: TypeError, ConfigError, DeviceError."""
    if not isinstance(device, str):
        raise TypeError(f"[{model}] expected the name of a device, got {device!r}")
    if device not in DEVICES:
        raise DeviceError(f"[{model}] expected device cpu or cuda, got {device!r}")
    load_backend(device)
    return dict(device=device, threads=whole(model, "threads", threads, low=0, high=MOST_THREADS))


def _default(value: Any, default: Any) -> Any:
    return default if value is None else value


def _is_number(shape: Any) -> bool:
    return isinstance(shape, (int, np.integer)) and not isinstance(shape, bool)


def _columns(model: str, columns: Any) -> int:
    number = _count(model, "the number of columns", columns)
    if number == 1:
        raise ShapeError(f"[{model}] expected two columns at least, since a coupling splits them, got 1; append a "
                         "column of independent noise")
    return number


@contextlib.contextmanager
def _order_of_axes() -> Iterator[None]:
    """Within it, an error of an image's height and width says which axes these are: torch's order is another."""
    try:
        yield
    except ShapeError as error:
        raise ShapeError(f"{error} (shapes are (H, W, C))") from None


def _image_shape(model: str, shape: Any) -> tuple[int, int, int]:
    wanted = "a shape (H, W, C)" if model == "Glow" else "a number of columns, or a shape (H, W, C)"
    if not _is_sequence(shape):
        raise TypeError(f"[{model}] expected {wanted}, got {shape!r}")
    if len(shape) != 3:
        raise ConfigError(f"[{model}] expected {wanted}, got {tuple(shape)}")
    h, w, c = (_count(model, "a size in shape", s) for s in shape)
    return h, w, c


def _widths(model: str, hidden: Any) -> list[int]:
    if not _is_sequence(hidden):
        one = f"; one layer is ({hidden},)" if _is_number(hidden) else ""
        raise TypeError(f"[{model}] expected a sequence of widths for hidden, got {hidden!r}{one}")
    return [_count(model, "a width in hidden", width) for width in hidden]


def _is_sequence(value: Any) -> bool:
    """Of numbers in an order, with a length; an array of numpy without axes has none."""
    return (hasattr(value, "__len__") and not isinstance(value, (str, bytes, Set, Mapping))
            and getattr(value, "shape", None) != ())


def _count(model: str, name: str, value: Any, low: int = 1) -> int:
    """Of 64 bits; the core, which has the same bounds for files, says what is too many."""
    return whole(model, name, value, low=low)


def _preprocess(model: str, value: Any) -> str:
    return choice(model, "preprocess", value, ("none", "standardize", "zca", "whiten"))


def _seed(model: str, seed: Any) -> int:
    return whole(model, "seed", seed, low=0, high=2**64 - 1)


def _bits(model: str, bits: Any) -> int:
    if not 1 <= whole(model, "bits", bits) <= 8:
        raise ConfigError(f"[{model}] expected bits in 1 ... 8, got {bits}")
    return int(bits)


def _conditioner_dtype(model: str, value: Any, dtype: str) -> str:
    """"float32" means the model's own arithmetic, as it does by default in a model of float64."""
    choice(model, "conditioner_dtype", value, (*DTYPES, "bfloat16"))
    if value not in ("float32", dtype) and (value, dtype) != ("bfloat16", "float32"):
        raise ConfigError(f"[{model}] expected conditioner_dtype 'float32' or, in a model of float32, 'bfloat16'; "
                          f"got {value!r} in a model of {dtype}")
    return str(value)


def _dtype(model: str, dtype: Any) -> str:
    try:
        name = None if dtype is None else np.dtype(dtype).name
    except (TypeError, ValueError):
        name = dtype
    return choice(model, "dtype", name, DTYPES)
