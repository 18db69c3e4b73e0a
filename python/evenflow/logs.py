"""What a training writes while it runs: lines of its log, tables, TensorBoard's events, pictures."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from evenflow import arrays, plot
from evenflow.errors import MissingExtra, NumericError, ShapeError
from evenflow.export import write_samples
from evenflow.extras import need
from evenflow.files import replacing, writing
from evenflow.train import SAVE_SECONDS, Trainer

COLUMNS = ("epoch", "step", "seconds", "lr", "loss", "valid_loss", "bits_per_dim", "valid_bits_per_dim",
           "skipped")
"""Of history.csv; a column that a training has no numbers for stays empty."""


@dataclass(frozen=True)
class Outputs:
    """What a run writes, and how often."""

    temperature: float = 1.0
    """Of the samples."""
    sample_every: int | None = None
    """Epochs between two pictures of samples and of the learning curve; None: at the end only."""
    log_every: int = 100
    """Steps between two lines of the log that tell of one step; 0: none."""
    save_every: float = SAVE_SECONDS
    """Seconds between two checkpoints; 0: one after every step."""
    csv: bool = False
    tensorboard: bool = False

    def __post_init__(self) -> None:
        arrays.number("train", "temperature", self.temperature, 0.0)
        arrays.number("train", "save_every", self.save_every, 0.0)
        arrays.whole("train", "log_every", self.log_every, low=0)
        if self.sample_every is not None:
            arrays.whole("train", "sample_every", self.sample_every, low=1)

    def require(self) -> None:
        """MissingExtra, before any file is made, without the package that TensorBoard's events need."""
        if self.tensorboard:
            need("tensorboard", "tensorboardX", "tensorboardX", "tensorboard")


class Recorder:
    """The callback of a training that is watched: writes into the folder of its run as the outputs say."""

    def __init__(self, run: Any, outputs: Outputs, trainer: Trainer):
        self.run, self.outputs, self.trainer = run, outputs, trainer
        self.notes: list[str] = []
        """Why a picture is missing, once each."""
        self._rows: int | None = None
        if outputs.csv:
            self._table()  # without the epochs that a killed process did after its last checkpoint
        self.board = None
        if outputs.tensorboard:
            writer = need("tensorboard", "tensorboardX", "tensorboardX", "tensorboard").SummaryWriter
            # Events of steps that a killed process did after its last checkpoint will come again.
            with writing("train", run.board):
                self.board = writer(run.board, purge_step=trainer.progress.step + 1)

    def __call__(self, record: dict[str, Any]) -> None:
        epoch = record["event"] == "epoch"
        every = self.outputs.log_every
        if epoch or "skipped" in record or (every and record["step"] % every == 0):
            self.run.append(record)
            self._to_board(record, "epoch" if epoch else "step")
        if epoch:
            if self.outputs.csv:
                self._table()
            if self.outputs.sample_every and record["epoch"] % self.outputs.sample_every == 0:
                path = os.path.join(self.run.sample_folder, f"epoch_{record['epoch']:05d}.png")
                with self.trainer.kept():
                    self.picture(self._samples, path)
                self.picture(self._curve, self.run.curve)

    def finish(self) -> list[str]:
        """The last pictures, from the values that the flow holds; returns the names of those there are."""
        paths = [self.picture(self._samples, self.run.samples), self.picture(self._curve, self.run.curve)]
        return [path for path in paths if path is not None]

    def picture(self, draw: Any, path: str) -> str | None:
        """Draws a file; without the package for it, or samples that can be drawn, says so once and goes on."""
        try:
            return path if draw(path) else None
        except (MissingExtra, ShapeError) as error:
            note = f"no picture: {error}"
        except NumericError:
            note = (f"[train] expected finite samples at temperature {self.outputs.temperature:g} "
                    "for a picture, got some that are not")
        if note not in self.notes:
            self.notes.append(note)
        return None

    def close(self) -> None:
        if self.board is not None:
            with writing("train", self.run.board):
                self.board.close()

    def _samples(self, path: str) -> bool:
        if not self.trainer.flow.is_image:
            return False
        plot.writer(self.trainer.flow.shape[2])
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
        found = trainer.given if trainer.valid_given is None else trainer.valid_given
        return np.resize(found, (10, trainer.flow.context))

    def _curve(self, path: str) -> bool:
        if not self.trainer.history:
            return False
        with replacing("train", path) as temporary:
            plot.learning_curve(self.trainer.history, temporary)
        return True

    def _table(self) -> None:
        """One row more, or the whole table where there is none or the history was taken back."""
        history, path = self.trainer.history, self.run.table
        if self._rows is not None and len(history) == self._rows + 1 and os.path.exists(path):
            with writing("train", path), open(path, "a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, COLUMNS, extrasaction="ignore").writerow(history[-1])
        else:
            with replacing("train", path) as temporary, \
                    open(temporary, "w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
                writer.writeheader()
                writer.writerows(history)
        self._rows = len(history)

    def _to_board(self, record: dict[str, Any], group: str) -> None:
        if self.board is None:
            return
        with writing("train", self.run.board):
            for name in ("loss", "bits_per_dim", "lr", "grad_norm", "valid_loss", "valid_bits_per_dim", "class_nll",
                         "class_error"):
                if record.get(name) is not None:
                    self.board.add_scalar(f"{group}/{name}", record[name], record["step"])
            self.board.flush()
