"""Training by maximum likelihood: batches, noise, schedule, validation, recovery, exact resume."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from evenflow import _core, checkpoint, optim
from evenflow._border import arrays, checks
from evenflow._border import batch as evenflow_batch
from evenflow.training import signals
from evenflow._border.bounds import require_inside
from evenflow.density import Density, loss_and_grad
from evenflow.errors import ConfigError, IoError, NumericError
from evenflow.training.feed import Batch, Feed, as_taken
from evenflow.distributed.ranks import Ranks
from evenflow._border.rows import Rows, stays_outside
from evenflow.data.rows import data_mark, group_of, origin, shuffled
from evenflow.score import log_prob_on_ranks
from evenflow.training.settings import LATER, Progress, Settings
from evenflow.distributed.sums import GradientSums
from evenflow._border.weights import check_weights, mean_one
from evenflow.training.initial import few_rows_told, in_proportion

STATE_KIND = "evenflow training state"
AVERAGE = "from its first values"
"""How a state's average was made: earlier ones hold one from zero, and would need a division."""
SAVE_SECONDS, SNAPSHOT_STEPS = 60.0, 100
INIT_VALUES = 1 << 20
ROWS_A_COLUMN, WHITENED_VALUES = 64, 1 << 27


class Trainer:
    """Trains one flow on one data set; `Flow.fit` is the short way to it.

    Epoch e visits the data in an order seeded by (seed, e). A last batch of a single sample is left out (it
    has no variance), any other incomplete one is used. The noise of step s is seeded by (seed, s). Data in
    memory are checked at once; data in files (Rows, np.memmap) are never read as a whole, but batch by batch
    and by a thread, and are checked then.

    sample_weight, valid_sample_weight: see Flow.fit.
    ranks: processes that train together. Each has the same flow, data and settings, works on its share of
    every batch, and ends a step with the same parameters as the others. Order, noise and steps do not depend
    on their number. Rank 0 writes the files.
    """

    def __init__(self, flow: Density, x: Any, valid: Any = None, *, label: Any = None, valid_label: Any = None,
                 context: Any = None, valid_context: Any = None, sample_weight: Any = None,
                 valid_sample_weight: Any = None, settings: Settings = Settings(), ranks: Ranks = Ranks()):
        for name, value, kind in (("flow", flow, Density), ("settings", settings, Settings), ("ranks", ranks, Ranks)):
            if not isinstance(value, kind):
                raise TypeError(f"[fit] expected {kind.__name__} for {name}, got {type(value).__name__}")
        self.flow, self.settings, self.progress, self.ranks = flow, settings, Progress(), ranks
        self.x, self.given, self.weights = _checked_data(flow, "fit", x, label, context, sample_weight)
        self.valid, self.valid_given, self.valid_weights = (None, None, None)
        if valid is not None:
            self.valid, self.valid_given, self.valid_weights = _checked_data(
                flow, "fit valid", valid, valid_label, valid_context, valid_sample_weight)
        elif settings.patience is not None or settings.schedule == "plateau" or any(
                one is not None for one in (valid_label, valid_context, valid_sample_weight)):
            named = {"patience": settings.patience, "valid_label": valid_label, "valid_context": valid_context,
                     "valid_sample_weight": valid_sample_weight}
            told = [name for name, one in named.items() if one is not None] or ["schedule='plateau'"]
            raise ConfigError(f"[fit] {told[0]} needs validation data: pass valid=...")
        if settings.augment is not None and not flow.is_image:
            raise ConfigError("[fit] expected no augment for a table, got one")
        self.feed = Feed(self.x, self.given, self.weights, dtype=flow.dtype, batch_size=settings.batch_size,
                         batches=self.batches, seed=settings.seed, augment=settings.augment, bounds=flow._bounds,
                         mine=lambda size: np.concatenate([np.arange(a, b) for a, b in self._shares(size)]))
        self._check_shares()
        self._waited, self._worked = 0.0, 0.0
        self._sums: GradientSums | None = None
        try:
            self.optimizer = optim.OPTIMIZERS[settings.optimizer](flow, lr=settings.lr, **settings.optimizer_options)
        except TypeError as error:
            raise ConfigError(f"[fit] expected options of {settings.optimizer}, "
                              f"got {settings.optimizer_options}: {error}") from None
        self.schedule = self._schedule(None)
        self.average = optim.MovingAverage(flow, settings.average, zero_debias=True) if settings.average else None
        self.planned: int | None = None
        """Steps until the training ends at the latest."""
        self.saved_step = 0
        """Step of the last checkpoint."""
        self._best: np.ndarray | None = None
        self._snapshot: list[np.ndarray] | None = None
        self._raw: np.ndarray | None = None
        self.standardises = not flow.initialized  # by these data
        if self.standardises:  # after all that may be refused
            self._init()
        ranks.same("fit", lambda: {"evenflow": _core.version,
                                   **{f"model {k}": v for k, v in flow.config.items()},
                                   **dataclasses.asdict(settings), "data": self.data_mark,
                                   "data in memory": not stays_outside(self.x), "rows read together": group_of(self.x),
                                   "parameters": self._checksum()})

    @property
    def history(self) -> list[dict[str, Any]]:
        """One dict an epoch: epoch, step, loss [nats], lr, ...; valid_loss with validation data. A loss is None where
        there is none: of an epoch in which no step succeeded, or no row of its batches has a weight.

        data_wait: share of the steps' time in which they waited for data, in this process.
        """
        return self.progress.history

    # The loop

    def run(self, epochs: int | None = None, steps: int | None = None,
            callback: Callable[[dict[str, Any]], None] | None = None,
            checkpoint: str | os.PathLike[str] | None = None, save_every: float = SAVE_SECONDS) -> None:
        """Trains until `epochs` or `steps` in total; the flow then holds the kept values (see Flow.fit).

        save_every: seconds between two checkpoints; 0: one after every step.
        NumericError as `on_nonfinite` says. KeyboardInterrupt after Ctrl-C, SIGTERM or SIGHUP, at the end of a
        step, with the checkpoint saved; another Ctrl-C or SIGTERM, a second later, does not wait.
        """
        self._begin(epochs, steps, callback, checkpoint, save_every)()

    def _begin(self, epochs: int | None, steps: int | None, callback: Callable[[dict[str, Any]], None] | None,
               checkpoint: str | os.PathLike[str] | None, save_every: float = SAVE_SECONDS) -> Callable[[], None]:
        """All of `run` that may be refused; what is returned trains."""
        if epochs is None and steps is None:
            epochs = 10
        last_epoch = math.inf if epochs is None else checks.whole("fit", "epochs", epochs, low=0)
        last_step = math.inf if steps is None else checks.whole("fit", "steps", steps, low=0)
        if callback is not None and not callable(callback):
            raise TypeError(f"[fit] expected a function of a record as callback, got {callback!r}")
        checkpoint = None if checkpoint is None else checks.file_name("fit", checkpoint)
        save_every = checks.number("fit", "save_every", save_every, 0.0)
        self.ranks.same("fit", lambda: {"epochs": epochs, "steps": steps, "save_every": save_every,
                                        "checkpoint": checkpoint is not None})
        self.planned = int(min(last_step, last_epoch * self.batches))
        self.schedule = self._schedule(self.planned if self.settings.schedule == "cosine" else None)
        self._raw_values()
        if self.progress.position == self.batches:  # a callback ended the last run before the epoch
            self._end_epoch()
        if checkpoint is not None:
            self.save(checkpoint)  # a path that can't be written is found out now, not after an hour
        return functools.partial(self._train, last_epoch, last_step, callback, checkpoint, save_every)

    def _schedule(self, steps: int | None) -> optim.Schedule:
        s = self.settings
        return optim.Schedule(s.lr, s.warmup, s.lr_decay, s.lr_floor, steps)

    def _train(self, last_epoch: float, last_step: float, callback: Callable[[dict[str, Any]], None] | None,
               checkpoint: str | os.PathLike[str] | None, save_every: float) -> None:
        start, saved = time.monotonic() - self.progress.seconds, time.monotonic()
        try:
            with self._summing(), signals.interrupt_flag() as interrupted:
                stop = False
                while not self._done(last_epoch, last_step) and not stop:
                    record = self._advance()
                    self.progress.seconds = time.monotonic() - start
                    record["seconds"] = round(self.progress.seconds, 3)
                    if callback is not None:
                        callback(record)
                    if self.progress.position == self.batches:
                        record = self._end_epoch()
                        if callback is not None:
                            callback(record)
                    stop, due = self.ranks.any(bool(interrupted), time.monotonic() - saved >= save_every)
                    if checkpoint is not None and due and self._save_if_finite(checkpoint):
                        saved = time.monotonic()
                if checkpoint is not None:
                    self.save(checkpoint)
                stop, = self.ranks.any(stop or bool(interrupted))
        finally:
            self.feed.close()
            self._finish()
        if stop:
            raise KeyboardInterrupt(f"[fit] stopped after step {self.progress.step}; the flow is as trained so far, "
                                    "and another fit goes on from it")

    def _done(self, last_epoch: float, last_step: float) -> bool:
        p = self.progress
        return p.stopped or p.epoch >= last_epoch or p.step >= last_step

    @property
    def batches(self) -> int:
        """Steps an epoch."""
        full, rest = divmod(len(self.x), self.settings.batch_size)
        return full + (rest > 1 or (rest == 1 and full == 0))

    def _advance(self) -> dict[str, Any]:
        """One step of the training, or one failed attempt at it."""
        p, s = self.progress, self.settings
        tried = self._snapshot, p.snapshot_steps
        if s.on_nonfinite == "rollback" and p.step % SNAPSHOT_STEPS == 0:
            tried = [a.copy() for a in self._live_arrays()], self._step_counters()
            if self._snapshot is None:
                self._snapshot, p.snapshot_steps = tried
        record: dict[str, Any] = {"event": "step", "step": p.step + 1, "epoch": p.epoch + 1}
        start = time.monotonic()
        try:
            batch = self._next_batch()
            self._waited += time.monotonic() - start
            record.update(self._step(batch), samples=batch.size)
            for name in ("loss", *self._numbers):
                p.sums[name] = p.sums.get(name, 0.0) + record[name] * batch.size
            p.samples += batch.size
            if batch.total is not None:
                p.sums["weight"] = p.sums.get("weight", 0.0) + batch.total
            self._snapshot, p.snapshot_steps = tried  # now that they are known to be good for a step
        except NumericError as error:
            self._recover(error)
            record["skipped"] = str(error)
        self._worked += time.monotonic() - start
        p.step += 1
        p.position += 1
        return record

    def _next_batch(self) -> Batch:
        """This rank's samples. Data in memory were checked before; of others a bad value fails on all ranks."""
        def get() -> Batch:
            return self.feed.get(self.progress.epoch, self.progress.position)

        return self.ranks.try_on_all(get) if stays_outside(self.x) else get()

    def _step(self, batch: Batch) -> dict[str, Any]:
        flow, s = self.flow, self.settings
        self.optimizer.lr = max(self.schedule.lr_at(self.progress.step) * self.progress.lr_scale, self._least_rate)
        if self._sums is None and s.accumulate == 1:
            loss = optim.train_step(flow, self._taken(batch), self._budget, self._seed, self.optimizer, s.clip,
                                    self.average)
            numbers, norm = {name: flow.last_step[name] for name in self._numbers}, flow.last_step["grad_norm"]
        else:
            statistics = flow._core.values[flow._statistics]
            before = statistics.copy()
            try:
                loss, numbers = self._gradient_of_all(batch)
                if not math.isfinite(loss):
                    raise NumericError(f"[fit] expected a finite loss, got {loss} in step {self.progress.step + 1}")
                norm = optim.clip_grad_norm(flow, s.clip)
            except NumericError:
                statistics[:] = before  # some pieces of the batch, or some ranks' shares, were good
                raise
            self.optimizer.step()
            if self.average is not None:
                self.average.update()
        return {"loss": loss, **numbers, "grad_norm": norm, "lr": self.optimizer.lr,
                **self._in_bits("", numbers["nll"])}

    @functools.cached_property
    def _numbers(self) -> tuple[str, ...]:
        """Means over a batch that a step tells besides its loss."""
        return ("nll", "class_nll", "class_error") if self.flow.config.get("class_weight") else ("nll",)

    @property
    def _least_rate(self) -> float:
        s, p = self.settings, self.progress
        return min(s.lr_floor, s.lr) if s.schedule == "plateau" and p.step >= s.warmup else 0.0

    @property
    def _budget(self) -> int:
        return -1 if self.settings.activation_budget is None else self.settings.activation_budget

    @property
    def _seed(self) -> int:
        """Of this step's noise."""
        return _noise_seed(self.settings.seed, self.progress.step)

    @contextlib.contextmanager
    def _summing(self) -> Iterator[None]:
        if self.ranks.size == 1:
            yield
            return
        with GradientSums(self.flow, self.ranks, self.settings.wire_dtype) as self._sums:
            yield

    def _gradient_of_all(self, batch: Batch) -> tuple[float, dict[str, float]]:
        """The loss and its gradient, and the step's other numbers: of all ranks' samples."""
        if self._sums is None:
            loss, *numbers, _ = self._gradient(batch)
            return loss, dict(zip(self._numbers, numbers))
        self._sums.begin()
        try:
            loss, *numbers, repeated = self.ranks.total(2 + len(self._numbers), lambda: self._gradient(batch))
        except NumericError:  # on every rank
            self._sums.wait()
            raise
        self._sums.wait()
        if repeated:
            self.ranks.sum(self.flow._core.grads)
        else:
            self._sums.store()
        self._average_statistics()
        return loss, dict(zip(self._numbers, numbers))

    def _gradient(self, batch: Batch) -> tuple[float, ...]:
        """This rank's part of the loss and of its gradient, and of the step's other numbers; whether a pass was
        repeated after others were told of its gradient.
        """
        flow, s = self.flow, self.settings
        meet = self.ranks.sum if self.ranks.size > 1 and s.sync_batch_norm else None
        flow.zero_grad()
        loss, numbers, at, repeated = 0.0, [0.0] * len(self._numbers), 0, False
        shares = [(first, end) for first, end in self._shares(batch.size) if first < end]
        for first, end in shares:
            mine = slice(at, at + end - first)
            at = mine.stop
            watch = self._sums.start if self._sums is not None and end == shares[-1][1] else None
            weight = (end - first) / batch.size
            loss += weight * loss_and_grad(flow, self._taken(batch)[mine], self._budget, self._seed, first=first,
                                           weight=weight, sum_over_ranks=meet, complete=watch,
                                           least=GradientSums.least)
            numbers = [n + weight * flow.last_step[name] for n, name in zip(numbers, self._numbers)]
            repeated = watch is not None and flow.last_step["fallback"]
        return loss, *numbers, repeated

    def _taken(self, batch: Batch) -> evenflow_batch.Batch:
        label, context = (None, batch.given) if self.flow.context else (batch.given, None)
        return evenflow_batch.Batch(batch.x, label, context, batch.weights)

    def _pieces(self, size: int) -> list[tuple[int, int]]:
        """(first, end) of the pieces that a batch is worked through in, equal but for one row."""
        count = max(1, min(self.settings.accumulate, size // self._least_rows))
        bounds = [size * i // count for i in range(count + 1)]
        return list(zip(bounds, bounds[1:]))

    @property
    def _least_rows(self) -> int:
        """Of a piece. Batch norm needs two, of each rank where it sees its own only: one row has no variance."""
        if not self.flow._statistics.stop:
            return 1
        return 2 if self.settings.sync_batch_norm else 2 * self.ranks.size

    def _shares(self, size: int) -> list[tuple[int, int]]:
        """(first, end) of this rank's rows of each piece of a batch."""
        shares = [(a, self.ranks.share(b - a)) for a, b in self._pieces(size)]
        return [(a + share.start, a + share.stop) for a, share in shares]

    def _check_shares(self) -> None:
        """ConfigError where batch norm would see a single row, or miss a rank without samples."""
        if not self.flow._statistics.stop:
            return
        full, rest = min(self.settings.batch_size, len(self.x)), len(self.x) % self.settings.batch_size
        smallest = min(b - a for size in (full, rest if rest > 1 else full) for a, b in self._pieces(size))
        least = max(self._least_rows, self.ranks.size)
        if smallest < least:
            where = f" on {self.ranks.size} ranks" if self.ranks.size > 1 else ""
            raise self.ranks.everywhere(ConfigError(
                f"[fit] expected batches of at least {least} samples for batch norm{where}, got one of "
                f"{smallest}; take another batch_size"))

    def _average_statistics(self) -> None:
        """To the mean of all ranks, where each had the moments of its own samples."""
        if not self.settings.sync_batch_norm:
            values = self.flow._core.values[self.flow._statistics]
            values /= self.ranks.size
            self.ranks.sum(values)

    def _checksum(self) -> str:
        return f"{zlib.crc32(self.flow._core.values.data):08x}"

    def _recover(self, error: NumericError) -> None:
        p, s = self.progress, self.settings
        p.failures += 1
        p.skipped += 1
        if s.on_nonfinite == "raise":
            raise NumericError(f"{error}; try a lower lr than {self.optimizer.lr:g}, or clip") from error
        if p.failures > s.max_failures:
            raise NumericError(f"[fit] expected at most {s.max_failures} failed steps, got one more in step "
                               f"{p.step + 1}: {error}") from error
        if s.on_nonfinite == "rollback" and self._snapshot is not None:
            for live, kept in zip(self._live_arrays(), self._snapshot):
                live[:] = kept
            self._set_step_counters(p.snapshot_steps)
            p.lr_scale *= 0.5

    def _end_epoch(self) -> dict[str, Any]:
        p = self.progress
        self.ranks.same("fit", lambda: {"parameters": self._checksum()})
        value = None if self.valid is None else self._validate()  # which an interrupt may end
        p.epoch += 1
        p.position = 0
        record = {"event": "epoch", "epoch": p.epoch, "step": p.step, "lr": self.optimizer.lr,
                  "seconds": round(p.seconds, 3)}
        means: dict[str, Any] = {"loss": None, "nll": None}
        if total := p.sums.get("weight", p.samples):
            means = {name: p.sums[name] / total for name in ("loss", *self._numbers)}
        record.update(loss=means.pop("loss"), **self._in_bits("", means.pop("nll")), **means)
        if p.skipped:
            record["skipped"] = p.skipped
        record["data_wait"] = round(self._waited / max(self._worked, 1e-9), 4)
        self._waited, self._worked = 0.0, 0.0
        p.samples, p.skipped, p.sums = 0, 0, {}
        if self.valid is not None:
            record.update(valid_loss=value, **self._in_bits("valid_", value))
            if value is not None and (p.best_loss is None or value < p.best_loss):
                p.best_loss, p.bad_epochs, p.flat_epochs, self._best = value, 0, 0, self._candidate()
            elif p.step > self.settings.warmup:  # before, the rate is too small to judge by
                p.bad_epochs += 1
                p.flat_epochs += 1
                if self.settings.schedule == "plateau" and p.flat_epochs >= self.settings.lr_patience:
                    p.lr_scale, p.flat_epochs = p.lr_scale / 2, 0
                p.stopped = self.settings.patience is not None and p.bad_epochs >= self.settings.patience
        p.history.append(record)
        return dict(record)

    def _validate(self) -> float | None:
        """Mean negative log-likelihood of the validation data under the values that would be kept now."""
        with self.average.applied() if self.average is not None else contextlib.nullcontext():
            try:
                scores = log_prob_on_ranks(self.flow, self.valid, self.valid_given, self.ranks, self.valid_weights)
                value = -float(np.average(scores, weights=self.valid_weights))
            except NumericError:
                if self.settings.on_nonfinite == "raise":
                    raise
                return None
        if not math.isfinite(value):
            if self.settings.on_nonfinite == "raise":
                raise NumericError(f"[fit] expected a finite validation loss, got {value}")
            return None
        return value

    def _in_bits(self, prefix: str, nll: float | None) -> dict[str, float]:
        if not self.flow.is_image or nll is None:
            return {}
        return {f"{prefix}bits_per_dim": nll / (self.flow.dims * math.log(2))}

    def _init(self) -> None:
        s, dims, values = self.settings, self.flow.dims, self.flow.dims + self.flow._context_values
        whitened = self.flow.config.get("preprocess") in ("whiten", "zca")  # never trained, and from few rows far off
        least = min(ROWS_A_COLUMN * dims, WHITENED_VALUES // values) if whitened else 16
        n = s.init_batch or max(least, INIT_VALUES // values)
        rows = in_proportion(shuffled(self.x, s.seed), self.weights, n)
        x = as_taken("fit", self.x[rows], origin(self.x, rows), self.flow.dtype, self.flow._bounds)
        with few_rows_told("fit", rows, dims):
            self.flow._initialize("init", x, self.given[rows] if self.flow.context else None)

    # Which values the flow holds: those in training while it runs, the kept ones afterwards

    def _candidate(self) -> np.ndarray:
        return self.average.values() if self.average is not None else self.flow._core.values.copy()

    def _kept(self) -> np.ndarray:
        return self._best if self._best is not None else self._candidate()

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """For a callback: within the context the flow holds the values that would be kept if it ended now."""
        values = self.flow._core.values
        raw = values.copy()
        values[:] = self._kept()
        try:
            yield
        finally:
            values[:] = raw

    def _finish(self) -> None:
        self._raw = self.flow._core.values.copy()
        self.flow._core.values[:] = self._kept()

    def _raw_values(self) -> None:
        if self._raw is not None:
            self.flow._core.values[:] = self._raw
            self._raw = None

    def _live_arrays(self) -> list[np.ndarray]:
        values = self.flow._core.values if self._raw is None else self._raw
        return [values, *self.optimizer.moments(), *([] if self.average is None else [self.average.average])]

    def _step_counters(self) -> list[int]:
        return [self.optimizer.steps, 0 if self.average is None else self.average.steps]

    def _set_step_counters(self, steps: list[int]) -> None:
        self.optimizer.steps = steps[0]
        if self.average is not None:
            self.average.steps = steps[1]

    # Files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the kept values as a model, and beside it the state of the training. IoError.

        The state comes first and holds all that a resume needs. A process that dies between the two leaves
        the older model, which is complete, and both say which training and step they are of.
        """
        self.ranks.lead(lambda: self.write(path))
        self.saved_step = self.progress.step

    def _save_if_finite(self, path: str | os.PathLike[str]) -> bool:
        """Whether it was saved: an update that overflowed fails the next step, which decides what becomes of it."""
        try:
            self.save(path)
        except NumericError:
            if self.settings.on_nonfinite == "raise":
                raise
            return False
        return True

    def write(self, path: str | os.PathLike[str]) -> None:
        """`save`, by this rank alone."""
        path = checks.file_name("fit", path)
        if os.path.isdir(path) or not os.path.basename(path):  # beside which the state could be written
            raise IoError(f"[fit] expected the name of a file as checkpoint, got {path!r}")
        tensors = {f"live{i}": a for i, a in enumerate(self._live_arrays())}
        tensors.update({f"snapshot{i}": a for i, a in enumerate(self._snapshot or [])},
                       **({} if self._best is None else {"best": self._best}))
        progress = {**vars(self.progress), "counters": self._step_counters()}
        mark = {"training": self._training_mark, "step": str(self.progress.step)}
        metadata = {"kind": STATE_KIND, "format": checkpoint.FORMAT, "evenflow": _core.version, **mark,
                    "config": json.dumps(self.flow.config), "data": self.data_mark, "average": AVERAGE,
                    "settings": json.dumps(dataclasses.asdict(self.settings)),
                    "progress": json.dumps(progress)}
        checkpoint.expect_finite("fit", tensors)
        with self.kept():  # of both files none is replaced unless both are good
            checkpoint.expect_finite("fit", self.flow.named_parameters())
        _core.write_safetensors(os.fsencode(state_path(path)), tensors, metadata)
        with self.kept():
            checkpoint.save(self.flow, path, mark)

    def adopt_patience(self, path: str | os.PathLike[str]) -> None:
        """Takes the patience of the training that is gone on with, where the caller chose none."""
        _, metadata = checkpoint.read(state_path(checks.file_name("resume", path)), STATE_KIND)
        with contextlib.suppress(KeyError, TypeError, ValueError):  # which load_state tells of
            patience = json.loads(metadata["settings"])["patience"]
            self.settings = dataclasses.replace(self.settings, patience=patience)

    def load_state(self, path: str | os.PathLike[str]) -> None:
        """Goes back to where `save` was. IoError: a broken file; ConfigError: other data or settings."""
        model = checks.file_name("resume", path)
        path = state_path(model)
        tensors, metadata = checkpoint.read(path, STATE_KIND)
        try:
            config, settings, fields = (dict(json.loads(metadata[k])) for k in ("config", "settings", "progress"))
            counters = [checks.whole("resume", "counters", n, low=0) for n in fields.pop("counters")]
            progress = Progress.of(fields)
            progress.check()
            if len(counters) != 2 or progress.position > self.batches:
                raise ValueError(f"counters {counters} and position {progress.position} of {self.batches}")
            names = {"loss", *self._numbers, *([] if self.weights is None else ["weight"])}
            if progress.samples and not names <= progress.sums.keys():
                raise ValueError(f"sums of {', '.join(progress.sums) or 'nothing'}")
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise IoError(f"[resume] {path}: expected config, settings and progress, got {error!r}") from None
        settings = {**LATER, **settings}
        mine = json.loads(json.dumps(dataclasses.asdict(self.settings)))
        for what, got, wanted in (("a model with", config, self.flow.config), ("settings", settings, mine)):
            changed = sorted(k for k in {*got, *wanted} if got.get(k) != wanted.get(k))
            if changed:
                key = changed[0]
                raise ConfigError(f"[resume] expected {what} {key} = {got.get(key)!r} as in {path}, "
                                  f"got {wanted.get(key)!r}")
        if metadata.get("data") != self.data_mark:
            raise ConfigError(f"[resume] expected the data that {path} was trained on, got others")
        if self.average is not None and metadata.get("average") != AVERAGE:
            raise IoError(f"[resume] {path}: expected a moving average {AVERAGE}, got one of an earlier evenflow")
        if os.path.exists(model):
            self._check_pair(model, path, progress.step)
        live = self._live_arrays()
        wanted = {f"live{i}": a for i, a in enumerate(live)}
        if "snapshot0" in tensors and progress.snapshot_steps:
            wanted.update({f"snapshot{i}": a for i, a in enumerate(live)})
        wanted.update({"best": live[0]} if "best" in tensors else {})
        checkpoint.check_names(path, set(wanted), set(tensors))
        for name, array in wanted.items():
            checkpoint.check_tensor(path, name, tensors[name], array.dtype, array.shape)
            if name in ("live0", "snapshot0", "best"):
                checkpoint.check_values(path, self.flow, tensors[name])
            elif name in ("live2", "snapshot2") and len(self.optimizer.moments()) > 1 and (tensors[name] < 0).any():
                raise IoError(f"[load] {path}: expected second moments >= 0 in {name}, got a negative one")
        self._raw = None
        for i, array in enumerate(self._live_arrays()):
            array[:] = tensors[f"live{i}"]
        self._best = tensors.get("best")
        self._snapshot = [tensors[f"snapshot{i}"] for i in range(len(live))] if "snapshot0" in tensors else None
        self._set_step_counters(counters)
        self.progress = progress

    def _check_pair(self, model: str, state: str, step: int) -> None:
        """IoError if the model file beside a state is of another training, or newer than the state.

        A model that `Flow.save` wrote says nothing of a training and is taken as it is.
        """
        _, metadata = checkpoint.read(model, checkpoint.KIND)
        if metadata.get("training", self._training_mark) != self._training_mark:
            raise IoError(f"[resume] expected {model} and {state} of one training, got files of two")
        done = metadata.get("step", "0")
        if not done.isdecimal() or int(done) > step:
            raise IoError(f"[resume] expected {state} at step {done} or later, as {model} is, got step {step}")

    @functools.cached_property
    def _training_mark(self) -> str:
        """Tells one training from another: by the model, its seed, the settings and the data."""
        settings = {name: value for name, value in dataclasses.asdict(self.settings).items()
                    if name not in LATER or value != LATER[name]}
        what = json.dumps([self.flow.config, settings, self.data_mark])
        return hashlib.sha256(what.encode()).hexdigest()[:16]

    @functools.cached_property
    def data_mark(self) -> str:
        """Tells one data set from another, see `data_mark`."""
        return data_mark(self.flow.dtype, self.x, self.given, self.valid, self.valid_given,
                         sample_weight=self.weights, valid_sample_weight=self.valid_weights)


def state_path(path: str) -> str:
    """model.safetensors -> model.state.safetensors."""
    root, extension = os.path.splitext(path)
    return f"{root}.state{extension}"


def refuse_used(path: str) -> None:
    """ConfigError where there is a model or a state already, which a new training would write over at once."""
    for file in (path, state_path(path)):
        if os.path.isfile(file):
            raise ConfigError(f"[fit] expected a checkpoint that is not there yet, got {file}; pass resume=True "
                              "to go on from it, another path, or delete it")


def _checked_data(flow: Density, where: str, x: Any, label: Any, context: Any,
                  sample_weight: Any) -> tuple[np.ndarray | Rows, Any, np.ndarray | None]:
    """Samples, what their density is given, and their weights, of mean one."""
    x = flow._check(where, x, least=1)
    if not stays_outside(x):
        flow._check_levels(where, x)
    if x.dtype != np.uint8 and not stays_outside(x):
        x = arrays.to_floats(where, x, flow.dtype, names=flow.columns)
        require_inside(where, flow._bounds, x, names=flow.columns or ())
    given = flow._given(where, label, context, len(x), on_host=True, resolve=where == "fit")
    return x, given, mean_one(where, check_weights(where, sample_weight, len(x)))


def _noise_seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))
