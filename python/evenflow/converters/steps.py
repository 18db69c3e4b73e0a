"""What a flow of another library consists of: couplings, and affine maps between them.

Nets and affine couplings are not read but called: which linear layers a net runs, and what a coupling does when its net
gives chosen numbers, says what they are, whatever their library calls it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from evenflow.errors import ConfigError, wrong

Tensor = torch.Tensor
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu, "leaky_relu": F.leaky_relu, "tanh": torch.tanh, "silu": F.silu, "elu": F.elu}

SCALES: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "affine": (lambda u: torch.exp(2 * torch.tanh(u / 2)), False),
    "sigmoid": (lambda u: torch.sigmoid(u + 2) + 1e-3, False),
    "softplus": (lambda u: (F.softplus(u) + 1e-3).clamp(0, 3), False),
    "exp": (torch.exp, True), "glow": (lambda u: torch.sigmoid(u + 2), True)}
"""What the laws make of a raw scale, and whether the shift comes before it."""
FACTORS = 1.0, -1.0, 2.0, 0.2
"""Of a raw scale, in other libraries."""

RAW = torch.cat([torch.linspace(-4, 4, 17), torch.tensor([-1e3, -100, -20, -7, 7, 20, 100, 1e3])]).double()
"""Where functions of one number are compared: near 0, and where some are clipped."""


class Affine(NamedTuple):
    """y = x matrix + shift, of rows x (D,)."""

    matrix: np.ndarray
    shift: np.ndarray

    def then(self, other: Affine) -> Affine:
        return Affine(self.matrix @ other.matrix, self.shift @ other.matrix + other.shift)


class Dense(NamedTuple):
    """A layer's weight (inputs, outputs) and bias (outputs,)."""

    weight: np.ndarray
    bias: np.ndarray


@dataclass
class Net:
    """The net of a coupling. `layers` have the names of ours; the last gives the numbers of the law."""

    kind: str
    hidden: tuple[int, ...]
    layers: dict[str, Dense]
    activation: str = "relu"
    dropout: float = 0.0

    @property
    def inputs(self) -> int:
        return len(next(iter(self.layers.values())).weight)

    def with_outputs(self, f: Callable[[np.ndarray], np.ndarray]) -> Net:
        """f maps rows (n, outputs) of the last layer to (n, numbers, columns)."""
        last = list(self.layers)[-1]
        rows = f(np.vstack(self.layers[last]))
        rows = rows.reshape(len(rows), -1)
        return replace(self, layers={**self.layers, last: Dense(rows[:-1], rows[-1])})


@dataclass
class Coupling:
    """A coupling of D columns. `own` (numbers, passing columns): splines of the columns that pass, or None."""

    changed: np.ndarray
    net: Net
    law: dict[str, Any]
    own: np.ndarray | None = None


@dataclass
class Source:
    """A flow from data to latents."""

    dims: int
    base: str = "gaussian"
    steps: list[Affine | Coupling] = field(default_factory=list)
    context: tuple[np.ndarray, np.ndarray] | None = None
    """(mean, deviation) of each context value, or None: taken as it is."""


def refused(what: str, got: Any) -> ConfigError:
    name = got if isinstance(got, str) else type(got).__name__
    return wrong(ConfigError, "convert", "module", f"expected {what}, got {name}")


