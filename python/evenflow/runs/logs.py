"""What a training writes into its run's folder while it goes on: lines of the log, and pictures."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from evenflow import plot
from evenflow._border import checks
from evenflow._border.files import replacing, writing
from evenflow.data import check
from evenflow.data.dataset import said
from evenflow.data.table import Columns
from evenflow.density import bounds_of, column_names
from evenflow.errors import MissingExtra, NumericError, ShapeError
from evenflow.runs.export import write_samples
from evenflow.training.loop import Trainer

DRAWN, PAIRED, PICTURED = 10_000, 2000, 10
"""Samples of a table that are compared with the data; rows and columns in their picture."""


@dataclass(frozen=True)
class Outputs:
    """What a run writes, and how often."""

    temperature: float = said(1.0, "images: of the samples in pictures")
    sample_every: int | None = said(None, "pictures of samples every N epochs (at the end)")
    log_every: int = said(100, "a line in the log every N steps; 0: for epochs only")

    def __post_init__(self) -> None:
        checks.number("train", "temperature", self.temperature, 0.0)
        checks.whole("train", "log_every", self.log_every, low=0)
        if self.sample_every is not None:
            checks.whole("train", "sample_every", self.sample_every, low=1)


class Recorder:
    """The callback of a training that has a folder, `evenflow.runs.Run`."""

    def __init__(self, run: Any, outputs: Outputs, trainer: Trainer, columns: Columns):
        self.run, self.outputs, self.trainer, self.columns = run, outputs, trainer, columns
        self.notes: list[str] = []
        """Why a picture is missing, once each."""
        self.marginals: dict[str, tuple[float, float]] = {}
        """Of a table's columns, what `check.compare` finds of the samples that were drawn last."""

    def __call__(self, record: dict[str, Any]) -> None:
        epoch, often = record["event"] == "epoch", self.outputs.log_every
        if epoch or "skipped" in record or (often and record["step"] % often == 0):
            self.run.append(record)
        if epoch and self.outputs.sample_every and record["epoch"] % self.outputs.sample_every == 0:
            self.draw(os.path.join(self.run.sample_folder, f"epoch_{record['epoch']:05d}.png"))

    def draw(self, samples: str) -> list[str]:
        """Draws samples and the learning curve, from the values that the flow holds, and returns the names of those
        there are. A picture that can't be drawn is noted, and ends no training.
        """
        drawn = []
        of_samples = self._samples if self.trainer.flow.is_image else self._rows
        for what, path, draw in (("samples", samples, of_samples), ("curve", self.run.curve, self._curve)):
            try:
                if what == "samples" or self.trainer.history:
                    draw(path)
                    drawn.append(path)
            except (MissingExtra, NumericError, ShapeError) as error:
                note = f"{what}.png was not drawn: {error}"
                self.notes += [] if note in self.notes else [note]
        return drawn

    def _samples(self, path: str) -> None:
        flow, data = self.trainer.flow, self.trainer.valid or self.trainer.data
        plot.writer(flow.shape[-1])
        with writing("train", folder := os.path.dirname(path)):
            os.makedirs(folder, exist_ok=True)
        # The same latents every time, so that pictures of different epochs can be compared; a line for each of ten
        # contexts that the data have.
        contexts = np.resize(data.context, (10, flow.context)) if flow.context else None
        write_samples(flow, 100 if contexts is None else 10, path, self.outputs.temperature, seed=0, context=contexts)

    def _rows(self, path: str) -> None:
        """Samples of a table beside rows that it was trained on, of the columns that differ most."""
        flow, data, rng = self.trainer.flow, self.trainer.data, np.random.default_rng(0)
        n = max(1, min(DRAWN, check.MOST_VALUES // flow.dims))
        p = None if data.weight is None else data.weight / data.weight.sum()
        rows = data[np.sort(rng.choice(len(data), min(len(data), check.MOST_ROWS), replace=p is not None, p=p))]
        names = column_names(flow).get("x") or [str(j) for j in range(flow.dims)]
        given = rows[rng.integers(len(rows), size=n)].conditions
        x, drawn = (self.columns.rounded(x, names, bounds_of(flow)) for x in (
            np.asarray(rows.x, flow.dtype), flow.sample(n, seed=0, **given)))
        self.marginals = dict(zip(names, check.compare(x, drawn)))
        most = np.sort(np.argsort([-distance for _, distance in self.marginals.values()])[:PICTURED])
        with replacing("train", path) as temporary:
            plot.corner(rng.permutation(x)[:PAIRED, most], rng.permutation(drawn)[:PAIRED, most],
                        [names[j] for j in most], temporary)

    def _curve(self, path: str) -> None:
        with replacing("train", path) as temporary:
            plot.learning_curve(self.trainer.history, temporary)
