"""What a training writes into its run's folder while it goes on: lines of the log, and pictures."""

from __future__ import annotations

import os
from collections.abc import Callable
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
    sample_every: int | None = said(None, "pictures of samples and learning curve every N epochs, not at the end only")
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
            self._picture(self._samples, os.path.join(self.run.sample_folder, f"epoch_{record['epoch']:05d}.png"))
            self._picture(self._curve, self.run.curve)

    def finish(self) -> list[str]:
        """Draws the last pictures, from the values that the flow holds, and returns the names of those there are."""
        drawn = [self._picture(self._samples, self.run.samples), self._picture(self._curve, self.run.curve)]
        return [path for path in drawn if path is not None]

    def _picture(self, draw: Callable[[str], bool], path: str) -> str | None:
        """A picture that can't be drawn is noted, and ends no training."""
        curve, shape = path == self.run.curve, self.trainer.flow.shape
        try:
            return path if draw(path) else None
        except MissingExtra:
            why = f'{"matplotlib" if curve else "Pillow"} is not installed (pip install "evenflow[cli]")'
        except ShapeError:
            why = f"a picture has 1 to 4 channels, and these images have {shape[-1]}"
        except NumericError:
            why = (f"samples at temperature {self.outputs.temperature:g} are not finite; try a lower --temperature, a "
                   "smaller model or coupling=\"additive\"")
        note = f"{'curve.png' if curve else 'samples.png'} was not drawn: {why}"
        self.notes += [] if note in self.notes else [note]
        return None

    def _samples(self, path: str) -> bool:
        flow = self.trainer.flow
        if not flow.is_image:
            return False
        plot.writer(flow.shape[-1])
        with writing("train", folder := os.path.dirname(path)):
            os.makedirs(folder, exist_ok=True)
        # The same latents every time, so that pictures of different epochs can be compared; a line for each of ten
        # contexts that the data have.
        data = self.trainer.data if self.trainer.valid is None else self.trainer.valid
        contexts = np.resize(data.context, (10, flow.context)) if flow.context else None
        write_samples(flow, 100 if contexts is None else 10, path, self.outputs.temperature, seed=0, context=contexts)
        return True

    def _curve(self, path: str) -> bool:
        if not self.trainer.history:
            return False
        with replacing("train", path) as temporary:
            plot.learning_curve(self.trainer.history, temporary)
        return True
