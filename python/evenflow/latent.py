"""Work in latent space: reconstruction from some levels, interpolation, editing along attribute vectors.

A flow gives each sample a latent, a row z of as many numbers, and any z is that of some sample. Between and beyond the
latents of data lie samples that look like data, which the mean of two pictures does not.

Images in may be uint8, taken in the middle of their levels, or floats; images out are floats in level units
(see `Flow.to_uint8`). Class-conditional models take the labels (N,) of the data, models with a context its rows (N, C),
and use them both ways.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from evenflow._border import arrays, checks
from evenflow._border.batch import Batch
from evenflow.density import blocks, check, check_flow, floats
from evenflow.errors import ConfigError, ShapeError, wrong
from evenflow.flow import Flow
from evenflow.models import build


def as_floats(flow: Flow, x: Any, first: int = 0) -> np.ndarray:
    """Data in the model's dtype and units, uint8 images in the middle of their levels. first: x's first row in errors.

    Models are trained on data with noise, for which whole levels are an unlikely corner.
    """
    x = check(check_flow("data", flow), "data", x, only=True).x
    values: np.ndarray = floats(flow, "data", x, first=first)
    return values + flow.dtype.type(0.5) if x.dtype == np.uint8 else values


def reconstruct(flow: Flow, x: Any, *, label: Any = None, context: Any = None, seed: int = 0, keep: int | None = None,
                rest: str = "zero") -> np.ndarray:
    """Encodes and decodes, keeping only the coarsest levels of the latent (Dinh et al. 2016, appendix D).

    What remains of an image without its finest levels shows what the coarse ones are about.

    Parameters
    ----------
    flow : Flow
        The model.
    x : array_like, (N, *shape)
        Data.
    label, context
        As in `Flow.log_prob`.
    seed : int
        For rest="redraw".
    keep : int, optional
        Number of levels to keep, coarsest first. None: all.
    rest : str
        What becomes of the finer levels: "zero" (Real NVP's compression), or "redraw".

    Returns
    -------
    ndarray, (N, *shape)
        Data; images in level units.

    Raises
    ------
    ConfigError
        The model has fewer levels.

    See Also
    --------
    evenflow.Flow.split_latent : The levels of latents.

    Examples
    --------
    >>> from evenflow import latent
    >>> digits = ef.data.load("digits")
    >>> flow = ef.Glow((8, 8, 1), levels=2, steps=2, hidden=16, bits=4)
    >>> flow.init(digits.train)
    >>> whole = latent.reconstruct(flow, digits.test[:5])
    >>> bool(np.abs(whole - (digits.test[:5] // 16 + 0.5)).max() < 1e-3)
    True
    >>> latent.reconstruct(flow, digits.test[:5], keep=1).shape
    (5, 8, 8, 1)
    """
    where = "reconstruct"
    checks.choice(where, "rest", rest, ("zero", "redraw"))
    seed = checks.whole(where, "seed", seed, low=0)
    z = _encode(flow, x, label, context)
    levels = flow.split_latent(z)
    keep = len(levels) if keep is None else checks.whole(where, "keep", keep, low=1, high=len(levels))
    if rest == "redraw":
        drawn = flow.sample(len(z), seed=seed, label=label, context=context)
        fresh = flow.split_latent(flow.encode(drawn, label=label, context=context))
    else:
        fresh = [np.zeros_like(level) for level in levels]
    finer = len(levels) - keep
    return np.asarray(flow.decode(flow.join_latent([*fresh[:finer], *levels[finer:]]), label=label, context=context))


def interpolate(flow: Flow, a: Any, b: Any, *, label: Any = None, context: Any = None, steps: int = 9) -> np.ndarray:
    """Interpolates between pairs of samples on a straight line in latent space (Kingma, Dhariwal 2018, figure 5).

    Parameters
    ----------
    flow : Flow
        The model.
    a, b : array_like, (N, *shape)
        Both ends of each line, which are included.
    label, context
        One for each pair, or one for all.
    steps : int
        Samples on a line, at least 2.

    Returns
    -------
    ndarray, (N, steps, *shape)
        Data; images in level units.

    See Also
    --------
    manifold : Between four samples.
    edit : Along a direction.

    Examples
    --------
    >>> from evenflow import latent
    >>> x, _ = ef.data.two_moons(1000, seed=0)
    >>> flow = ef.CouplingFlow(2)
    >>> flow.init(x)
    >>> line = latent.interpolate(flow, x[:1], x[1:2], steps=5)
    >>> line.shape, bool(np.allclose(line[0, [0, -1]], x[:2], atol=1e-4))
    ((1, 5, 2), True)
    """
    where = "interpolate"
    steps = checks.whole(where, "steps", steps, low=2)
    za, zb = (_encode(flow, x, label, context) for x in (a, b))
    if len(za) != len(zb):
        raise wrong(ShapeError, where, "b", f"expected as many ends as starts, got {len(zb)} and {len(za)}")
    t = np.linspace(0, 1, steps, dtype=flow.dtype)[:, None]
    return _decode(flow, za[:, None] * (1 - t) + zb[:, None] * t, label, context)


def manifold(flow: Flow, x: Any, *, label: int | None = None, context: Any = None, steps: int = 8) -> np.ndarray:
    """The manifold of four samples (Dinh et al. 2016, equation 19).

    z = cos(phi) (cos(phi') z1 + sin(phi') z2) + sin(phi) (cos(phi') z3 + sin(phi') z4), with phi by row and phi' by
    column on `steps` equal angles of the whole circle. Four standard normal z give standard normal ones.

    Parameters
    ----------
    flow : Flow
        The model.
    x : array_like, (4, *shape)
        Four samples.
    label : int, optional
        The class of all.
    context : array_like, (C,), optional
        The context of all.
    steps : int
        Rows, and columns, at least 2.

    Returns
    -------
    ndarray, (steps, steps, *shape)
        Data; images in level units.
    """
    where = "manifold"
    steps = checks.whole(where, "steps", steps, low=2)
    label = None if label is None else checks.whole(where, "label", label, low=0)
    z = _encode(flow, x, label, context)
    if len(z) != 4:
        raise wrong(ShapeError, where, "x", f"expected four samples, got {len(z)}")
    angle = 2 * np.pi * np.arange(steps) / steps
    circle = np.stack([np.cos(angle), np.sin(angle)])
    weights = np.einsum("ap,bq->pqab", circle, circle).reshape(steps, steps, 4)
    return _decode(flow, (weights @ z).astype(flow.dtype), label, context)


def attribute(flow: Flow, x: Any, positive: Any, negative: Any = None, *, label: Any = None,
              context: Any = None) -> np.ndarray:
    """Direction of an attribute in latent space (Kingma, Dhariwal 2018, section 5.3), such as a smile.

    Parameters
    ----------
    flow : Flow
        The model.
    x : array_like, (N, *shape)
        Data, which are encoded piece by piece.
    positive, negative : array_like of bool, (N,)
        Samples with and without the attribute. negative None: all that are not positive.
    label, context
        As in `Flow.log_prob`.

    Returns
    -------
    ndarray of float64, (D,)
        Mean latent of the positive samples minus that of the negative ones.

    Raises
    ------
    ConfigError
        There are no samples of one kind.

    See Also
    --------
    edit : Moves samples along the direction.
    project : How much of it samples have.

    Examples
    --------
    >>> from evenflow import latent
    >>> x, moon = ef.data.two_moons(1000, seed=0)
    >>> flow = ef.CouplingFlow(2)
    >>> flow.init(x)
    >>> direction = latent.attribute(flow, x, positive=moon == 1)
    >>> latent.edit(flow, x[:3], direction, strengths=[0, 0.5, 1]).shape
    (3, 3, 2)
    """
    where = "attribute"
    data = check(check_flow(where, flow), where, x, label, context)
    groups = [_marks("positive", positive, len(data))]
    groups.append(~groups[0] if negative is None else _marks("negative", negative, len(data)))
    sums, counts = np.zeros((2, flow.dims)), [group.sum() for group in groups]
    if not all(counts):
        raise wrong(ConfigError, where, "positive", "expected samples with and without the attribute, "
                                                    f"got {counts[0]} and {counts[1]} out of {len(data)}")
    for rows, z in _encoded(flow, data):
        sums += [z[group[rows]].sum(axis=0, dtype=np.float64) for group in groups]
    return np.asarray(sums[0] / counts[0] - sums[1] / counts[1])


def _marks(name: str, marks: Any, n: int) -> np.ndarray:
    group: np.ndarray = arrays.as_array("attribute", marks, name)
    if group.dtype != bool or group.shape != (n,):
        raise wrong(ShapeError, "attribute", name, f"expected {name} as bool ({n},), got {group.dtype} {group.shape}")
    return group


def _encoded(flow: Flow, data: Batch) -> Iterator[tuple[slice, np.ndarray]]:
    """Latents, piece by piece, and of which rows."""
    for rows in blocks(flow, len(data)):
        part = data[rows]
        yield rows, flow.encode(as_floats(flow, part.x, rows.start), **part.conditions)


def edit(flow: Flow, x: Any, direction: Any, strengths: Any, *, label: Any = None, context: Any = None) -> np.ndarray:
    """Moves samples along a direction of latent space.

    Parameters
    ----------
    flow : Flow
        The model.
    x : array_like, (N, *shape)
        Data.
    direction : array_like, (D,)
        Of `attribute`.
    strengths : array_like, (S,)
        Multiples of the direction to add.
    label, context
        As in `Flow.log_prob`.

    Returns
    -------
    ndarray, (N, S, *shape)
        Data; images in level units.

    Raises
    ------
    NumericError
        A strength leads to latents without finite data.

    See Also
    --------
    attribute : A direction, and an example.
    """
    step = _direction("edit", flow, direction).astype(flow.dtype)
    strengths = arrays.as_numbers("edit", "strengths", strengths)
    if strengths.ndim != 1 or len(strengths) == 0:
        raise wrong(ShapeError, "edit", "strengths", f"expected strengths as (S,), got {strengths.shape}")
    strengths = arrays.to_floats("edit", strengths, flow.dtype, name="strengths")
    z = _encode(flow, x, label, context)
    return _decode(flow, z[:, None] + strengths[:, None] * step, label, context)


def project(flow: Flow, x: Any, direction: Any, *, label: Any = None, context: Any = None) -> np.ndarray:
    """How much of a direction is in each sample's latent z, as in Glow's demo.

    Parameters
    ----------
    flow : Flow
        The model.
    x : array_like, (N, *shape)
        Data.
    direction : array_like, (D,)
        Of `attribute`.
    label, context
        As in `Flow.log_prob`.

    Returns
    -------
    ndarray of float64, (N,)
        z . direction / |direction|^2, to which `edit` with strength s adds s.

    Raises
    ------
    ConfigError
        The direction is zero.

    See Also
    --------
    attribute : A direction, and an example.
    """
    direction = _direction("project", flow, direction)
    if not direction.any():
        raise wrong(ConfigError, "project", "direction", "expected a direction other than zero, got zeros")
    shares = [z @ direction for _, z in _encoded(flow, check(flow, "project", x, label, context))]
    return np.asarray(np.concatenate([np.empty(0), *shares]) / (direction @ direction))


def _direction(where: str, flow: Flow, direction: Any) -> np.ndarray:
    numbers = arrays.as_numbers(where, "direction", direction)
    if numbers.shape != (check_flow(where, flow).dims,):
        raise wrong(ShapeError, where, "direction", f"expected direction as ({flow.dims},), got {numbers.shape}")
    return arrays.to_floats(where, numbers, flow.dtype, name="direction").astype(np.float64)


def enlarged(flow: Flow, factor: int, *, device: str = "cpu", threads: int = 0) -> Flow:
    """A model of the same parameters for larger images, as Real NVP's larger samples are made.

    Parameters
    ----------
    flow : Flow
        A Glow or RealNVP.
    factor : int
        How many times as high and wide.
    device, threads
        As in `Glow`.

    Returns
    -------
    Flow
        An independent model.

    Raises
    ------
    ConfigError
        The model is not convolutional: NICE, or for tables.
    """
    check_flow("enlarged", flow)
    factor = checks.whole("enlarged", "factor", factor, low=1)
    if not flow.is_image or flow.config["model"] == "NICE":
        raise wrong(ConfigError, "enlarged", "flow", "expected a convolutional model of images (Glow, RealNVP), "
                                                     f"got {flow.config['model']} {flow.shape}")
    h, w, c = flow.shape
    large = build({**flow.config, "shape": [factor * h, factor * w, c]}, device, threads)
    theirs = flow.named_parameters()
    for name, value in large.named_parameters().items():
        value[...] = theirs[name]
    return large


def _encode(flow: Flow, x: Any, label: Any, context: Any) -> np.ndarray:
    taken = as_floats(flow, x)  # which says what is no flow
    return np.asarray(flow.encode(taken, label=label, context=context))


def _decode(flow: Flow, z: np.ndarray, label: Any, context: Any) -> np.ndarray:
    """Decodes latents (N, S, D), with one label or context for all or one for each of N."""
    if label is not None and np.ndim(label) == 1:
        label = np.repeat(np.asarray(label), z.shape[1])
    if context is not None and np.ndim(context) == 2:
        context = np.repeat(np.asarray(context), z.shape[1], axis=0)
    x: np.ndarray = flow.decode(z.reshape(math.prod(z.shape[:2]), flow.dims), label=label, context=context)
    return x.reshape(*z.shape[:2], *flow.shape)
