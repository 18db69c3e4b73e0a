"""A `CouplingFlow` of what a reader has found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from evenflow import models
from evenflow.converters.steps import Affine, Coupling, Source, refused
from evenflow.errors import ConfigError
from evenflow.flow import Flow
from evenflow.models import CouplingFlow


class Gap:
    """The affine map between two couplings, in front of the first or behind the last.

    Its permutation is left to the masks: `order` says which column of the model each column of the source is.
    """

    def __init__(self, affine: Affine, order: np.ndarray):
        self.matrix: np.ndarray | None = None
        self.scale = np.ones(len(order))
        source = np.abs(affine.matrix).argmax(0)
        scale = affine.matrix[source, range(len(order))]
        alone = np.zeros_like(affine.matrix)
        alone[source, range(len(order))] = scale
        if np.array_equal(alone, affine.matrix) and len(set(source)) == len(order) and (scale > 0).all():
            self.order = order[source]
            self.scale[self.order] = scale
            self.shift = np.empty_like(affine.shift)
            self.shift[self.order] = affine.shift
        else:
            self.order = np.arange(len(order))
            self.matrix = np.empty_like(affine.matrix)
            self.matrix[order] = affine.matrix
            self.shift = affine.shift

    @property
    def trivial(self) -> bool:
        return self.matrix is None and bool((self.scale == 1).all() and (self.shift == 0).all())


def build(source: Source) -> CouplingFlow:
    """In float64."""
    gaps, couplings = _in_turn(source)
    if not couplings:
        raise refused("at least one coupling", "none")
    settings = _settings(source, couplings)
    first, *between = gaps
    if source.base == "uniform" and not all(gap.trivial for gap in gaps):
        raise refused("permutations alone between the couplings of a uniform base", "other layers")
    masks = np.array([coupling.changed for coupling in couplings])
    # A column that no coupling changes needs a matrix, or the model refuses the masks.
    mixes = any(gap.matrix is not None for gap in between) or not masks.any(0).all()
    mixes_last = between[-1].matrix is not None or (mixes and len(couplings) == 1)
    norms = any((gap.shift != 0).any() or (gap.scale != 1).any() for gap in between)
    flow = CouplingFlow(
        source.dims, couplings=len(couplings), mask=masks if source.dims > 1 else "halves", base=source.base,
        dtype="float64", permutation="lu" if mixes else "none", mix_last=mixes_last, actnorm=norms,
        preprocess="none" if first.trivial else "standardize" if first.matrix is None else "whiten", **settings)
    values = flow.named_parameters()
    if first.matrix is not None:
        _set(values, "preprocess", matrix=first.matrix, inverse=np.linalg.inv(first.matrix),
             logdet=np.linalg.slogdet(first.matrix)[1], mean=-np.linalg.solve(first.matrix.T, first.shift))
    elif not first.trivial:
        _set(values, "preprocess", mean=-first.shift / first.scale, std=1 / first.scale)
    for i, coupling in enumerate(couplings):
        for name, layer in coupling.net.layers.items():
            _set(values, f"coupling{i}.{name}", weight=layer.weight, bias=layer.bias)
        if coupling.own is not None:
            _set(values, f"unconditional{i}", numbers=coupling.own)
        _set_gap(values, i, between[i], norms, mixes_last if i + 1 == len(couplings) else mixes)
    if source.context is not None:
        _set(values, "context", mean=source.context[0], std=source.context[1])
    values["initialized"][...] = 1
    return flow


def _in_turn(source: Source) -> tuple[list[Gap], list[Coupling]]:
    """Gaps, with couplings between them in the columns of the model."""
    nothing = Affine(np.eye(source.dims), np.zeros(source.dims))
    order, map_, gaps, couplings = np.arange(source.dims), nothing, [], []
    for step in [*source.steps, None]:
        if isinstance(step, Affine):
            map_ = map_.then(step)
            continue
        gaps.append(Gap(map_, order))
        order, map_ = gaps[-1].order, nothing
        if step is not None:
            couplings.append(_in_order(step, order))
    return gaps, couplings


def _in_order(coupling: Coupling, order: np.ndarray) -> Coupling:
    """Its columns, and with them its net's inputs and outputs, in those of the model."""
    changed = np.zeros_like(coupling.changed)
    changed[order[coupling.changed]] = True
    passing, moved = np.argsort(order[~coupling.changed]), np.argsort(order[coupling.changed])
    net = coupling.net.with_outputs(lambda rows: rows.reshape(len(rows), -1, len(moved))[:, :, moved])
    name, inputs = next(iter(net.layers)), np.arange(net.inputs)
    inputs[:len(passing)] = passing
    net.layers[name] = net.layers[name]._replace(weight=net.layers[name].weight[inputs])
    return Coupling(changed, net, coupling.law, None if coupling.own is None else coupling.own[:, passing])


