"""Flows of FrEIA, whose latents are standard normal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from evenflow.converters.build import build
from evenflow.converters.steps import Affine, Coupling, Source, affine_coupling, giving, probed, refused, steps_of
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
    return build(Source(dims, steps=steps_of(flow.module_list, lambda block: _steps(block, dims))))


def _steps(block: Any, dims: int) -> list[Affine | Coupling]:
    def call(x: torch.Tensor) -> torch.Tensor:
        return block((x,))[0][0]  # type: ignore[no-any-return]

    def silent(net: Any, outputs: int) -> Any:
        return giving(net, lambda x: x.new_zeros(len(x), outputs))

    kind = type(block).__name__
    if kind == "AllInOneBlock":
        with silent(block.subnet, 2 * block.splits[1]):
            last = probed(call, dims, block)  # with the permutation in front
        first = Affine(np.eye(dims), np.zeros(dims))
        if block.reverse_pre_permute:
            first = Affine(block.w_perm_inv.numpy().reshape(dims, dims).T, first.shift)
        before, after = (torch.from_numpy(np.linalg.inv(affine.matrix)) for affine in (first, last))
        last = Affine(np.linalg.inv(first.matrix), first.shift).then(last)
        coupling = affine_coupling(block, block.subnet, dims, lambda x: (
            (call(x @ before) - torch.from_numpy(last.shift)) @ after) @ torch.from_numpy(first.matrix))
        return [first, coupling, last]
    if kind == "GLOWCouplingBlock":
        with silent(block.subnet1, 2 * block.split_len2):
            second = affine_coupling(block, block.subnet2, dims, call)
        with silent(block.subnet2, 2 * block.split_len1):
            return [second, affine_coupling(block, block.subnet1, dims, call)]
    return [probed(call, dims, block)]
