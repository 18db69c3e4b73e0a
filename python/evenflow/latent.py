"""Work in latent space: reconstruction from some levels, interpolation, editing along attribute vectors.

Images in may be uint8, taken in the middle of their levels, or floats; images out are floats in level units
(see `Flow.to_uint8`). Class-conditional models take the labels (N,) of the data, models with a context its rows (N, C),
and use them both ways.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from evenflow._border import arrays, checks
from evenflow.density import blocks, check, check_flow, floats
from evenflow.errors import ConfigError, NumericError, ShapeError
from evenflow.flow import Flow
from evenflow.models import build

MOST_STEPS = 1 << 20
"""Of a line: far more than can be looked at, few enough that sizes of arrays don't overflow."""


def as_floats(flow: Flow, x: Any, first: int = 0) -> np.ndarray:
    """Data in the model's dtype and units, uint8 images in the middle of their levels. first: x's first row in errors.

    Models are trained on data with noise, for which whole levels are an unlikely corner.
    """
    x = check(check_flow("data", flow), "data", x, only=True).x
    first = checks.whole("data", "first", first, low=0, high=checks.LARGEST - len(x))
    values: np.ndarray = floats(flow, "data", x, first=first)
    return values + flow.dtype.type(0.5) if x.dtype == np.uint8 else values


