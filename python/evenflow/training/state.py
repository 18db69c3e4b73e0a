"""State: all that a training changes, which saves and loads itself."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evenflow import _core, checkpoint
from evenflow._border import checks
from evenflow.density import Density, core_of
from evenflow.errors import ConfigError, IoError
from evenflow.optim import MovingAverage, Optimizer

KIND = "evenflow training state"


@dataclass
class Progress:
    """Where a training stands, in numbers."""

    step: int = 0
    epoch: int = 0
    position: int = 0
    """Batches done in this epoch."""
    samples: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    """Samples of this epoch, and over them the sums of what a step's record says."""
    skipped: int = 0
    """Failed steps of this epoch."""
    failures: int = 0
    """Failed steps of all epochs."""
    failing: int = 0
    """Failed steps since the last one that went well."""
    lr_scale: float = 1.0
    best_loss: float | None = None
    bad_epochs: int = 0
    flat_epochs: int = 0
    """Epochs without a better validation loss since the rate was last halved."""
    stopped: bool = False
    seconds: float = 0.0
    counters: list[int] = field(default_factory=list)
    snapshot_counters: list[int] = field(default_factory=list)
    """Steps of the optimiser and of the average, now and in the snapshot."""
    history: list[dict[str, Any]] = field(default_factory=list)

    def check(self) -> None:
        """TypeError or ConfigError for what no training leaves behind, as a damaged file may hold it."""
        for name in ("step", "epoch", "position", "samples", "skipped", "failures", "failing", "bad_epochs",
                     "flat_epochs"):
            checks.whole("resume", name, getattr(self, name), low=0)
        numbers = {"lr_scale": self.lr_scale, "seconds": self.seconds, "best_loss": self.best_loss, **self.sums}
        for name, value in numbers.items():
            if name != "best_loss" or value is not None:
                checks.number("resume", name, value, -math.inf)
        for steps in (*self.counters, *self.snapshot_counters):
            checks.whole("resume", "counters", steps, low=0)
        flat = isinstance(self.history, list) and all(
            isinstance(r, dict) and not any(isinstance(v, (dict, list)) for v in r.values()) for r in self.history)
        if len(self.counters) != 2 or len(self.snapshot_counters) not in (0, 2) or not flat:
            raise TypeError("[resume] expected two counters and a list of flat records as history, got something else")


