"""How to train, and where a training stands."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from evenflow import optim
from evenflow._border import checks
from evenflow.data.augment import Augment
from evenflow.errors import ConfigError


@dataclass(frozen=True)
class Settings:
    """How to train. The same settings, data and model give the same bits."""

    batch_size: int = 64
    optimizer: str = "adamax"
    """"adam" | "adamw" | "adamax" | "sgd" | "rmsprop"."""
    optimizer_options: dict[str, float] = field(default_factory=dict)
    """More arguments of the optimiser: beta2, momentum, eps, weight_decay, ..."""
    lr: float = 1e-3
    warmup: int = 0
    """Steps of linear warm-up."""
    schedule: str = "constant"
    """After the warm-up: "constant", times lr_decay at every step; "cosine", down to lr_floor at the last planned step;
    "plateau", halved after lr_patience epochs without a better validation loss."""
    lr_decay: float = 1.0
    lr_floor: float = 0.0
    lr_patience: int = 10
    clip: float = 0.0
    """Largest norm of the gradient (of the loss in nats); 0: not clipped."""
    accumulate: int = 1
    """Pieces that a batch is worked through in, to save memory. Batch norm sees each piece alone; where one would
    have a single row, there are fewer."""
    average: float = 0.0
    """Decay of the moving average (zero-debiased) that is validated and kept; 0: none."""
    patience: int | None = None
    """Epochs without a better validation loss, after the warm-up, until training ends."""
    on_nonfinite: str = "raise"
    """After a NumericError in a step: "raise" it, "skip" the step, or "rollback" to the last snapshot (every
    100 steps) with half the learning rate. The data that failed are not used again in that epoch."""
    max_failures: int = 10
    """Steps that may fail in one training before the error is raised after all."""
    init_batch: int | None = None
    """Samples for the data-dependent initialisation; None: about a million values, and for
    whitening 64 rows a column, of at most 134 million values."""
    activation_budget: int | None = None
    sync_batch_norm: bool = True
    """With several ranks: moments of all ranks' samples, as one process has them; else each rank's own."""
    wire_dtype: str | None = None
    """With several ranks: "bfloat16" sends gradients rounded to it, half the bytes; None: as they are."""
    augment: Augment | None = None
    """Random changes of the training images, drawn anew in every epoch."""
    seed: int = 0
    """Of the order of the data, their augmentation and the dequantisation noise, which another call of `fit` with the
    same seed repeats."""

    def __post_init__(self) -> None:
        """Checks, and makes numpy's numbers Python's, as a checkpoint holds them.

        Whole numbers that stand for floats stay whole: the mark of a training is a sum over the settings' text.
        """
        def keep(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        checks.choice("fit", "optimizer", self.optimizer, tuple(optim.OPTIMIZERS))
        checks.choice("fit", "schedule", self.schedule, ("constant", "cosine", "plateau"))
        checks.choice("fit", "on_nonfinite", self.on_nonfinite, ("raise", "skip", "rollback"))
        for name, low in (("batch_size", 1), ("warmup", 0), ("accumulate", 1), ("max_failures", 0),
                          ("lr_patience", 1), ("seed", 0)):
            keep(name, checks.whole("fit", name, getattr(self, name), low=low))
        for name, low in (("patience", 1), ("init_batch", 1), ("activation_budget", 0)):
            if getattr(self, name) is not None:
                keep(name, checks.whole("fit", name, getattr(self, name), low=low))
        if not isinstance(self.sync_batch_norm, bool):
            raise TypeError("[fit] expected sync_batch_norm to be True or False, "
                            f"got {self.sync_batch_norm!r}")
        if self.wire_dtype is not None:
            checks.choice("fit", "wire_dtype", self.wire_dtype, ("bfloat16",))
        keep("augment", Augment.of(self.augment))
        for name, schedule, usual in (("lr_decay", "constant", 1.0), ("lr_patience", "plateau", 10)):
            if self.schedule != schedule and getattr(self, name) != usual:
                raise ConfigError(f"[fit] {name} is a setting of schedule={schedule!r}, and schedule is "
                                  f"{self.schedule!r}")
        for name, high in (("lr", math.inf), ("lr_floor", math.inf), ("clip", math.inf), ("lr_decay", 1.0),
                           ("average", 1.0)):
            checks.number("fit", name, getattr(self, name), 0.0, high)
            keep(name, checks.plain(getattr(self, name)))
        if isinstance(self.optimizer_options, dict):  # the optimiser says what is wrong with another thing
            options = self.optimizer_options.items()
            keep("optimizer_options", {name: checks.plain(value) for name, value in options})


LATER: dict[str, Any] = {"sync_batch_norm": True, "wire_dtype": None, "schedule": "constant", "lr_patience": 10}
"""Settings that the first trainings did not have, with what they mean there."""


@dataclass
class Progress:
    """Where a training stands; with the arrays of Trainer.state, all that a resume needs."""

    step: int = 0
    epoch: int = 0
    position: int = 0
    """Batches done in this epoch."""
    samples: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    """Samples of this epoch, and over them the sums of what a step's record says."""
    skipped: int = 0
    """Failed steps of this epoch, and of all."""
    failures: int = 0
    lr_scale: float = 1.0
    snapshot_steps: list[int] = field(default_factory=list)
    """Step counters of the optimiser and the average in the snapshot."""
    best_loss: float | None = None
    bad_epochs: int = 0
    flat_epochs: int = 0
    """Epochs without a better validation loss since the rate was last halved."""
    stopped: bool = False
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Progress:
        """From a state file; in the first ones each sum was a field of its own."""
        sums = {name[:-len("_sum")]: fields.pop(name) for name in list(fields) if name.endswith("_sum")}
        return cls(**{"sums": sums, **fields})

    def check(self) -> None:
        """TypeError or ConfigError for what no training leaves behind, as a damaged file may hold it."""
        for name in ("step", "epoch", "position", "samples", "skipped", "failures", "bad_epochs", "flat_epochs"):
            checks.whole("resume", name, getattr(self, name), low=0)
        best = {} if self.best_loss is None else {"best_loss": self.best_loss}
        numbers = {"lr_scale": self.lr_scale, "seconds": self.seconds, **best, **self.sums}
        for name, value in numbers.items():
            checks.number("resume", name, value, -math.inf)
        for steps in self.snapshot_steps:
            checks.whole("resume", "snapshot_steps", steps, low=0)
        flat = all(isinstance(r, dict) and not any(isinstance(v, (dict, list)) for v in r.values())
                   for r in self.history)
        if len(self.snapshot_steps) not in (0, 2) or not flat:
            raise TypeError("[resume] expected two snapshot_steps and a history of flat dicts, got something else")