@contextlib.contextmanager
def reading(layer: Any) -> Iterator[None]:
    """Within it, any error is a ConfigError that names the layer: damaged ones fail as torch and numpy like."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise refused("layers that can be read", f"{type(layer).__name__} ({error})") from error


def steps_of(layers: Iterable[Any], step: Callable[[Any], list[Affine | Coupling]]) -> list[Affine | Coupling]:
    found: list[Affine | Coupling] = []
    for layer in layers:
        with reading(layer):
            found += step(layer)
    return found


def probed(f: Callable[[Tensor], Tensor], dims: int, layer: Any) -> Affine:
    """The affine map that a layer is. ConfigError if it is none."""
    what = "couplings and affine layers with an inverse"
    x = torch.randn(5, dims, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x *= torch.tensor([[0.1], [0.5], [1], [3], [10]])
    try:
        shift, y = (f(at.double()).numpy() for at in (torch.zeros(1, dims), x))
        step, matrix = 1.0, np.zeros((dims, dims))
        for _ in range(2):  # the second time by steps that move y as far as the shift does, to lose no digits
            matrix = (f(step * torch.eye(dims, dtype=torch.float64)).numpy() - shift) / step
            step = 2.0 ** round(np.log2(max(1.0, np.abs(shift).max() / max(np.abs(matrix).max(), 1e-300))))
    except Exception as error:
        raise refused(what, f"{type(layer).__name__} ({error})") from error
    affine = Affine(matrix, shift[0])
    if matrix.shape != (dims, dims) or not np.allclose(x.numpy() @ affine.matrix + shift, y, rtol=1e-9, atol=1e-9):
        raise refused(what, layer)
    if not np.isfinite(np.linalg.slogdet(matrix)[1]):
        raise refused(what, f"{type(layer).__name__} without one")
    return affine


def net_of(net: Any) -> Net:
    """The net of a coupling, an MLP or nflows' `ResidualNet`, by the linear layers that it runs."""
    calls: list[tuple[Any, Tensor, Tensor]] = []
    linear = [layer for layer in net.modules() if isinstance(layer, torch.nn.Linear)]
    hooks = [layer.register_forward_hook(lambda layer, x, y: calls.append((layer, x[0], y))) for layer in linear]
    x, y = _called(net, dict.fromkeys(layer.in_features for layer in linear), calls)
    for hook in hooks:
        hook.remove()
    if not torch.equal(x, calls[0][1]) or not torch.equal(y, calls[-1][2]):
        raise refused("nets that begin and end with a linear layer", net)
    residual = hasattr(net, "initial_layer")
    if residual:
        each = (len(calls) - 2) // len(net.blocks)
        names = ["dense_in", *(f"block{i}.{part}" for i in range(len(net.blocks))
                               for part in ("dense0", "dense1", "gate")[:each]), "dense_out"]
    else:
        names = [f"dense{i}" for i in range(len(calls))]
    between = list(zip(calls, calls[1:]))[:2 if residual else None]
    activation = next((name for name, f in ACTIVATIONS.items() if all(
        a[2].shape == b[1].shape and torch.allclose(f(a[2]), b[1], rtol=1e-12, atol=1e-12) for a, b in between)), None)
    if activation is None:
        raise refused(f"one of the activations {', '.join(ACTIVATIONS)} in all places between the linear layers of a "
                      "net", net)
    layers = {name: _dense(layer) for name, (layer, *_) in zip(names, calls, strict=True)}
    hidden = tuple(len(layer.bias) for layer in layers.values())[:-1]
    return Net("residual" if residual else "mlp", hidden[:1] * len(net.blocks) if residual else hidden, layers,
               activation, max((part.p for part in net.modules() if isinstance(part, torch.nn.Dropout)), default=0.0))


