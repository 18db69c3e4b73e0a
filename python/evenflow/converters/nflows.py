"""Flows of nflows, and of glasflow and sbi, which are made of its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from evenflow.converters.build import build
from evenflow.converters.steps import (RAW, Affine, Coupling, Source, changed_by, net_of, numbers_last, probed, refused,
                                    spline_coupling)
from evenflow.errors import ConfigError
from evenflow.models import CouplingFlow

SCALES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sigmoid": lambda u: torch.sigmoid(u + 2) + 1e-3,
    "softplus": lambda u: (torch.nn.functional.softplus(u) + 1e-3).clamp(0, 3),
    "affine": lambda u: torch.exp(2 * torch.tanh(u / 2))}
"""What the laws make of a raw scale; glasflow has others."""


def reads(flow: Any) -> bool:
    return hasattr(flow, "_transform") and hasattr(flow, "_distribution")


def log_prob(flow: Any) -> Callable[..., torch.Tensor]:
    return lambda x, context=None: flow.log_prob(x, context)


def read(flow: Any) -> CouplingFlow:
    transforms = list(_flat(flow._transform))
    dims = next((t.features for t in transforms if hasattr(t, "transform_features")), 0)
    if not dims:
        raise refused("at least one coupling", flow._transform)
    source = Source(dims)
    kind = type(flow._distribution).__name__
    free = kind == "MultivariateUniform"
    if free:
        source.base = "uniform"
        ends = [np.asarray(getattr(flow._distribution, name)) for name in ("low", "high")]
        if (ends[0] != 0).any() or (ends[1] != 1).any():
            raise refused("a uniform base on [0, 1]", f"one on {ends[0]} to {ends[1]}")
    elif kind not in ("StandardNormal", "DiagonalNormal"):
        raise refused("a standard normal or uniform base", flow._distribution)
    source.steps = [_step(t, dims, free) for t in transforms]
    if kind == "DiagonalNormal":
        mean, log_std = (getattr(flow._distribution, name).numpy().ravel() for name in ("mean_", "log_std_"))
        source.steps.append(Affine(np.diag(np.exp(-log_std)), -mean * np.exp(-log_std)))
    source.context = _standardisation(getattr(flow, "_embedding_net", torch.nn.Identity()), source)
    return build(source)


def _flat(transform: Any) -> Iterator[Any]:
    if type(transform).__name__ == "CompositeTransform":
        for part in transform._transforms:
            yield from _flat(part)
    else:
        yield transform


def _step(transform: Any, dims: int, free: bool) -> Affine | Coupling:
    kinds = [kind.__name__ for kind in type(transform).__mro__]
    if "CouplingTransform" not in kinds:
        return probed(lambda x: transform(x)[0], dims, transform)
    if "PiecewiseRationalQuadraticCouplingTransform" in kinds:
        if transform.tails != (None if free else "linear"):
            raise refused("linear tails, or a uniform base without tails", f"tails {transform.tails}")
        if free and transform.tail_bound != 1:
            raise refused("splines on [0, 1]", f"tail_bound {transform.tail_bound}")
        return spline_coupling(transform, free)
    if "AdditiveCouplingTransform" in kinds:
        law, numbers = "additive", 1
    elif "AffineCouplingTransform" in kinds:
        law, numbers = _law_of(transform), 2
    else:
        raise refused("additive, affine and rational-quadratic couplings", transform)
    if transform.unconditional_transform is not None:
        raise refused("unconditional splines alone", transform.unconditional_transform)
    net = net_of(transform.transform_net).with_outputs(numbers_last(numbers))
    return Coupling(changed_by(transform), net, {"law": law})


def _law_of(transform: Any) -> str:
    raw = RAW[:, None].expand(-1, 2 * transform.num_transform_features)
    scale = transform._scale_and_shift(raw)[0]
    for law, known in SCALES.items():
        if torch.allclose(scale, known(raw[:, :1]).expand_as(scale), rtol=1e-12, atol=0):
            return law
    raise refused("the scale of one of the laws sigmoid, softplus and affine in affine couplings", transform)


def _standardisation(net: Any, source: Source) -> tuple[np.ndarray, np.ndarray] | None:
    """Of the context, by the flow's embedding net."""
    coupling = next(step for step in source.steps if isinstance(step, Coupling))
    size = coupling.net.inputs - int((~coupling.changed).sum())
    if size == 0 or isinstance(net, torch.nn.Identity):
        return None
    other = refused("an embedding net that standardises", f"{type(net).__name__}; put torch.nn.Identity() in its place "
                    "and pass its outputs as the context")
    try:
        affine = probed(net, size, net)
    except ConfigError as error:
        raise other from error
    scale = np.diagonal(affine.matrix)
    if (affine.matrix != np.diag(scale)).any() or not (scale > 0).all():
        raise other
    return -affine.shift / scale, 1 / scale
