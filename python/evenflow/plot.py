"""Pictures: sample grids (Pillow), learning curves and marginals (matplotlib)."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from evenflow._border import arrays, checks
from evenflow._border.extras import need
from evenflow.density import Density, check, check_flow
from evenflow.errors import ConfigError, IoError, ShapeError, wrong


def grid(images: Any, columns: int | None = None, scale: int | None = None, gap: int = 1) -> np.ndarray:
    """Puts images side by side.

    Parameters
    ----------
    images : array_like of uint8, (N, H, W, C)
        The images.
    columns : int, optional
        Images in a row. None: about as many as rows.
    scale : int, optional
        Enlargement. None: small images become about 32 pixels high.
    gap : int
        Black pixels between two images.

    Returns
    -------
    ndarray of uint8, (h, w, C)
        The picture.
    """
    images = arrays.as_array("grid", images)
    if images.dtype != np.uint8:
        raise TypeError(f"[grid] expected uint8 images, got dtype {images.dtype}")
    if images.ndim != 4 or 0 in images.shape:
        raise ShapeError(f"[grid] expected (N, H, W, C), got {images.shape}")
    n, h, w, c = images.shape
    if columns is None:  # without holes, if that is not far from a square
        side = math.ceil(math.sqrt(n))
        columns = next((c for c in range(side, 2 * side) if n % c == 0), side)
    else:
        columns = checks.whole("grid", "columns", columns, low=1)
    columns = min(n, columns)
    scale = max(1, 32 // max(h, w)) if scale is None else checks.whole("grid", "scale", scale, low=1)
    gap = checks.whole("grid", "gap", gap, low=0)
    rows = -(-n // columns)
    canvas = np.zeros((rows * (h + gap) - gap, columns * (w + gap) - gap, c), np.uint8)
    for i, image in enumerate(images):
        y, x = i // columns * (h + gap), i % columns * (w + gap)
        canvas[y:y + h, x:x + w] = image
    return canvas.repeat(scale, 0).repeat(scale, 1)


def writer(channels: int) -> Any:
    """Pillow's module, to ask for before work that ends in a picture. ShapeError for channels of which none is written;
    MissingExtra without it.
    """
    if not 1 <= channels <= 4:
        raise ShapeError("[save_grid] expected 1 to 4 channels for a picture (grey or RGB, with alpha or without), got "
                         f"{channels}; an array (.npy) takes any number")
    return need("save_grid", "PIL.Image", "Pillow", "cli")


def save_grid(images: Any, path: str | os.PathLike[str], columns: int | None = None,
              scale: int | None = None) -> None:
    """Writes a grid of images as a picture file, by Pillow.

    Parameters
    ----------
    images, columns, scale
        As in `grid`, with 1 to 4 channels: the last of two or four is alpha.
    path : path
        The file; its ending says the format.

    Raises
    ------
    IoError, MissingExtra
        The file can't be written, or Pillow is missing.
    """
    path, canvas = checks.file_name("save_grid", path), grid(images, columns, scale)
    Image = writer(canvas.shape[2])
    try:
        Image.fromarray(canvas[:, :, 0] if canvas.shape[2] == 1 else canvas).save(path)
    except (OSError, ValueError) as error:
        raise IoError(f"[save_grid] expected to write {path}, got: {error}") from error


def learning_curve(history: Any, path: str | os.PathLike[str] | None = None) -> Any:
    """Training and validation loss by epoch: the figure, written to a path if there is one.

    history: of `Flow.fit`, at least one epoch; a list of records or another iterable, or a data frame of pandas.
    IoError; TypeError; ConfigError for an empty history, or another one; MissingExtra without matplotlib.
    """
    path = None if path is None else checks.file_name("learning_curve", path)
    if hasattr(history, "to_dict") and hasattr(history, "iloc"):
        # What an epoch does not have, its row has as NaN.
        history = [{name: value for name, value in row.items() if value == value}
                   for row in history.to_dict("records")]
    try:
        history = list(history)  # which is gone through more than once
    except TypeError:
        raise TypeError("[learning_curve] expected the history of Flow.fit, "
                        f"got {type(history).__name__}") from None
    if not history:
        raise ConfigError("[learning_curve] expected at least one epoch, got none")
    for record in history:
        if not isinstance(record, dict) or "step" not in record:
            raise ConfigError(f"[learning_curve] expected records of Flow.fit, with their step, got {record!r}")
    Figure = need("learning_curve", "matplotlib.figure", "matplotlib", "cli").Figure
    bits = any("bits_per_dim" in record for record in history)
    key, unit = ("bits_per_dim", "bits/dim") if bits else ("loss", "nats")
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel=unit)
    for name, label in ((key, "training"), (f"valid_{key}", "validation")):
        points = [(r["step"], r[name]) for r in history if r.get(name) is not None]
        if points:
            axes.plot(*zip(*points), label=label, marker="." if len(points) < 30 else None)
    if axes.lines:  # a legend of nothing is a warning; of no epoch a loss is known if all its steps failed
        axes.legend()
    if path is not None:
        _save("learning_curve", figure, path)
    return figure


def spectrum(sigma: Any, path: str | os.PathLike[str]) -> None:
    """Sorted scales (D,) of `NICE.spectrum` as bars, logarithmic.

    TypeError, ShapeError for other arrays, NumericError, ConfigError for values that are no scales; IoError;
    MissingExtra without matplotlib.
    """
    path = checks.file_name("spectrum", path)
    sigma = arrays.as_numbers("spectrum", "sigma", sigma)
    if sigma.ndim != 1 or len(sigma) == 0:
        raise ShapeError(f"[spectrum] expected sigma as (D,), got {sigma.shape}")
    sigma = arrays.to_floats("spectrum", sigma, np.dtype(np.float64))
    if (sigma <= 0).any():  # zero has no place on a logarithmic axis
        raise ConfigError(f"[spectrum] expected sigma > 0, got {sigma.min():g}")
    Figure = need("spectrum", "matplotlib.figure", "matplotlib", "cli").Figure
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="latent dimension, sorted", ylabel="sigma = exp(-s)", yscale="log")
    axes.bar(np.arange(len(sigma)), sigma, width=1.0)
    _save("spectrum", figure, path)


def marginals(flow: Density, data: ArrayLike, path: str | os.PathLike[str] | None = None, *,
              label: ArrayLike | None = None, context: ArrayLike | None = None, n: int = 2000, seed: int = 0) -> Any:
    """Data and samples of a table's flow, column by column and in pairs, by matplotlib.

    Parameters
    ----------
    flow : Flow
        Of a table.
    data : array_like, (N, D)
        Rows to compare with, in any number.
    path : path, optional
        A picture to write, too.
    label, context
        Of the data's rows, for a flow that is conditioned on them: samples are drawn for the same.
    n : int
        Most rows that are shown.
    seed : int
        For the choice of rows and the samples.

    Returns
    -------
    matplotlib.figure.Figure
        Histograms on the diagonal, below it pairs of columns; a notebook shows it.

    Raises
    ------
    ConfigError, ShapeError, TypeError
        The flow is of images, or an argument does not fit it.
    MissingExtra
        matplotlib is not installed.
    """
    where = "marginals"
    if check_flow(where, flow).is_image:
        raise wrong(ConfigError, where, "flow", "expected a flow of a table, got one of images")
    Figure = need(where, "matplotlib.figure", "matplotlib", "cli").Figure
    n, seed = checks.whole(where, "n", n, low=1), checks.whole(where, "seed", seed, low=0)
    batch = check(flow, where, data, label, context, least=1)
    batch = batch[np.sort(np.random.default_rng(seed).permutation(len(batch))[:n])]
    sets = (("data", np.asarray(batch.x)), ("samples", flow.sample(len(batch), seed=seed, **batch.conditions)))
    d, names = flow.dims, flow.columns or [f"x{i}" for i in range(flow.dims)]
    figure = Figure(figsize=(2 * d + 1, 2 * d + 1), layout="constrained")
    for row, column in zip(*np.tril_indices(d)):
        axes = figure.add_subplot(d, d, row * d + column + 1)
        ends = np.quantile(sets[0][1][:, [column, row]], [0.001, 0.999], axis=0)
        for name, x in sets:
            if row == column:
                bins: Any = np.linspace(ends[0, 0], ends[1, 0], 41) if ends[0, 0] < ends[1, 0] else 41
                axes.hist(x[:, row], bins, histtype="step", density=True, label=name)
            else:
                axes.plot(x[:, column], x[:, row], ".", markersize=1, alpha=0.5)
                axes.set(xlim=ends[:, 0] if ends[0, 0] < ends[1, 0] else None,
                         ylim=ends[:, 1] if ends[0, 1] < ends[1, 1] else None)
        axes.set(xlabel=names[column] if row == d - 1 else "", ylabel=names[row] if column == 0 < row else "")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="upper right")
    if path is not None:
        _save(where, figure, checks.file_name(where, path))
    return figure


def _save(where: str, figure: Any, path: str) -> None:
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise IoError(f"[{where}] expected to write {path}, got: {error}") from error