def _called(net: Any, sizes: Iterable[int], calls: list[Any]) -> tuple[Tensor, Tensor]:
    """All inputs of a call of the net, which are as many as its first layer takes, and the outputs."""
    for size in sizes:
        x = torch.randn(33, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        x *= torch.logspace(-1, 3, 33)[:, None]
        context = getattr(net, "context_features", None)
        for n in (context or 0, size):  # sbi's net for one column sees the context alone
            calls.clear()
            with contextlib.suppress(Exception):
                y = net(x[:, :size - n], x[:, size - n:]) if n else net(x)
                if calls:
                    return x, y
    raise refused("nets of linear layers", net)


def _dense(layer: torch.nn.Linear) -> Dense:
    bias = torch.zeros(layer.out_features) if layer.bias is None else layer.bias
    if not (torch.isfinite(layer.weight).all() and torch.isfinite(bias).all()):
        raise refused("finite weights", layer)
    return Dense(layer.weight.numpy().T.copy(), bias.double().numpy().copy())


@contextlib.contextmanager
def giving(net: Any, f: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within it, the net's outputs are f(inputs)."""
    net.forward = lambda x, *_, **__: f(x)
    try:
        yield
    finally:
        del net.forward


def affine_coupling(layer: Any, net: Any, dims: int, call: Callable[[Tensor], Tensor]) -> Coupling:
    """The coupling of columns that `call`, of a layer, does by this net."""
    ours = net_of(net)
    outputs = len(list(ours.layers.values())[-1].bias)

    def moved(raw: Tensor, x: float) -> np.ndarray:
        """Where rows of numbers x come to if the net gives rows raw."""
        with giving(net, lambda _: raw.clone()):
            return call(torch.full((len(raw), dims), x, dtype=torch.float64)).numpy()

    none, one = torch.zeros(1, outputs).double(), torch.eye(outputs).double()
    scale, shifts = moved(none, 1.0)[0], moved(one, 0.0)
    scales = moved(one, 1.0) - shifts - scale
    of_shift, of_scale = ((np.abs(part) > 1e-9) for part in (shifts, scales))
    changed = of_shift.any(0)
    additive = not of_scale.any()
    for part in (of_shift,) if additive else (of_shift, of_scale):
        if (part.sum(0) != changed).any() or (part.sum(1) > 1).any():
            raise refused("couplings that shift and scale each column by numbers of its own", layer)
    columns = np.flatnonzero(changed)
    by_shift, by_scale = (part.argmax(0)[columns] for part in (of_shift, of_scale))
    law, before, numbers = "additive", False, []
    if not additive:
        raw = torch.zeros(len(RAW), outputs).double()
        raw[:, by_scale] = RAW[:, None]
        law, before, factor = _law_of(torch.from_numpy(moved(raw, 1.0)[:, columns]), layer)
        numbers = [(by_scale, factor)]
    numbers.insert(0, (by_shift, shifts[by_shift, columns] / (scale[columns] if before else 1)))
    net_ = ours.with_outputs(lambda rows: np.stack([factor * rows[:, at] for at, factor in numbers], axis=1))
    return Coupling(changed, net_, {"law": law})


def _law_of(scales: Tensor, layer: Any) -> tuple[str, bool, Any]:
    """The law whose scales of RAW are those of each column, whether its shift comes before, and its raw scale's factor.
    """
    for law, (known, before) in SCALES.items():
        for factor in FACTORS:
            if torch.allclose(scales, known(factor * RAW)[:, None].expand_as(scales), rtol=1e-9, atol=1e-12):
                return law, before, factor
    raise refused(f"the scale of one of the laws {', '.join(SCALES)} in affine couplings", layer)


def spline_coupling(layer: Any, free: bool) -> Coupling:
    """A rational-quadratic coupling of nflows, which normflows has, too. free: on [0, 1], with slopes at the ends."""
    bins = layer.num_bins
    if layer.tails != (None if free else "linear"):
        raise refused("linear tails, or a uniform base without tails", f"tails {layer.tails}")
    if {layer.min_bin_width, layer.min_bin_height, layer.min_derivative} != {1e-3}:
        raise refused("least bins and slopes of 0.001", "others")
    numbers, scale = 3 * bins + (1 if free else -1), 1.0
    for name in ("hidden_features", "hidden_channels"):
        if hasattr(layer.transform_net, name):
            scale = getattr(layer.transform_net, name) ** -0.5
            break

    def ours(rows: np.ndarray) -> np.ndarray:
        rows = rows.reshape(len(rows), -1, numbers).transpose(0, 2, 1).copy()
        rows[:, :2 * bins] *= scale
        return rows

    law = {"law": "spline", "bins": bins}
    if not free:
        bound = np.unique(np.asarray(layer.tail_bound, dtype=float))
        if len(bound) != 1:
            raise refused("one bound of all columns", f"{len(bound)}")
        law["bound"] = float(bound[0])
    own = layer.unconditional_transform
    if own is not None:
        names = ("unnormalized_widths", "unnormalized_heights", "unnormalized_derivatives")
        own = np.concatenate([getattr(own, name).numpy() for name in names], axis=1).T.copy()
    changed = np.zeros(layer.features, bool)
    changed[layer.transform_features.numpy()] = True
    return Coupling(changed, net_of(layer.transform_net).with_outputs(ours), law, own)
