"""What a training writes into its run's folder while it goes on: lines of the log, and pictures."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from evenflow import plot
from evenflow._border import checks
from evenflow.errors import MissingExtra, NumericError, ShapeError
from evenflow.runs.export import write_samples
from evenflow._border.files import replacing, writing
from evenflow.training.loop import Trainer


@dataclass(frozen=True)
class Outputs:
    """What a run writes, and how often."""

    temperature: float = 1.0
    """Of the samples."""
    sample_every: int | None = None
    """Epochs between two pictures of samples and of the learning curve; None: at the end only."""
    log_every: int = 100
    """Steps between two lines of the log that tell of one step; 0: none."""
    save_every: float = 60.0
    """Seconds between two checkpoints; 0: one after every step."""

    def __post_init__(self) -> None:
        checks.number("train", "temperature", self.temperature, 0.0)
        checks.number("train", "save_every", self.save_every, 0.0)
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
        name = os.path.basename(path) if path == self.run.curve else "samples.png"
        try:
            return path if draw(path) else None
        except MissingExtra:
            package = "matplotlib" if path == self.run.curve else "Pillow"
            note = f'{name} was not drawn: {package} is not installed (pip install "evenflow[cli]")'
        except ShapeError:
            note = f"{name} was not drawn: a picture has 1 to 4 channels, and these images have {self._channels}"
        except NumericError:
            note = (f"{name} was not drawn: samples at temperature {self.outputs.temperature:g} are not finite; "
                    "try a lower --temperature")
        if note not in self.notes:
            self.notes.append(note)
        return None

    @property
    def _channels(self) -> int:
        return self.trainer.flow.shape[-1]

    def _samples(self, path: str) -> bool:
        if not self.trainer.flow.is_image:
            return False
        plot.writer(self._channels)
        folder = os.path.dirname(path)
        with writing("train", folder):
            os.makedirs(folder, exist_ok=True)
        # The same latents every time, so that pictures of different epochs can be compared; a line a context.
        contexts = self._contexts()
        write_samples(self.trainer.flow, 100 if contexts is None else 10, path, self.outputs.temperature, seed=0,
                      context=contexts)
        return True

    def _contexts(self) -> np.ndarray | None:
        """Ten that the data have, of a model that is given one."""
        trainer = self.trainer
        if not trainer.flow.context:
            return None
        found = trainer.data if trainer.valid is None else trainer.valid
        return np.resize(found.context, (10, trainer.flow.context))

    def _curve(self, path: str) -> bool:
        if not self.trainer.history:
            return False
        with replacing("train", path) as temporary:
            plot.learning_curve(self.trainer.history, temporary)
        return True
