"""State: all that a training changes, which saves and loads itself."""

from __future__ import annotations

import contextlib
import hashlib
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
from evenflow.errors import IoError
from evenflow.optim import MovingAverage, Optimizer

KIND = "evenflow training state"


@dataclass
class Progress:
    """Where a training stands, in numbers."""

    step: int = 0
    position: int = 0
    """Batches done in this epoch."""
    sums: dict[str, float] = field(default_factory=dict)
    """Samples of this epoch, and over them the sums of what a step's record says."""
    skipped: int = 0
    """Failed steps of this epoch."""
    failing: int = 0
    """Failed steps since the last one that went well."""
    lr_scale: float = 1.0
    best_loss: float | None = None
    bad_epochs: int = 0
    flat_epochs: int = 0
    """Epochs without a better validation loss since the rate was last halved."""
    stopped: bool = False
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """Epochs that are finished."""
        return len(self.history)

    def check(self) -> None:
        """TypeError or ConfigError for what no training leaves behind, as a damaged file may hold it."""
        for name in ("step", "position", "skipped", "failing", "bad_epochs", "flat_epochs"):
            checks.whole("resume", name, getattr(self, name), low=0)
        best = 0.0 if self.best_loss is None else self.best_loss
        numbers = {"lr_scale": self.lr_scale, "seconds": self.seconds, "best_loss": best, **self.sums}
        for name, value in numbers.items():
            checks.number("resume", name, value, -math.inf)
        if not isinstance(self.history, list) or not all(
                isinstance(r, dict) and not any(isinstance(v, (dict, list)) for v in r.values()) for r in self.history):
            raise TypeError("[resume] expected a list of flat records as history, got something else")


class State:
    """The values of a flow in training, of its optimiser and of their average; the best values; and the progress.

    While a training goes on, the flow holds the values in training. What is kept at its end are the best ones by the
    validation data, or else the averaged ones, or else the last.
    """

    def __init__(self, flow: Density, optimizer: Optimizer, average: MovingAverage | None):
        self.flow, self.optimizer, self.average = flow, optimizer, average
        self.progress = Progress()
        self.best: np.ndarray | None = None
        """Values of the epoch with the best validation loss."""
        self.last: np.ndarray | None = None
        """Better ones, of an epoch in which the training ended; files of the state do not have them."""
        self.snapshot: list[np.ndarray] = []
        """A copy of `arrays` before a step that went well."""

    def arrays(self) -> list[np.ndarray]:
        """Views of all that a step changes; the last one, of the optimiser's and the average's steps, is a copy."""
        averaged = [] if self.average is None else [self.average.average]
        steps = [self.optimizer.steps, 0 if self.average is None else self.average.steps]
        return [core_of(self.flow).values, *self.optimizer.moments(), *averaged, np.array(steps, np.int64)]

    def restore(self, arrays: list[np.ndarray]) -> None:
        """Goes back to a copy of `arrays`."""
        for live, kept in zip(self.arrays()[:-1], arrays):
            live[:] = kept
        self.optimizer.steps = int(arrays[-1][0])
        if self.average is not None:
            self.average.steps = int(arrays[-1][1])

    def candidate(self) -> np.ndarray:
        """A copy of the values that are kept if they are the best."""
        return core_of(self.flow).values.copy() if self.average is None else self.average.values()

    def kept(self) -> np.ndarray:
        """The values that are kept if the training ends now."""
        best = self.best if self.last is None else self.last
        return self.candidate() if best is None else best

    @contextlib.contextmanager
    def holding(self, values: np.ndarray) -> Iterator[None]:
        """Within it the flow holds other values."""
        own = core_of(self.flow).values.copy()
        core_of(self.flow).values[:] = values
        try:
            yield
        finally:
            core_of(self.flow).values[:] = own

    def save(self, path: str, facts: dict[str, Any]) -> None:
        """Writes the kept values as a model, and the state beside it. IoError.

        The state comes first and holds all that a resume needs. A process that dies between the two leaves the older
        model, which is complete, and both say which training and step they are of. facts: what tells one training from
        another.
        """
        if os.path.isdir(path) or not os.path.basename(path):  # beside which the state could be written
            raise IoError(f"[fit] expected the name of a file as checkpoint, got {path!r}")
        tensors, told = _tensors(self.arrays(), self.snapshot, self.best), json.dumps(facts)
        marks = {"training": hashlib.sha256(told.encode()).hexdigest()[:16], "step": str(self.progress.step)}
        metadata = {"kind": KIND, "format": checkpoint.FORMAT, "evenflow": _core.version, **marks, "facts": told,
                    "progress": json.dumps(vars(self.progress))}
        checkpoint.expect_finite("fit", tensors)  # of both files none is replaced unless both are good
        _core.write_safetensors(os.fsencode(state_path(path)), tensors, metadata)
        with self.holding(self.kept()):
            checkpoint.save(self.flow, path, marks)

    def load(self, path: str, tensors: dict[str, np.ndarray], progress: Progress) -> None:
        """Goes back to where `save` was. IoError, before anything changes, for what no training wrote."""
        own = self.arrays()
        wanted = _tensors(own, own if "snapshot0" in tensors else [], own[0] if "best" in tensors else None)
        checkpoint.check_tensors(path, tensors, wanted)
        squares = [2] if len(self.optimizer.moments()) > 1 else []
        positive = [f"{name}{i}" for name in ("live", "snapshot") for i in (*squares, len(own) - 1)]
        for name in wanted:
            if name in ("live0", "snapshot0", "best"):
                checkpoint.check_values(path, self.flow, tensors[name])
            elif name in positive and (tensors[name] < 0).any():
                raise IoError(f"[resume] {path}: expected values >= 0 in {name}, got a negative one")
        self.restore([tensors[f"live{i}"] for i in range(len(own))])
        self.snapshot = [tensors[f"snapshot{i}"] for i in range(len(own)) if "snapshot0" in tensors]
        self.best, self.progress = tensors.get("best"), progress


def _tensors(live: list[np.ndarray], snapshot: list[np.ndarray], best: np.ndarray | None) -> dict[str, np.ndarray]:
    """By their names in a file."""
    return {**{f"live{i}": array for i, array in enumerate(live)},
            **{f"snapshot{i}": array for i, array in enumerate(snapshot)}, **({} if best is None else {"best": best})}


def state_path(path: str) -> str:
    """model.safetensors -> model.state.safetensors."""
    root, extension = os.path.splitext(path)
    return f"{root}.state{extension}"


def read(path: str) -> tuple[dict[str, np.ndarray], dict[str, Any], Progress]:
    """Tensors, facts and progress of the state beside a model file, see State.save. IoError.

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
    try:
        facts, progress = dict(json.loads(metadata["facts"])), Progress(**json.loads(metadata["progress"]))
        progress.check()
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise IoError(f"[resume] {state}: expected a training's facts and progress, got {error!r}") from None
    return tensors, facts, progress
