"""What a training writes into its run's folder while it goes on: lines of the log, and pictures."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from evenflow import plot
from evenflow._border import checks
from evenflow._border.files import replacing, writing
from evenflow.data.dataset import said
from evenflow.errors import MissingExtra, NumericError, ShapeError
from evenflow.runs.export import write_samples
from evenflow.training.loop import Trainer


@dataclass(frozen=True)
class Outputs:
    """What a run writes, and how often."""

    temperature: float = said(1.0, "of the samples in pictures")
    sample_every: int | None = said(None, "pictures of samples every N epochs (at the end)")
    log_every: int = said(100, "a line in the log every N steps; 0: for epochs only")

    def __post_init__(self) -> None:
        checks.number("train", "temperature", self.temperature, 0.0)
        checks.whole("train", "log_every", self.log_every, low=0)
        if self.sample_every is not None:
            checks.whole("train", "sample_every", self.sample_every, low=1)


class Recorder:
    """The callback of a training that has a folder, `evenflow.runs.Run`."""

    def __init__(self, run: Any, outputs: Outputs, trainer: Trainer):
        self.run, self.outputs, self.trainer = run, outputs, trainer
        self.notes: list[str] = []
        """Why a picture is missing, once each."""

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
        for what, path, draw, wanted in (("samples", samples, self._samples, self.trainer.flow.is_image),
                                         ("curve", self.run.curve, self._curve, bool(self.trainer.history))):
            try:
                if wanted:
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

    def _curve(self, path: str) -> None:
        with replacing("train", path) as temporary:
            plot.learning_curve(self.trainer.history, temporary)
