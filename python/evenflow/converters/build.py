"""A `CouplingFlow` of what a reader has found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from evenflow import models
from evenflow.converters.steps import Affine, Coupling, Source, refused
from evenflow.flow import Flow
from evenflow.models import CouplingFlow


class Gap(NamedTuple):
    """The affine map between two couplings, in front of the first or behind the last: x scale matrix + shift.

    Its permutation is left to the masks where it has nothing else but factors: `order` says which column of the model
    each column of the source is.
    """

    order: np.ndarray
    scale: np.ndarray
    matrix: np.ndarray
    shift: np.ndarray

    @property
    def mixes(self) -> bool:
        return not np.array_equal(self.matrix, np.eye(len(self.order)))

    @property
    def trivial(self) -> bool:
        return not self.mixes and bool((self.scale == 1).all() and (self.shift == 0).all())

    @property
    def bias(self) -> np.ndarray:
        """(x + bias) scale matrix is the same map."""
        return np.asarray(np.linalg.solve((self.scale[:, None] * self.matrix).T, self.shift))


def _gap(affine: Affine, order: np.ndarray) -> Gap:
    """Of a map in the source's columns, whose places in the model in front of it are `order`."""
    n = len(order)
    source = np.abs(affine.matrix).argmax(0)
    scale = affine.matrix[source, range(n)]
    if np.count_nonzero(affine.matrix) == n == len(set(source)) and (scale > 0).all():
        back = np.argsort(order[source])
        return Gap(order[source], scale[back], np.eye(n), affine.shift[back])
    return Gap(np.arange(n), np.ones(n), affine.matrix[np.argsort(order)], affine.shift)


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
    mixes = any(gap.mixes for gap in between) or not masks.any(0).all()
    mixes_last = between[-1].mixes or (mixes and len(couplings) == 1)
    norms = any((gap.shift != 0).any() or (gap.scale != 1).any() for gap in between)
    flow = CouplingFlow(
        source.dims, couplings=len(couplings), mask=masks if source.dims > 1 else "halves", base=source.base,
        dtype="float64", permutation="lu" if mixes else "none", mix_last=mixes_last, actnorm=norms,
        preprocess="none" if first.trivial else "whiten" if first.mixes else "standardize", **settings)
    values = flow.named_parameters()

    def set_(scope: str, **arrays: Any) -> None:
        for name, array in arrays.items():
            values[f"{scope}.{name}"][...] = np.reshape(array, values[f"{scope}.{name}"].shape)

    if first.mixes:
        set_("preprocess", matrix=first.matrix, inverse=np.linalg.inv(first.matrix),
             logdet=np.linalg.slogdet(first.matrix)[1], mean=-first.bias)
    elif not first.trivial:
        set_("preprocess", mean=-first.bias, std=1 / first.scale)
    for i, (coupling, gap) in enumerate(zip(couplings, between)):
        for name, layer in coupling.net.layers.items():
            set_(f"coupling{i}.{name}", weight=layer.weight, bias=layer.bias)
        if coupling.own is not None:
            set_(f"unconditional{i}", numbers=coupling.own)
        if norms:
            set_(f"actnorm{i}", bias=gap.bias, logs=np.log(gap.scale) / 3)
        if mixes_last if i + 1 == len(couplings) else mixes:
            order, lower, upper = (part.numpy() for part in torch.linalg.lu(torch.from_numpy(gap.matrix)))
            diagonal = np.diagonal(upper)
            set_(f"permutation{i + 1}", permutation=order.argmax(1), lower=np.tril(lower, -1), upper=np.triu(upper, 1),
                 logs=np.log(np.abs(diagonal)), sign=np.sign(diagonal))
    if source.context is not None:
        set_("context", mean=source.context[0], std=source.context[1])
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
        gaps.append(_gap(map_, order))
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
    return replace(coupling, changed=changed, net=net, own=None if coupling.own is None else coupling.own[:, passing])


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


def check_same(flow: Flow, log_prob: Callable[..., torch.Tensor]) -> None:
    """ConfigError if the source's density differs from the model's, both in float64."""
    n, given = 200, dict[str, Any]()
    if flow.context:
        values, draws = flow.named_parameters(), np.random.default_rng(0).standard_normal((200, flow.context))
        given["context"] = values["context.mean"] + values["context.std"] * draws
    if flow.classes:
        given["label"] = np.arange(n) % flow.classes
    try:
        x = flow.sample(n, seed=0, **given)
        ours = flow.log_prob(x, **given)
        other = log_prob(*map(torch.from_numpy, (x, *given.values()))).numpy()
    except Exception as error:
        raise refused("to compare log-densities with the source's", str(error)) from error
    difference = np.abs(ours - other).max()
    if not difference <= 1e-6 * max(1.0, np.abs(ours).max()):
        raise refused("the source's log-densities", f"a difference of {difference:.1g}: it computes something that its "
                      "layers do not say")


def in_dtype(flow: Flow, dtype: str) -> Flow:
    narrow = models.build({**flow.config, "dtype": dtype})
    narrow.load_state_dict({**flow.state_dict()})
    return narrow
