"""What a flow of another library consists of: couplings, and affine maps between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from evenflow.errors import ConfigError

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu, "leaky_relu": F.leaky_relu, "tanh": torch.tanh, "silu": F.silu, "elu": F.elu}


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

    @property
    def last(self) -> str:
        return list(self.layers)[-1]

    def with_outputs(self, f: Callable[[np.ndarray], np.ndarray]) -> Net:
        """f maps rows (n, outputs) of the last layer to (n, numbers, columns)."""
        weight, bias = self.layers[self.last]
        rows = f(np.vstack([weight, bias]))
        rows = rows.reshape(len(rows), -1)
        return Net(self.kind, self.hidden, {**self.layers, self.last: Dense(rows[:-1], rows[-1])}, self.activation,
                   self.dropout)


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
    return ConfigError(f"[convert] expected {what}, got {name}")


def probed(f: Callable[[torch.Tensor], torch.Tensor], dims: int, layer: Any) -> Affine:
    """The affine map that a layer is. ConfigError if it is none."""
    x = torch.randn(5, dims, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x *= torch.tensor([[0.1], [0.5], [1], [3], [10]])
    try:
        shift, y = (f(at.double()).numpy() for at in (torch.zeros(1, dims), x))
        step, matrix = 1.0, np.zeros((dims, dims))
        for _ in range(2):  # the second time by steps that move y as far as the shift does, to lose no digits
            matrix = (f(step * torch.eye(dims, dtype=torch.float64)).numpy() - shift) / step
            step = 2.0 ** round(np.log2(max(1.0, np.abs(shift).max() / max(np.abs(matrix).max(), 1e-300))))
    except Exception as error:
        raise refused("couplings and affine layers", f"{type(layer).__name__} ({error})") from error
    affine = Affine(matrix, shift[0])
    if matrix.shape != (dims, dims) or not np.allclose(x.numpy() @ affine.matrix + shift, y, rtol=1e-9, atol=1e-9):
        raise refused("couplings and affine layers", layer)
    return affine


def dense(layer: torch.nn.Linear) -> Dense:
    outputs, inputs = layer.weight.shape
    return Dense(layer.weight.numpy().T.copy(), np.zeros(outputs) if layer.bias is None else layer.bias.numpy().copy())


def activation_of(f: Callable[[torch.Tensor], torch.Tensor]) -> str:
    """The name of what f computes."""
    x = RAW
    try:
        y = f(x)
    except Exception as error:
        raise refused(f"one of the activations {', '.join(ACTIVATIONS)}", f) from error
    for name, known in ACTIVATIONS.items():
        if y.shape == x.shape and torch.allclose(y, known(x), rtol=0, atol=1e-12):
            return name
    raise refused(f"one of the activations {', '.join(ACTIVATIONS)}", f)


def mlp(layers: Iterable[Any]) -> Net:
    """A net of linear layers, with activations and dropout between them."""
    found: dict[str, Dense] = {}
    activations: set[str] = set()
    dropout, waiting = 0.0, True
    for layer in layers:
        if isinstance(layer, torch.nn.Linear):
            if not waiting:
                raise refused("an activation between the linear layers of a net", "none")
            found[f"dense{len(found)}"], waiting = dense(layer), False
        elif isinstance(layer, torch.nn.Dropout):
            dropout = max(dropout, layer.p)
        elif not isinstance(layer, torch.nn.Identity):
            if waiting:
                raise refused("a linear layer before each activation of a net", layer)
            activations.add(activation_of(layer))
            waiting = True
    if waiting or not found:
        raise refused("a net that ends with a linear layer", "another one")
    hidden = tuple(len(layer.bias) for layer in found.values())[:-1]
    return Net("mlp", hidden, found, _only(activations or {"relu"}), dropout)


def _only(activations: set[str]) -> str:
    if len(activations) != 1:
        raise refused("one activation in a net", " and ".join(sorted(activations)) or "none")
    return activations.pop()


def residual_net(net: Any) -> Net:
    """nflows' `ResidualNet`, which normflows has, too."""
    blocks = list(net.blocks)
    if any(block.use_batch_norm for block in blocks):
        raise refused("nets without batch norm", "ResidualNet with use_batch_norm")
    if getattr(net, "preprocessing", None) is not None:
        raise refused("nets without preprocessing", net.preprocessing)
    layers = {"dense_in": dense(net.initial_layer)}
    for i, block in enumerate(blocks):
        for j, layer in enumerate(block.linear_layers):
            layers[f"block{i}.dense{j}"] = dense(layer)
        if hasattr(block, "context_layer"):
            layers[f"block{i}.gate"] = dense(block.context_layer)
    layers["dense_out"] = dense(net.final_layer)
    activation = _only({activation_of(block.activation) for block in blocks})
    return Net("residual", (len(layers["dense_in"].bias),) * len(blocks), layers, activation,
               max(block.dropout.p for block in blocks))


def net_of(net: Any) -> Net:
    """Any net that is one of the two."""
    if hasattr(net, "initial_layer") and hasattr(net, "blocks"):
        return residual_net(net)
    if hasattr(net, "_input_layer"):  # nflows' MLP
        if net._activate_output:
            raise refused("nets whose outputs are linear", "MLP with activate_output")
        layers: list[Any] = []
        for layer in (net._input_layer, *net._hidden_layers):
            layers += [layer, net._activation]
        return mlp([*layers, net._output_layer])
    layers = [layer for _, layer in net.named_modules(remove_duplicate=False)]  # one activation may serve many
    return mlp(layer for layer in layers if not list(layer.children()))


def spline_coupling(layer: Any, free: bool) -> Coupling:
    """A rational-quadratic coupling of nflows, which normflows has, too. free: on [0, 1], with slopes at the ends."""
    bins = layer.num_bins
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
    return Coupling(changed_by(layer), net_of(layer.transform_net).with_outputs(ours), law, own)


def changed_by(layer: Any) -> np.ndarray:
    changed = np.zeros(layer.features, bool)
    changed[layer.transform_features.numpy()] = True
    return changed


def numbers_last(numbers: int) -> Callable[[np.ndarray], np.ndarray]:
    """For a net that gives all first numbers, then all second ones, as ours does."""
    return lambda rows: rows.reshape(len(rows), numbers, -1)
