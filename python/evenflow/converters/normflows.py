"""Flows of normflows, which lists its layers from latents to data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from evenflow.converters.build import build
from evenflow.converters.steps import (Affine, Coupling, Source, affine_coupling, probed, reading, refused,
                                       spline_coupling, steps_of)
from evenflow.flow import Flow
from evenflow.models import Glow


def reads(flow: Any) -> bool:
    return hasattr(flow, "q0") and hasattr(flow, "flows")


def read(flow: Any) -> Flow:
    if type(flow).__name__ == "MultiscaleFlow":
        return _glow(flow)
    base, kind = flow.q0, type(flow.q0).__name__
    if kind not in ("DiagGaussian", "Uniform") or kind == "Uniform" and (base.low, base.high) != (0, 1):
        raise refused("a DiagGaussian base, or a Uniform one on [0, 1]", base)
    free, dims = kind == "Uniform", int(base.d if kind == "Uniform" else base.loc.numel())
    steps = steps_of(_flat(reversed(flow.flows)), lambda layer: _step(layer, dims, free))
    if not free:
        scale = np.exp(-base.log_scale.numpy().ravel())
        steps.append(Affine(np.diag(scale), -base.loc.numpy().ravel() * scale))
    return build(Source(dims, "uniform" if free else "gaussian", steps))


def _flat(layers: Any) -> Iterator[Any]:
    for layer in layers:
        if type(layer).__name__ == "Composite":
            yield from _flat(reversed(next(layer.children())))
        elif type(layer).__name__ == "Reverse":
            raise refused("layers in their own direction", layer)
        else:
            yield layer


def _step(layer: Any, dims: int, free: bool) -> list[Affine | Coupling]:
    def call(x: torch.Tensor) -> torch.Tensor:
        return layer.inverse(x)[0]  # type: ignore[no-any-return]

    kind = type(layer).__name__
    if kind == "CoupledRationalQuadraticSpline":
        return [spline_coupling(layer.prqct, free)]
    if kind == "AffineCouplingBlock":
        return [affine_coupling(layer, layer.flows[1].param_map, dims, call)]
    return [probed(call, dims, layer)]


def _glow(model: Any) -> Glow:
    """A `MultiscaleFlow` of `GlowBlock`, whose data in [0, 1] are levels / 256 here."""
    kinds = [[type(layer).__name__ for layer in level] for level in model.flows]
    if any(set(level[:-1]) != {"GlowBlock"} or level[-1] != "Squeeze" for level in kinds) or getattr(
            model, "transform", None) is not None:
        raise refused("levels of GlowBlock that end with Squeeze, and no transform of the data", str(kinds))
    levels = [[list(block.flows) for block in level[-2::-1]] for level in reversed(model.flows)]
    bases = list(reversed(model.q0))
    if any(type(base).__name__ != "GlowBase" or base.logscale_factor != 3 for base in bases) or any(
            base.class_cond for base in bases[:-1]):
        raise refused("GlowBase of logscale_factor 3, with classes at the top alone", bases[0])
    sizes = {(len(level), parts[0].flows[1].param_map.net[0].out_channels) for level in levels for parts in level}
    if len(sizes) != 1:
        raise refused("levels of as many blocks, with nets of one width", f"blocks and widths {sorted(sizes)}")
    (steps, hidden), classes = sizes.pop(), bases[-1].num_classes or 0
    channels, height, width = bases[0].shape
    shape = (2 * height, 2 * width, channels // (2 if len(levels) > 1 else 4))
    flow = Glow(shape, levels=len(levels), steps=steps, hidden=hidden, permutation="plain", classes=classes,
                dtype="float64")
    values = flow.named_parameters()
    for name, array in values.items():
        if not name.endswith("sign"):
            array[...] = 0
    for i, level in enumerate(levels):
        for k, parts in enumerate(level):
            with reading(parts[0]):
                _glow_step(values, f"level{i}.step{k}", parts)
        loc, log_scale = (_scaled(bases[i], name) for name in ("loc", "log_scale"))
        if i + 1 < len(levels):
            values[f"level{i}.split.conv.bias"][0::2] = loc
            values[f"level{i}.split.conv.bias"][1::2] = log_scale
        else:
            values["top.bias"][:] = np.concatenate([loc, log_scale])
            if classes:
                values["top.class_weight"][:] = np.hstack([bases[i].loc_cc.numpy(), bases[i].log_scale_cc.numpy()])
    values["level0.step0.actnorm.bias"] += 0.5  # which Glow subtracts
    values["initialized"][...] = 1
    return flow


def _scaled(base: Any, name: str) -> np.ndarray:
    scaled: torch.Tensor = getattr(base, name) * torch.exp(getattr(base, f"{name}_logs") * base.logscale_factor)
    return scaled.numpy().ravel()


def _glow_step(values: dict[str, np.ndarray], scope: str, parts: list[Any]) -> None:
    block, mixing, norm = parts
    coupling = block.flows[1]
    layers = list(coupling.param_map.net)
    convolutions = [layer for layer in layers if isinstance(layer, torch.nn.Conv2d)]
    others = [layer for layer in layers if not isinstance(layer, torch.nn.Conv2d)]
    if block.flows[0].mode != "channel" or not coupling.scale or coupling.scale_map != "sigmoid" or len(
            convolutions) != 3 or any(getattr(layer, "negative_slope", 1) != 0 for layer in others):
        raise refused("blocks of split_mode channel and scale_map sigmoid, whose nets are three convolutions with ReLU",
                      "GlowBlock of others")
    values[f"{scope}.actnorm.bias"][:] = -norm.t.numpy().ravel()
    values[f"{scope}.actnorm.logs"][:] = -norm.s.numpy().ravel() / 3
    matrix = values[f"{scope}.permutation.weight"]
    matrix[...] = probed(lambda x: mixing.inverse(x[:, :, None, None])[0][:, :, 0, 0], len(matrix), mixing).matrix
    for j, layer in enumerate(convolutions, 1):
        weight, bias = layer.weight.numpy().transpose(2, 3, 1, 0).copy(), layer.bias.detach().numpy().copy()  # type: ignore[union-attr]
        if j == 3:  # shifts are added here
            weight[..., 0::2] *= -1
            bias[0::2] *= -1
        values[f"{scope}.coupling.conv{j}.weight"][:, :, :weight.shape[2]] = weight
        values[f"{scope}.coupling.conv{j}.bias"][:] = bias


def log_prob(flow: Any) -> Callable[..., torch.Tensor]:
    def levels(x: torch.Tensor, label: torch.Tensor | None = None) -> torch.Tensor:
        scores: torch.Tensor = flow.log_prob(x.permute(0, 3, 1, 2) / 256, label)
        return scores - x[0].numel() * math.log(256)

    return levels if type(flow).__name__ == "MultiscaleFlow" else flow.log_prob