def _settings(source: Source, couplings: list[Coupling]) -> dict[str, Any]:
    """Those that all couplings share."""
    found: list[dict[str, Any]] = []
    for coupling in couplings:
        net = coupling.net
        settings = dict(coupling.law, net=net.kind, hidden=net.hidden, activation=net.activation, dropout=net.dropout,
                        context=net.inputs - int((~coupling.changed).sum()))
        if coupling.own is not None:
            settings["unconditional"] = True
        if found and settings != found[0]:
            raise refused(f"couplings that are alike, {found[0]}", str(settings))
        found.append(settings)
    if source.context is not None and len(source.context[0]) != found[0]["context"]:
        raise refused(f"a context of {found[0]['context']} values", f"{len(source.context[0])}")
    return found[0]


def _set(values: dict[str, np.ndarray], scope: str, **arrays: Any) -> None:
    for name, array in arrays.items():
        values[f"{scope}.{name}"][...] = np.reshape(array, values[f"{scope}.{name}"].shape)


def _set_gap(values: dict[str, np.ndarray], i: int, gap: Gap, norm: bool, mix: bool) -> None:
    """The ActNorm behind coupling i, and the matrix in front of the next."""
    dims = len(gap.shift)
    if norm and gap.matrix is None:
        _set(values, f"actnorm{i}", bias=gap.shift / gap.scale, logs=np.log(gap.scale) / 3)
    elif norm:  # x W + b = (x + b W^-1) W
        assert gap.matrix is not None
        _set(values, f"actnorm{i}", bias=np.linalg.solve(gap.matrix.T, gap.shift), logs=np.zeros(dims))
    if mix:
        matrix = np.eye(dims) if gap.matrix is None else gap.matrix
        order, lower, upper = (part.numpy() for part in torch.linalg.lu(torch.from_numpy(matrix)))
        diagonal = np.diagonal(upper)
        _set(values, f"permutation{i + 1}", permutation=order.argmax(1), lower=np.tril(lower, -1),
             upper=np.triu(upper, 1), logs=np.log(np.abs(diagonal)), sign=np.sign(diagonal))


def check_same(flow: Flow, log_prob: Callable[..., torch.Tensor]) -> None:
    """ConfigError if the source's density differs from the model's, both in float64."""
    n = 200
    given: dict[str, Any] = {}
    if flow.context:
        rng = np.random.default_rng(0)
        values = flow.named_parameters()
        context = values["context.mean"] + values["context.std"] * rng.standard_normal((n, flow.context))
        given = {"context": context}
    if flow.classes:
        given = {"label": np.arange(n) % flow.classes}
    try:
        x = flow.sample(n, seed=0, **given)
        ours = flow.log_prob(x, **given)
        theirs = {name: torch.from_numpy(array) for name, array in given.items()}
        other = log_prob(torch.from_numpy(x), **theirs).numpy()
    except Exception as error:
        raise ConfigError(f"[convert] expected to compare log-densities with the source's, got: {error}") from error
    difference = np.abs(ours - other).max()
    if not difference <= 1e-6 * max(1.0, np.abs(ours).max()):
        raise ConfigError(f"[convert] expected the source's log-densities, got a difference of {difference:.1g}: it "
                          "computes something that its layers do not say")


def in_dtype(flow: Flow, dtype: str) -> Flow:
    if dtype == "float64":
        return flow
    narrow = models.build({**flow.config, "dtype": dtype})
    others = narrow.named_parameters()
    for name, values in flow.named_parameters().items():
        others[name][...] = values
    return narrow
