"""Flows of FrEIA, whose latents are standard normal."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from evenflow.converters.build import build
from evenflow.converters.steps import RAW, Affine, Coupling, Source, net_of, probed, refused
from evenflow.models import CouplingFlow


def reads(flow: Any) -> bool:
    return hasattr(flow, "module_list") and type(flow).__module__.startswith("FrEIA.")


def log_prob(flow: Any) -> Callable[..., torch.Tensor]:
    def call(x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        z, logdet = flow(x) if context is None else flow(x, c=[context])
        normal: torch.Tensor = -0.5 * (z**2).sum(1) - 0.5 * math.log(2 * math.pi) * z.shape[1] + logdet
        return normal

    return call


def read(flow: Any) -> CouplingFlow:
    dims = flow.shapes[0][0] if hasattr(flow, "shapes") else 0
    if not dims or len(flow.shapes[0]) != 1:
        raise refused("a SequenceINN of columns", flow)
    if any(condition not in (None, 0) for condition in flow.conditions) or flow.force_tuple_output:
        raise refused("one condition, number 0, and a tensor as output", flow)
    source = Source(dims)
    for block in flow.module_list:
        kind = type(block).__name__
        if kind == "AllInOneBlock":
            source.steps += _all_in_one(block, dims)
        elif kind == "GLOWCouplingBlock":
            source.steps += _two_couplings(block, dims)
        else:
            source.steps.append(probed(partial(_alone, block), dims, block))
    return build(source)


def _alone(block: Any, x: torch.Tensor) -> Any:
    return block((x,))[0][0]


def _all_in_one(block: Any, dims: int) -> list[Affine | Coupling]:
    if block.GIN:
        raise refused("blocks that are affine", "AllInOneBlock with gin_block")
    if block.clamp != 2:
        raise refused("affine_clamping 2, as law affine has", f"AllInOneBlock with {block.clamp:g}")
    if block.householder:
        block.w_perm = block._construct_householder_permutation().double()
        block.w_perm_inv = block.w_perm.transpose(0, 1).contiguous()
    changed = np.arange(dims) >= block.splits[0]
    net = net_of(block.subnet).with_outputs(_scales_first(0.2, 0.1))  # a tenth of the outputs counts
    steps: list[Affine | Coupling] = [Coupling(changed, net, {"law": "affine"}),
                                      probed(lambda x: block._permute(x)[0], dims, block)]
    if block.reverse_pre_permute:
        steps.insert(0, probed(lambda x: block._pre_permute(x), dims, block))
    return steps


def _two_couplings(block: Any, dims: int) -> list[Affine | Coupling]:
    factor = next((k for k in (1.0, 2.0) if torch.allclose(block.f_clamp(RAW), torch.tanh(k * RAW / 2))), 0.0)
    if block.clamp != 2 or not factor:
        raise refused("clamp 2 and clamp_activation TANH or SIGMOID, as law affine has", block)
    second = np.arange(dims) >= block.split_len1
    return [Coupling(changed, net_of(net).with_outputs(_scales_first(factor, 1.0)), {"law": "affine"})
            for changed, net in ((~second, block.subnet2), (second, block.subnet1))]


def _scales_first(scale: float, shift: float) -> Callable[[np.ndarray], np.ndarray]:
    """For a net that gives all scales, then all shifts, times these factors."""
    def ours(rows: np.ndarray) -> np.ndarray:
        scales, shifts = np.split(rows, 2, axis=1)
        return np.stack([shift * shifts, scale * scales], axis=1)

    return ours
