"""Settings of a training, declared once: fit's checks, the command line and docs/training.md are made from them."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

from evenflow._border import checks
from evenflow._border.names import hinted
from evenflow.data.augment import Augment
from evenflow.errors import ConfigError, wrong
from evenflow.optim import OPTIMIZERS, Optimizer, Schedule

Auto = Literal["auto"]


def _setting(default: Any, help: str, low: float = -math.inf, high: float = math.inf,
             choices: tuple[str, ...] = (), fixed: bool = True) -> Any:
    """A field. help: one line, also of the command line. fixed: a training that goes on must have it as it began."""
    return field(default=default, metadata=dict(help=help, low=low, high=high, choices=choices, fixed=fixed))


@dataclass(frozen=True)
class Settings:
    """How to train. The same settings, data and model give the same bits.

    Parameters
    ----------
    batch_size : int
        Samples a step. "auto": 64 for images, 32 ... 256 by N for tables.
    optimizer : str or class
        "adam", "adamw", "adamax", "sgd", "rmsprop", or a class of evenflow. "auto": "adamax" for images, "adam" for
        tables.
    optimizer_options : dict
        More arguments of the optimiser: beta2, momentum, eps, weight_decay, ...
    lr : float
        Learning rate. "auto": 4e-3 for images, 3e-3 for tables.
    warmup : int
        Steps in which the rate rises linearly. "auto": 100; for tables at most an epoch.
    schedule : str or Schedule
        After the warm-up: "constant" (times lr_decay at every step), "cosine" (down to lr_floor at the last planned
        step), or "plateau" (halved after lr_patience epochs without a better validation loss). A `Schedule` has its own
        lr, warmup, decay and floor. "auto": "constant".
    lr_decay, lr_floor, lr_patience : float, float, int
        See `schedule`.
    clip : float
        Largest norm of the gradient [nats]; 0: not clipped. "auto": 1e5 for images, 20 for tables.
    average : float
        Decay of a moving average of the parameters, which is validated and kept; 0: none. "auto": 0.99; for images
        1 - 20 / planned steps, 0 ... 0.999.
    patience : int or None
        Epochs without a better validation loss, after the warm-up, until training ends; None: it does not. "auto": 20
        with validation data and no length.
    accumulate : int
        Pieces in which a batch is computed, to save memory. Batch norm sees each piece alone.
    augment : Augment or dict, optional
        Random changes of training images, drawn anew in every epoch.
    on_nonfinite : str
        After a loss or gradient that is not finite: "raise", "skip" the step, or "rollback" to the last snapshot (every
        100 steps) with half the rate. More than ten failures one after the other are raised after all.
    init_batch : int, optional
        Samples for the initialisation. None: about a million values; for whitening 64 rows a column.
    activation_budget : int, optional
        Bytes of activations that are kept for the backward pass. None: a share of the free memory.
    seed : int, optional
        For the order of the data, augmentation and noise. None: the model's own.
    save_every : float
        Seconds between two checkpoints; 0: one after every step.
    comm : optional
        An mpi4py communicator whose ranks train together ("Several processes" in the documentation).

    Raises
    ------
    ConfigError, TypeError
        A setting is out of range or of another type; the error's `argument` is its name.

    Examples
    --------
    >>> import evenflow as ef
    >>> settings = ef.Settings(clip=5.0, average=0.999)
    >>> settings.clip
    5.0
    """

    batch_size: int | Auto = _setting("auto", "samples a step; tables: 1/30 of the rows, 32 to 256", low=1)
    optimizer: str | type[Optimizer] = _setting("auto", "rule of the update", choices=("auto", *OPTIMIZERS))
    optimizer_options: dict[str, float] = field(default_factory=dict, metadata=dict(
        help="more arguments of the optimiser", fixed=True))
    lr: float | Auto = _setting("auto", "learning rate", low=0)
    warmup: int | Auto = _setting("auto", "steps of linear warm-up; tables: 100, at most an epoch", low=0)
    schedule: str | Schedule = _setting("auto", "learning rate after the warm-up",
                                        choices=("auto", "constant", "cosine", "plateau"))
    lr_decay: float = _setting(1.0, "factor a step, with a constant schedule", low=0, high=1)
    lr_floor: float = _setting(0.0, "smallest learning rate", low=0)
    lr_patience: int = _setting(10, "epochs without improvement until plateau halves the rate", low=1)
    clip: float | Auto = _setting("auto", "largest norm of the gradient; 0: off", low=0)
    average: float | Auto = _setting("auto", "decay of the moving average; 0: off; images: by the length", low=0,
                                     high=0.999999)
    patience: int | None | Auto = _setting("auto", "epochs without improvement until it ends, without a length", low=1)
    accumulate: int = _setting(1, "pieces that a batch is worked through in", low=1)
    augment: Augment | None = _setting(None, "random changes of training images")
    on_nonfinite: str = _setting("raise", "after a failed step", choices=("raise", "skip", "rollback"))
    init_batch: int | None = _setting(None, "samples for the data-dependent initialisation (about 1e6 values)", low=1)
    activation_budget: int | None = _setting(None, "bytes of activations to keep; 0: none (by the free memory)", low=0)
    seed: int | None = _setting(None, "of the order of the data, their augmentation and noise", low=0)
    save_every: float = _setting(60.0, "seconds between checkpoints; 0: one after every step", low=0, fixed=False)
    comm: Any = _setting(None, "communicator of mpi4py", fixed=False)

    def __post_init__(self) -> None:
        """Checks, and makes numpy's numbers Python's, as a checkpoint holds them."""
        if isinstance(self.schedule, dict):  # of a checkpoint
            self._keep("schedule", Schedule(**self.schedule))
        if self.optimizer in OPTIMIZERS.values():
            self._keep("optimizer", next(name for name, kind in OPTIMIZERS.items() if kind is self.optimizer))
        self._keep("augment", Augment.of(self.augment))
        for f in dataclasses.fields(self):
            value, allowed = getattr(self, f.name), KINDS[f.name]
            if value is None and type(None) in allowed or allowed[0] is not str and value == "auto" and Auto in allowed:
                continue
            if choices := f.metadata.get("choices"):
                if not isinstance(value, Schedule):
                    checks.choice("fit", f.name, value, choices)
            elif allowed[0] is int:
                self._keep(f.name, checks.whole("fit", f.name, value, low=f.metadata["low"]))
            elif allowed[0] is float:
                self._keep(f.name, checks.number("fit", f.name, value, f.metadata["low"], f.metadata["high"]))
        if isinstance(self.optimizer_options, dict):  # the optimiser says what is wrong with another thing
            self._keep("optimizer_options", {k: checks.plain(v) for k, v in self.optimizer_options.items()})
        self._check_schedule()

    def _check_schedule(self) -> None:
        """ConfigError for a setting of another schedule than the one that is chosen."""
        kind = "a Schedule" if isinstance(self.schedule, Schedule) else self.schedule
        for name, needed in (("lr_decay", "constant"), ("lr_patience", "plateau")):
            if kind not in ("auto", needed) and getattr(self, name) != getattr(Settings, name):
                raise wrong(ConfigError, "fit", name, f"{name} is a setting of schedule={needed!r}, and schedule is "
                                                      f"{kind!r}")
        if isinstance(self.schedule, Schedule):
            own = {"lr": self.schedule.lr, "warmup": self.schedule.warmup, "lr_floor": self.schedule.floor}
            for name, value in own.items():
                if getattr(self, name) not in (getattr(Settings, name), value):
                    raise wrong(ConfigError, "fit", name, f"{name} is said by the Schedule, {value}, and is given as "
                                                          f"{getattr(self, name)} besides")
                self._keep(name, value)

    def _keep(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def over(self, usual: dict[str, Any]) -> Settings:
        """These settings, with those of `usual` in the place of "auto" and of a seed that is None."""
        taken = {f.name: usual[f.name] for f in dataclasses.fields(self) if f.name in usual
                 and ((value := getattr(self, f.name)) == "auto" or f.name == "seed" and value is None)}
        return dataclasses.replace(self, **taken)

    def saved(self) -> dict[str, Any]:
        """What a training must have as it began, as JSON holds it."""
        kept = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.metadata["fixed"]}
        return typing.cast(dict[str, Any], json.loads(json.dumps(kept, default=dataclasses.asdict)))


KINDS: dict[str, tuple[Any, ...]] = {name: typing.get_args(hint) or (hint,)
                                     for name, hint in typing.get_type_hints(Settings).items()}
"""The types of each setting: int, float, str, ..., then what else it may be."""
Settings.__init__ = hinted(Settings.__init__)  # type: ignore[method-assign]
