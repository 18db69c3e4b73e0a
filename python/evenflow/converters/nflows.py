"""Flows of nflows, and of glasflow and sbi, which are made of its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from evenflow.converters.build import build
from evenflow.converters.steps import (Affine, Coupling, Source, affine_coupling, probed, refused, spline_coupling,
                                       steps_of)
from evenflow.errors import ConfigError
from evenflow.models import CouplingFlow


def reads(flow: Any) -> bool:
    return hasattr(flow, "_transform") and hasattr(flow, "_distribution")


def log_prob(flow: Any) -> Callable[..., torch.Tensor]:
    return lambda x, context=None: flow.log_prob(x, context)


def read(flow: Any) -> CouplingFlow:
    parts = dict(flow.named_children())
    transforms, base = list(_flat(parts["_transform"])), parts["_distribution"]
    dims = next((t.features for t in transforms if hasattr(t, "transform_features")), 0)
    if not dims:
        raise refused("at least one coupling", parts["_transform"])
    source, kind = Source(dims), type(base).__name__
    if kind == "MultivariateUniform":
        source.base = "uniform"
        ends = [np.asarray(getattr(base, name)) for name in ("low", "high")]
        if (ends[0] != 0).any() or (ends[1] != 1).any():
            raise refused("a uniform base on [0, 1]", f"one on {ends[0]} to {ends[1]}")
    elif kind not in ("StandardNormal", "DiagonalNormal"):
        raise refused("a standard normal or uniform base", base)
    source.steps = steps_of(transforms, lambda transform: _step(transform, dims, source.base == "uniform"))
    if kind == "DiagonalNormal":
        mean, log_std = (getattr(base, name).numpy().ravel() for name in ("mean_", "log_std_"))
        source.steps.append(Affine(np.diag(np.exp(-log_std)), -mean * np.exp(-log_std)))
    source.context = _standardisation(parts.get("_embedding_net", torch.nn.Identity()), source)
    return build(source)


def _flat(transform: Any) -> Iterator[Any]:
    if type(transform).__name__ == "CompositeTransform":
        for part in next(transform.children()):
            yield from _flat(part)
    else:
        yield transform


def _step(transform: Any, dims: int, free: bool) -> list[Affine | Coupling]:
    def call(x: torch.Tensor) -> torch.Tensor:
        return transform(x)[0]  # type: ignore[no-any-return]

    kinds = [kind.__name__ for kind in type(transform).__mro__]
    if "CouplingTransform" not in kinds:
        return [probed(call, dims, transform)]
    if "PiecewiseRationalQuadraticCouplingTransform" not in kinds:
        return [affine_coupling(transform, transform.transform_net, dims, call)]
    if free and transform.tail_bound != 1:
        raise refused("splines on [0, 1]", f"tail_bound {transform.tail_bound}")
    return [spline_coupling(transform, free)]


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
