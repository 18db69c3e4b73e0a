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
    layers = list(_flat(reversed(flow.flows)))
    dims = flow.q0.loc.numel() if type(flow.q0).__name__ == "DiagGaussian" else 0
    free = type(flow.q0).__name__ == "Uniform"
    if free:
        dims = int(flow.q0.d)
        if (flow.q0.low, flow.q0.high) != (0, 1):
            raise refused("a uniform base on [0, 1]", f"one on [{flow.q0.low}, {flow.q0.high}]")
    if not dims:
        raise refused("a DiagGaussian or Uniform base", flow.q0)
    source = Source(dims, base="uniform" if free else "gaussian")
    source.steps = steps_of(layers, lambda layer: _step(layer, dims, free))
    if not free:
        scale = np.exp(-flow.q0.log_scale.numpy().ravel())
        source.steps.append(Affine(np.diag(scale), -flow.q0.loc.numpy().ravel() * scale))
    return build(source)


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
    levels = [[list(block.flows) for block in _glow_blocks(model, level)] for level in reversed(model.flows)]
    bases = list(reversed(model.q0))
    for base in bases:
        if type(base).__name__ != "GlowBase":
            raise refused("GlowBase at all levels", base)
    shapes = {(len(level), parts[0].flows[1].param_map.net[0].out_channels) for level in levels for parts in level}
    if len(shapes) != 1:
        raise refused("levels of as many blocks, with nets of one width", f"blocks and widths {sorted(shapes)}")
    channels, height, width = bases[0].shape
    shape = (2 * height, 2 * width, channels // (2 if len(levels) > 1 else 4))
    hidden = levels[0][0][0].flows[1].param_map.net[0].out_channels
    classes = bases[-1].num_classes if bases[-1].class_cond else 0
    if any(base.class_cond for base in bases[:-1]) or any(base.logscale_factor != 3 for base in bases):
        raise refused("GlowBase of logscale_factor 3, with classes at the top alone", "others")
    flow = Glow(shape, levels=len(levels), steps=len(levels[0]), hidden=hidden, permutation="plain", classes=classes,
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


def _glow_blocks(model: Any, level: Any) -> list[Any]:
    """Of a level, from data to latents."""
    blocks: list[Any]
    *blocks, squeeze = level
    for layer in blocks:
        if type(layer).__name__ != "GlowBlock":
            raise refused("levels of GlowBlock", layer)
    if type(squeeze).__name__ != "Squeeze" or getattr(model, "transform", None) is not None:
        raise refused("levels that end with Squeeze, and no transform of the data", squeeze)
    return blocks[::-1]


def _glow_step(values: dict[str, np.ndarray], scope: str, parts: list[Any]) -> None:
    block, mixing, norm = parts
    coupling = block.flows[1]
    if block.flows[0].mode != "channel" or not coupling.scale or coupling.scale_map != "sigmoid":
        raise refused("GlowBlock with split_mode channel and scale_map sigmoid", "another one")
    values[f"{scope}.actnorm.bias"][:] = -norm.t.numpy().ravel()
    values[f"{scope}.actnorm.logs"][:] = -norm.s.numpy().ravel() / 3
    matrix = values[f"{scope}.permutation.weight"]
    matrix[...] = probed(lambda x: mixing.inverse(x[:, :, None, None])[0][:, :, 0, 0], len(matrix), mixing).matrix
    layers = list(coupling.param_map.net)
    convolutions = [layer for layer in layers if isinstance(layer, torch.nn.Conv2d)]
    others = [layer for layer in layers if not isinstance(layer, torch.nn.Conv2d)]
    if len(convolutions) != 3 or any(getattr(layer, "negative_slope", 1) != 0 for layer in others):
        raise refused("nets of three convolutions with ReLU", coupling.param_map)
    for j, layer in enumerate(convolutions, 1):
        weight, bias = layer.weight.numpy().transpose(2, 3, 1, 0).copy(), layer.bias.detach().numpy().copy()  # type: ignore[union-attr]
        if j == 3:  # shifts are added here
            weight[..., 0::2] *= -1
            bias[0::2] *= -1
        values[f"{scope}.coupling.conv{j}.weight"][:, :, :weight.shape[2]] = weight
        values[f"{scope}.coupling.conv{j}.bias"][:] = bias


def log_prob(flow: Any) -> Callable[..., torch.Tensor]:
    if type(flow).__name__ == "MultiscaleFlow":
        def levels(x: torch.Tensor, label: torch.Tensor | None = None) -> torch.Tensor:
            scores: torch.Tensor = flow.log_prob(x.permute(0, 3, 1, 2) / 256, label)
            return scores - x[0].numel() * math.log(256)

        return levels

    def columns(x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        scores: torch.Tensor = flow.log_prob(x) if context is None else flow.log_prob(x, context=context)
        return scores

    return columns
