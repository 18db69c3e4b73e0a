"""Pictures: sample grids (Pillow), learning curves and marginals (matplotlib)."""

from __future__ import annotations

import functools
import io
import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from evenflow._border import arrays, checks
from evenflow._border.extras import need
from evenflow.density import Density, check, check_flow, floats
from evenflow.errors import ConfigError, IoError, ShapeError, wrong

if TYPE_CHECKING:
    from evenflow.calibrate import Calibration

NAMED = 10
"""Most lines that a legend names."""


def grid(images: Any, columns: int | None = None, scale: int | None = None) -> np.ndarray:
    """Puts images side by side, a black pixel apart.

    Parameters
    ----------
    images : array_like of uint8, (N, H, W, C)
        The images.
    columns : int, optional
        Images in a row. None: as many as rows or more, with the fewest holes.
    scale : int, optional
        Enlargement. None: the largest for which the picture has up to 1,000 pixels a side.

    Returns
    -------
    ndarray of uint8, (h, w, C)
        The picture.

    See Also
    --------
    save_grid : Writes it to a file.

    Examples
    --------
    >>> ef.plot.grid(ef.data.load("digits").test[:6], columns=3, scale=1).shape
    (17, 26, 1)
    """
    where, images = "grid", arrays.as_array("grid", images, "images")
    if images.dtype != np.uint8:
        raise wrong(TypeError, where, "images", f"expected uint8 images, got dtype {images.dtype}")
    if images.ndim != 4 or 0 in images.shape:
        raise wrong(ShapeError, where, "images", f"expected (N, H, W, C), got {images.shape}")
    n, h, w, c = images.shape
    if columns is None:
        side = math.ceil(math.sqrt(n))
        columns = min(range(side, 2 * side), key=lambda number: -n % number)
    columns = min(n, checks.whole(where, "columns", columns, low=1))
    canvas = np.zeros((-(-n // columns) * (h + 1), columns * (w + 1), c), np.uint8)
    scale = max(1, 1000 // max(canvas.shape)) if scale is None else checks.whole(where, "scale", scale, low=1)
    for i, image in enumerate(images):
        y, x = i // columns * (h + 1), i % columns * (w + 1)
        canvas[y:y + h, x:x + w] = image
    return canvas[:-1, :-1].repeat(scale, 0).repeat(scale, 1)


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

    See Also
    --------
    evenflow.Flow.to_uint8 : Samples as pixels.

    Examples
    --------
    >>> ef.plot.save_grid(ef.data.load("digits").test[:16], "digits.png")
    """
    canvas = grid(images, columns, scale)
    Image = writer(canvas.shape[2])
    _write("save_grid", Image.fromarray(canvas[:, :, 0] if canvas.shape[2] == 1 else canvas).save, path)


def learning_curve(history: Any, path: str | os.PathLike[str] | None = None) -> Any:
    """Training and validation loss by step, by matplotlib; `history.plot()` is the short way to it.

    Parameters
    ----------
    history : History
        Of `Flow.fit`, or a list of its records, as a run's log has them; at least one.
    path : path, optional
        A picture to write, too.

    Returns
    -------
    matplotlib.figure.Figure
        A notebook shows it.

    Raises
    ------
    ConfigError, IoError, MissingExtra
        There is no record, the file can't be written, or matplotlib is missing.
    """
    where = "learning_curve"
    history = [record for record in history if isinstance(record, dict) and "step" in record
               and record.get("event", "epoch") == "epoch"] if isinstance(history, list) else []  # a log has others
    if not history:
        raise wrong(ConfigError, where, "history", "expected the history of Flow.fit, with at least one epoch")
    bits = any("bits_per_dim" in record for record in history)
    key, unit = ("bits_per_dim", "bits a dimension") if bits else ("loss", "nats a row")
    figure, axes = _axes(where, xlabel="step", ylabel=f"loss, {unit}")
    for name, label in ((key, "training"), (f"valid_{key}", "validation")):
        points = [(r["step"], r[name]) for r in history if r.get(name) is not None]
        if points:
            axes.plot(*zip(*points), label=label, marker="." if len(points) < 30 else None)
    if axes.lines:  # a legend of nothing is a warning; of no epoch a loss is known if all its steps failed
        axes.legend()
    _write(where, figure.savefig, path)
    return figure


def spectrum(sigma: Any, path: str | os.PathLike[str] | None = None) -> Any:
    """Sorted scales (D,) of `NICE.spectrum` as bars, logarithmic: the figure, written to a path if there is one.

    How fast they fall shows how many dimensions the data really have.
    """
    sigma = arrays.as_numbers("spectrum", "sigma", sigma)
    if sigma.ndim != 1 or not (sigma > 0).all():  # zero has no place on a logarithmic axis
        raise wrong(ShapeError, "spectrum", "sigma", f"expected sigma as (D,) > 0, got {sigma.shape}")
    figure, axes = _axes("spectrum", xlabel="latent dimension, sorted", ylabel="sigma = exp(-s)", yscale="log")
    axes.bar(np.arange(len(sigma)), sigma, width=1.0)
    _write("spectrum", figure.savefig, path)
    return figure


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

    See Also
    --------
    evenflow.Flow.sample : Samples alone.

    Examples
    --------
    >>> x, _ = ef.data.two_moons(1000, seed=0)
    >>> flow = ef.CouplingFlow(2)
    >>> history = flow.fit(x, epochs=2, verbose=False)
    >>> figure = ef.plot.marginals(flow, x, "marginals.png")
    """
    where = "marginals"
    if check_flow(where, flow).is_image:
        raise wrong(ConfigError, where, "flow", "expected a flow of a table, got one of images")
    n, seed = checks.whole(where, "n", n, low=1), checks.whole(where, "seed", seed, low=0)
    batch = check(flow, where, data, label, context, least=1)
    batch.x = floats(flow, where, batch.x)
    batch = batch[np.sort(np.random.default_rng(seed).permutation(len(batch))[:n])]
    return corner(batch.x, flow.sample(len(batch), seed=seed, **batch.conditions),
                  flow.columns or [f"x{i}" for i in range(flow.dims)], path)


def calibration(found: Calibration, path: str | os.PathLike[str] | None = None) -> Any:
    """The figure of `Calibration.plot`: distances from uniform by column, and shares of the rows within regions."""
    figure = _figure("calibration", 8, 4)
    level = np.linspace(0, 1, 201)
    left, right = figure.subplots(1, 2)
    for name, ranks in zip(found.columns, found.ranks.T):
        share = np.searchsorted(np.sort(ranks), level * (found.draws + 1)) / len(ranks)
        left.plot(level, share - level, label=name)
    for name, values in (("smallest", found.coverage), ("about points", found.tarp)):
        right.plot(level, np.searchsorted(np.sort(values), level, side="right") / len(values), label=name)
    for axes, middle in ((left, 0 * level), (right, level)):
        axes.fill_between(level, middle - found.band, middle + found.band, color="0.9")
        axes.plot(level, middle, color="0.5", linewidth=0.8)
    left.set(xlabel="rank of the row / draws", ylabel="cumulative share of rows, less uniform")
    right.set(xlabel="probability of the region", ylabel="share of rows in it", xlim=(0, 1), ylim=(0, 1))
    right.legend()
    if len(found.columns) <= NAMED:
        left.legend()
    _write("calibration", figure.savefig, path)
    return figure


def corner(x: np.ndarray, drawn: np.ndarray, names: Any, path: str | os.PathLike[str] | None = None) -> Any:
    """The figure of `marginals`, of rows and samples (N, D)."""
    where, d, sets = "marginals", len(names), (("data", x), ("samples", drawn))
    figure = _figure(where, 2 * d + 1, 2 * d + 1)
    for row, column in zip(*np.tril_indices(d)):
        axes = figure.add_subplot(d, d, row * d + column + 1)
        ends = np.quantile(sets[0][1][:, [column, row]], [0.001, 0.999], axis=0)
        for name, x in sets:
            if row == column:
                axes.hist(x[:, row], 40, range=tuple(ends[:, 0]), histtype="step", density=True, label=name)
            else:
                axes.plot(x[:, column], x[:, row], ".", markersize=1, alpha=0.5)
                axes.set(xlim=ends[:, 0], ylim=ends[:, 1])
        axes.set(xlabel=names[column] if row == d - 1 else "", ylabel=names[row] if column == 0 < row else "")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="upper right")
    _write(where, figure.savefig, path)
    return figure


def _axes(where: str, **labels: str) -> tuple[Any, Any]:
    figure = _figure(where, 6, 4)
    return figure, figure.add_subplot(**labels)


def _figure(where: str, width: float, height: float) -> Any:
    """An empty figure, which a notebook shows even where matplotlib's own integration is not loaded."""
    figure = need(where, "matplotlib.figure", "matplotlib", "cli").Figure((width, height), layout="constrained")
    figure._repr_png_ = functools.partial(_png, figure)
    return figure


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _write(where: str, save: Callable[[str], Any], path: Any) -> None:
    """Saves a picture, if there is a path. IoError."""
    if path is None:
        return
    path = checks.file_name(where, path)
    try:
        save(path)
    except (OSError, ValueError) as error:
        raise wrong(IoError, where, "path", f"expected to write {path}, got: {error}") from error