def reconstruct(flow: Flow, x: Any, *, label: Any = None, context: Any = None, seed: int = 0, keep: int | None = None,
                rest: str = "zero") -> np.ndarray:
    """Encodes and decodes, keeping only the coarsest levels of the latent (Dinh et al. 2016, appendix D).

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
    """
    check_flow("reconstruct", flow)
    checks.choice("reconstruct", "rest", rest, ("zero", "redraw"))
    seed = checks.whole("reconstruct", "seed", seed, low=0)
    z = flow.encode(as_floats(flow, x), label=label, context=context)
    levels = flow.split_latent(z)
    keep = len(levels) if keep is None else checks.whole("reconstruct", "keep", keep, low=1)
    if keep > len(levels):
        raise ConfigError(f"[reconstruct] expected keep in 1 ... {len(levels)}, got {keep}")
    if rest == "redraw" and keep < len(levels):
        drawn = flow.sample(len(z), seed=seed, label=label, context=context)
        fresh = flow.split_latent(flow.encode(drawn, label=label, context=context))
    else:
        fresh = [np.zeros_like(level) for level in levels]
    finer = len(levels) - keep
    decoded: np.ndarray = flow.decode(flow.join_latent([*fresh[:finer], *levels[finer:]]), label=label, context=context)
    return decoded


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
    """
    check_flow("interpolate", flow)
    steps = checks.whole("interpolate", "steps", steps, low=2, high=MOST_STEPS)
    za, zb = (flow.encode(as_floats(flow, x), label=label, context=context) for x in (a, b))
    if len(za) != len(zb):
        raise ShapeError(f"[interpolate] expected as many ends as starts, got {len(zb)} and {len(za)}")
    with arrays.memory_for("interpolate", f"{len(za)} lines of {steps} samples"):
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
    check_flow("manifold", flow)
    steps = checks.whole("manifold", "steps", steps, low=2, high=MOST_STEPS)
    label = None if label is None else checks.whole("manifold", "label", label, low=0)
    z = flow.encode(as_floats(flow, x), label=label, context=context)
    if len(z) != 4:
        raise ShapeError(f"[manifold] expected four samples, got {len(z)}")
    angle = 2 * np.pi * np.arange(steps) / steps
    circle = np.stack([np.cos(angle), np.sin(angle)])
    with arrays.memory_for("manifold", f"{steps} x {steps} samples"):
        weights = np.einsum("ap,bq->pqab", circle, circle).reshape(steps, steps, 4)
        return _decode(flow, (weights @ z).astype(flow.dtype), label, context)


def attribute(flow: Flow, x: Any, positive: Any, negative: Any = None, *, label: Any = None,
              context: Any = None) -> np.ndarray:
    """Direction of an attribute in latent space (Kingma, Dhariwal 2018, section 5.3).

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
    """
    data = check(check_flow("attribute", flow), "attribute", x, label, context)
    groups = [_marks("positive", positive, len(data))]
    groups.append(~groups[0] if negative is None else _marks("negative", negative, len(data)))
    if not all(group.any() for group in groups):
        raise ConfigError("[attribute] expected samples with and without the attribute, "
                          f"got {groups[0].sum()} and {groups[1].sum()} out of {len(data)}")
    sums = np.zeros((2, flow.dims))
    for rows in blocks(flow, len(data)):
        part = data[rows]
        z = flow.encode(as_floats(flow, part.x, rows.start), **part.conditions)
        sums += [z[group[rows]].sum(axis=0, dtype=np.float64) for group in groups]
    direction: np.ndarray = sums[0] / groups[0].sum() - sums[1] / groups[1].sum()
    return direction


def _marks(name: str, marks: Any, n: int) -> np.ndarray:
    group: np.ndarray = arrays.as_array("attribute", marks)
    if group.dtype != bool or group.shape != (n,):
        raise ShapeError(f"[attribute] expected {name} as bool ({n},), got {group.dtype} {group.shape}")
    return group


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
    """
    direction = _direction("edit", flow, direction)
    strengths = arrays.as_numbers("edit", "strengths", strengths)
    if strengths.ndim != 1 or len(strengths) == 0:
        raise ShapeError(f"[edit] expected strengths as (S,), got {strengths.shape}")
    strengths = arrays.to_floats("edit", strengths, flow.dtype)
    z, step = flow.encode(as_floats(flow, x), label=label, context=context), direction.astype(flow.dtype)
    columns = []
    for strength in strengths:
        try:
            columns.append(flow.decode(z + strength * step, label=label, context=context))
        except NumericError as error:
            raise NumericError("[edit] expected strengths that lead to latents with finite data, "
                               f"got {strength:g}: {error}") from error
    return np.stack(columns, axis=1)


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
    ConfigError, NumericError
        The direction is zero, or so short that a share overflows.
    """
    direction = _direction("project", flow, direction)
    scale = float(np.abs(direction).max())
    if scale == 0:
        raise ConfigError("[project] expected a direction other than zero, got zeros")
    unit = direction / scale  # whose square neither overflows nor vanishes
    data = check(flow, "project", x, label, context)
    parts = [flow.encode(as_floats(flow, part.x, rows.start), **part.conditions) @ unit
             for rows in blocks(flow, len(data)) for part in [data[rows]]]
    with np.errstate(over="ignore"):
        shares: np.ndarray = np.concatenate([np.empty(0), *parts]) / (unit @ unit) / scale
    if not np.isfinite(shares).all():
        raise NumericError("[project] expected a direction long enough for finite shares, got one whose largest value "
                           f"is {scale:.3g}")
    return shares


def _direction(where: str, flow: Flow, direction: Any) -> np.ndarray:
    numbers = arrays.as_numbers(where, "direction", direction)
    if numbers.shape != (check_flow(where, flow).dims,):
        raise ShapeError(f"[{where}] expected direction as ({flow.dims},), got {numbers.shape}")
    return arrays.to_floats(where, numbers, flow.dtype).astype(np.float64)


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
        raise ConfigError("[enlarged] expected a convolutional model of images (Glow, RealNVP), "
                          f"got {flow.config['model']} {flow.shape}")
    h, w, c = flow.shape
    large = build({**flow.config, "shape": [factor * h, factor * w, c]}, device, threads)
    theirs = flow.named_parameters()
    for name, value in large.named_parameters().items():
        value[...] = theirs[name]
    return large


def _decode(flow: Flow, z: np.ndarray, label: Any, context: Any) -> np.ndarray:
    """Decodes latents (N, S, D), with one label or context for all or one for each of N."""
    if label is not None and np.ndim(label) == 1:
        label = np.repeat(np.asarray(label), z.shape[1])
    if context is not None and np.ndim(context) == 2:
        context = np.repeat(np.asarray(context), z.shape[1], axis=0)
    x: np.ndarray = flow.decode(z.reshape(math.prod(z.shape[:2]), flow.dims), label=label, context=context)
    return x.reshape(*z.shape[:2], *flow.shape)