class State:
    """The values of a flow in training, of its optimiser and of their average; the best values; and the progress.

    While a training goes on, the flow holds the values in training; `keep` puts those that are kept in their place.
    """

    def __init__(self, flow: Density, optimizer: Optimizer, average: MovingAverage | None):
        self.flow, self.optimizer, self.average = flow, optimizer, average
        self.progress = Progress()
        self.best: np.ndarray | None = None
        """Values of the epoch with the best validation loss."""
        self.snapshot: list[np.ndarray] = []
        """`arrays` before a step that went well."""

    def arrays(self) -> list[np.ndarray]:
        """Views of all that a step changes."""
        return [core_of(self.flow).values, *self.optimizer.moments(),
                *([] if self.average is None else [self.average.average])]

    def copy(self) -> tuple[list[np.ndarray], list[int]]:
        """A snapshot, and its counters."""
        return [a.copy() for a in self.arrays()], self._counters()

    def roll_back(self) -> None:
        """Goes back to the snapshot, if there is one."""
        for live, kept in zip(self.arrays(), self.snapshot):
            live[:] = kept
        if self.snapshot:
            self._set_counters(self.progress.snapshot_counters)

    def candidate(self) -> np.ndarray:
        """A copy of the values that would be kept if they were the best."""
        return core_of(self.flow).values.copy() if self.average is None else self.average.values()

    def keep(self) -> None:
        """Puts the values that are kept into the flow: the best, or else the averaged or the last ones."""
        core_of(self.flow).values[:] = self.candidate() if self.best is None else self.best

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Within it the flow holds the values that are kept if the training ends now."""
        values = core_of(self.flow).values.copy()
        self.keep()
        try:
            yield
        finally:
            core_of(self.flow).values[:] = values

    def save(self, path: str, facts: dict[str, str]) -> None:
        """Writes the kept values as a model, and the state beside it. IoError.

        The state comes first and holds all that a resume needs. A process that dies between the two leaves the older
        model, which is complete, and both say which training and step they are of. facts: of both files' metadata.
        """
        if os.path.isdir(path) or not os.path.basename(path):  # beside which the state could be written
            raise IoError(f"[fit] expected the name of a file as checkpoint, got {path!r}")
        tensors = {f"live{i}": a for i, a in enumerate(self.arrays())}
        tensors.update({f"snapshot{i}": a for i, a in enumerate(self.snapshot)},
                       **({} if self.best is None else {"best": self.best}))
        self.progress.counters = self._counters()
        metadata = {"kind": KIND, "format": checkpoint.FORMAT, "evenflow": _core.version, **facts,
                    "step": str(self.progress.step), "progress": json.dumps(vars(self.progress))}
        checkpoint.expect_finite("fit", tensors)
        with self.kept():  # of both files none is replaced unless both are good
            checkpoint.expect_finite("fit", self.flow.named_parameters())
        _core.write_safetensors(os.fsencode(state_path(path)), tensors, metadata)
        with self.kept():
            checkpoint.save(self.flow, path, {"training": facts["training"], "step": metadata["step"]})

    def load(self, path: str, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
        """Goes back to where `save` was. IoError, before anything changes, for what no training wrote."""
        try:
            progress = Progress(**json.loads(metadata["progress"]))
            progress.check()
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise IoError(f"[resume] {path}: expected a training's progress, got {error!r}") from None
        live = self.arrays()
        wanted = {f"live{i}": a for i, a in enumerate(live)}
        if progress.snapshot_counters:
            wanted.update({f"snapshot{i}": a for i, a in enumerate(live)})
        wanted.update({"best": live[0]} if "best" in tensors else {})
        checkpoint.check_tensors(path, tensors, wanted)
        for name in wanted:
            if name in ("live0", "snapshot0", "best"):
                checkpoint.check_values(path, self.flow, tensors[name])
            elif name in ("live2", "snapshot2") and len(self.optimizer.moments()) > 1 and (tensors[name] < 0).any():
                raise IoError(f"[load] {path}: expected second moments >= 0 in {name}, got a negative one")
        for i, array in enumerate(live):
            array[:] = tensors[f"live{i}"]
        self.best = tensors.get("best")
        self.snapshot = [tensors[f"snapshot{i}"] for i in range(len(live))] if progress.snapshot_counters else []
        self._set_counters(progress.counters)
        self.progress = progress

    def _counters(self) -> list[int]:
        return [self.optimizer.steps, 0 if self.average is None else self.average.steps]

    def _set_counters(self, steps: list[int]) -> None:
        self.optimizer.steps = steps[0]
        if self.average is not None:
            self.average.steps = steps[1]


def state_path(path: str) -> str:
    """model.safetensors -> model.state.safetensors."""
    root, extension = os.path.splitext(path)
    return f"{root}.state{extension}"


def read(path: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and metadata of the state beside a model file. IoError.

    A model that is of another training, or newer than the state, is refused; one that `Flow.save` wrote says nothing of
    a training and is taken as it is.
    """
    state = state_path(path)
    tensors, metadata = checkpoint.read(state, KIND)
    if os.path.exists(path):
        _, model = checkpoint.read(path, checkpoint.KIND)
        if model.get("training", metadata.get("training")) != metadata.get("training"):
            raise IoError(f"[resume] expected {path} and {state} of one training, got files of two")
        done, step = model.get("step", "0"), metadata.get("step", "")
        if not done.isdecimal() or not step.isdecimal() or int(done) > int(step):
            raise IoError(f"[resume] expected {state} at step {done} or later, as {path} is, got step {step}")
    return tensors, metadata


def refuse_used(path: str) -> None:
    """ConfigError where there is a model or a state already, which a new training would write over at once."""
    for file in (path, state_path(path)):
        if os.path.isfile(file):
            error = ConfigError(f"[fit] expected a checkpoint that is not there yet, got {file}; pass resume=True "
                                "to go on from it, another path, or delete it")
            error.argument = "checkpoint"
            raise error
