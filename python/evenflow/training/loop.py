"""Training by maximum likelihood: batches, noise, schedule, validation, recovery, exact resume."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from evenflow import _core, optim
from evenflow._border import checks
from evenflow._border.batch import Batch
from evenflow._border.rows import stays_outside
from evenflow.data.rows import data_mark, group_of, origin, shuffled
from evenflow.density import (Density, budget_of, core_of, initialize, limits_of, statistics_of,
                              values_a_row)
from evenflow.distributed.ranks import Ranks
from evenflow.distributed.steps import Pieces
from evenflow.errors import ConfigError, IoError, NumericError, wrong
from evenflow.score import log_prob_on_ranks
from evenflow.training import signals
from evenflow.training.feed import Feed, Share, as_taken
from evenflow.training.initial import few_rows_told, in_proportion
from evenflow.training.settings import Settings
from evenflow.training.state import State, read, state_path

SNAPSHOT_STEPS = 100
MOST_FAILURES = 10
"""Steps that may fail one after the other."""
INIT_VALUES = 1 << 20
ROWS_A_COLUMN, WHITENED_VALUES = 64, 1 << 27

Callback = Callable[[dict[str, Any]], Any]


class Trainer:
    """Trains one flow on one data set; `Flow.fit` is the short way to it.

    Epoch e visits the data in an order seeded by (seed, e). A last batch of a single sample is left out (it has no
    variance), any other incomplete one is used. The noise of step s is seeded by (seed, s). Data in files (Rows,
    np.memmap) are never read as a whole, but batch by batch and by a thread, and are checked then.

    data, valid: see `training.samples.checked`. settings: without "auto".
    ranks: processes that train together. Each has the same flow, data and settings, works on its share of every batch,
    and ends a step with the same parameters as the others. Order, noise and steps do not depend on their number. Rank 0
    writes the files.
    """

    def __init__(self, flow: Density, data: Batch, valid: Batch | None = None, settings: Settings = Settings(),
                 ranks: Ranks = Ranks()):
        self.flow, self.data, self.valid, self.settings, self.ranks = flow, data, valid, settings, ranks
        for name, needed in (("patience", settings.patience is not None), ("schedule", settings.schedule == "plateau")):
            if valid is None and needed:
                raise wrong(ConfigError, "fit", name, f"{name}={getattr(settings, name)!r} needs validation data: "
                                                      "pass valid=...")
        if settings.augment is not None and not flow.is_image:
            raise wrong(ConfigError, "fit", "augment", "expected no augment for a table, got one")
        self.seed: int = settings.seed or 0
        budget = budget_of("fit", settings.activation_budget)
        self.pieces = Pieces(flow, ranks, settings.accumulate, budget)
        self.feed = Feed(data, dtype=flow.dtype, batch_size=int(settings.batch_size), seed=self.seed,
                         augment=settings.augment, bounds=limits_of(flow), mine=self.pieces.rows)
        self.pieces.check("fit", len(data), int(settings.batch_size))
        self._waited, self._worked = 0.0, 0.0
        self.schedule = self._schedule(None)
        try:
            make = optim.OPTIMIZERS[str(settings.optimizer)]
            optimizer = make(flow, lr=self.schedule.lr, **settings.optimizer_options)
        except TypeError as error:
            raise wrong(ConfigError, "fit", "optimizer_options", f"expected options of {settings.optimizer}, got "
                                                                 f"{settings.optimizer_options}: {error}") from None
        decay = float(settings.average)
        average = optim.MovingAverage(flow, decay, zero_debias=True) if decay else None
        self.state = State(flow, optimizer, average)
        self.planned: int | None = None
        """Steps until the training ends at the latest."""
        self.saved_step = 0
        """Step of the last checkpoint."""
        self.standardises = not flow.initialized  # by these data
        if self.standardises:  # after all that may be refused
            self._init()

    @property
    def batches(self) -> int:
        """Steps an epoch."""
        return self.feed.batches

    @property
    def history(self) -> list[dict[str, Any]]:
        """One dict an epoch: epoch, step, loss [nats], lr, ...; valid_loss with validation data. A loss is None where
        there is none: of an epoch in which no step succeeded, or no row of its batches has a weight. An epoch that is
        not finished comes last.

        data_wait: share of the steps' time in which they waited for data, in this process.
        """
        p = self.state.progress
        return [*p.history, *([self._record()] if p.position else [])]

    # The loop

    def run(self, epochs: int | None, steps: int | None, callback: Callback | None = None,
            checkpoint: str | None = None) -> None:
        """Trains until `epochs` or `steps` in total; the flow then holds the kept values (see Flow.fit).

        NumericError as `on_nonfinite` says. KeyboardInterrupt after Ctrl-C, SIGTERM or SIGHUP, at the end of a step,
        with the checkpoint saved; another Ctrl-C or SIGTERM, a second later, does not wait.
        """
        self.begin(epochs, steps, callback, checkpoint)()

    def begin(self, epochs: int | None, steps: int | None, callback: Callback | None,
              checkpoint: str | None) -> Callable[[], None]:
        """All of `run` that may be refused; what is returned trains."""
        limits = [math.inf if steps is None else checks.whole("fit", "steps", steps, low=0),
                  math.inf if epochs is None else checks.whole("fit", "epochs", epochs, low=0) * self.batches]
        if callback is not None and not callable(callback):
            raise wrong(TypeError, "fit", "callback", f"expected a function of a record as callback, got {callback!r}")
        self.ranks.same("fit", lambda: {
            "evenflow": _core.version, **{f"model {k}": v for k, v in self.flow.config.items()},
            **self.settings.saved(), "save_every": self.settings.save_every, "epochs": epochs, "steps": steps,
            "checkpoint": checkpoint is not None, "data": self.data_mark, "rows read together": group_of(self.data.x),
            "data in memory": not stays_outside(self.data.x), "parameters": self._checksum()})
        self.planned = None if min(limits) == math.inf else int(min(limits))
        self.schedule = self._schedule(self.planned)
        if self.state.progress.position == self.batches:  # a callback failed, after which the epoch was to end
            self._end_epoch()
        if checkpoint is not None:
            self.save(checkpoint)  # a path that can't be written is found out now, not after an hour
        return functools.partial(self._train, callback, checkpoint)

    def _schedule(self, steps: int | None) -> optim.Schedule:
        s = self.settings
        if isinstance(s.schedule, optim.Schedule):
            return s.schedule
        steps = steps if s.schedule == "cosine" else None
        return optim.Schedule(float(s.lr), int(s.warmup), s.lr_decay, s.lr_floor, steps)

    def _train(self, callback: Callback | None, checkpoint: str | None) -> None:
        p = self.state.progress
        start, saved = time.monotonic() - p.seconds, time.monotonic()
        stop = interrupt = False
        try:
            with signals.interrupt_flag() as interrupted:
                while not (stop or interrupt or p.stopped or self.planned is not None and p.step >= self.planned):
                    record = self._advance()
                    p.seconds = time.monotonic() - start
                    record["seconds"] = round(p.seconds, 3)
                    stop = _wants_to_stop(callback, record)
                    if p.position == self.batches:
                        record = self._end_epoch()
                        with self.state.kept():
                            stop = _wants_to_stop(callback, record) or stop
                    interrupt, stop, due = self.ranks.any(bool(interrupted), stop,
                                                          time.monotonic() - saved >= self.settings.save_every)
                    if checkpoint is not None and due and self._save_if_finite(checkpoint):
                        saved = time.monotonic()
                if checkpoint is not None:
                    self.save(checkpoint)
                interrupt, = self.ranks.any(interrupt or bool(interrupted))
        finally:
            self.feed.close()
            self.state.keep()
        if interrupt:
            on = "" if checkpoint is None else "; with resume=True it goes on to the same bits"
            raise KeyboardInterrupt(f"[fit] stopped after step {p.step}; the flow is as trained so far, and another "
                                    f"fit goes on from it{on}")

    def _advance(self) -> dict[str, Any]:
        """One step of the training, or one failed attempt at it."""
        p, s, state = self.state.progress, self.settings, self.state
        tried: tuple[list[np.ndarray], list[int]] | None = None
        if s.on_nonfinite == "rollback" and p.step % SNAPSHOT_STEPS == 0:
            tried = state.copy()
            if not state.snapshot:
                state.snapshot, p.snapshot_counters = tried
        record: dict[str, Any] = {"event": "step", "step": p.step + 1, "epoch": p.epoch + 1}
        start = time.monotonic()
        try:
            share = self._next_batch()
            self._waited += time.monotonic() - start
            record.update(self._step(share), samples=share.size)
            for name in ("loss", *self._numbers):
                p.sums[name] = p.sums.get(name, 0.0) + record[name] * share.size
            p.samples, p.failing = p.samples + share.size, 0
            if share.total is not None:
                p.sums["weight"] = p.sums.get("weight", 0.0) + share.total
            if tried is not None:  # now that it is known to be good for a step
                state.snapshot, p.snapshot_counters = tried
        except NumericError as error:
            self._recover(error)
            record["skipped"] = str(error)
        self._worked += time.monotonic() - start
        p.step += 1
        p.position += 1
        return record

    def _next_batch(self) -> Share:
        """This rank's samples. Data in memory were checked before; of others a bad value fails on all ranks."""
        get = functools.partial(self.feed.get, self.state.progress.epoch, self.state.progress.position)
        return self.ranks.try_on_all(get) if stays_outside(self.data.x) else get()

    def _step(self, share: Share) -> dict[str, Any]:
        flow, s, state, step = self.flow, self.settings, self.state, self.state.progress.step
        state.optimizer.lr = max(self.schedule.lr_at(step) * state.progress.lr_scale, self._least_rate)
        seed = int(np.random.SeedSequence([self.seed, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))
        clip = float(s.clip)
        if self.pieces.alone:
            loss = optim.train_step(flow, share.batch, self.pieces.budget, seed, state.optimizer, clip, state.average)
            numbers, norm = {name: flow.last_step[name] for name in self._numbers}, flow.last_step["grad_norm"]
        else:
            statistics = statistics_of(flow)
            before = statistics.copy()
            try:
                loss, numbers = self.pieces.gradient(share.batch, share.size, seed, self._numbers)
                if not math.isfinite(loss):
                    raise NumericError(f"[fit] expected a finite loss, got {loss} in step {step + 1}")
                norm = optim.clip_grad_norm(flow, clip)
            except NumericError:
                statistics[:] = before  # some pieces of the batch, or some ranks' shares, were good
                raise
            state.optimizer.step()
            if state.average is not None:
                state.average.update()
        return {"loss": loss, **numbers, "grad_norm": norm, "lr": state.optimizer.lr, **self._bits("", numbers["nll"])}

    @functools.cached_property
    def _numbers(self) -> tuple[str, ...]:
        """Means over a batch that a step tells besides its loss."""
        return ("nll", "class_nll", "class_error") if self.flow.config.get("class_weight") else ("nll",)

    @property
    def _least_rate(self) -> float:
        plateau = self.settings.schedule == "plateau" and self.state.progress.step >= self.schedule.warmup
        return min(self.settings.lr_floor, self.schedule.lr) if plateau else 0.0

    def _checksum(self) -> str:
        return f"{zlib.crc32(core_of(self.flow).values.data):08x}"

    def _recover(self, error: NumericError) -> None:
        p, s = self.state.progress, self.settings
        p.failures, p.skipped, p.failing = p.failures + 1, p.skipped + 1, p.failing + 1
        if s.on_nonfinite == "raise":
            raise NumericError(f"{error}; try a lower lr than {self.state.optimizer.lr:g}, or clip") from error
        if p.failing > MOST_FAILURES:
            raise NumericError(f"[fit] expected at most {MOST_FAILURES} failed steps one after the other, got one more "
                               f"in step {p.step + 1}: {error}") from error
        if s.on_nonfinite == "rollback":
            self.state.roll_back()
            p.lr_scale *= 0.5

    def _record(self) -> dict[str, Any]:
        """Of the epoch, as far as it is."""
        p = self.state.progress
        record = {"event": "epoch", "epoch": p.epoch + 1, "step": p.step, "lr": self.state.optimizer.lr,
                  "seconds": round(p.seconds, 3)}
        means: dict[str, Any] = {"loss": None, "nll": None}
        if total := p.sums.get("weight", p.samples):
            means = {name: p.sums[name] / total for name in ("loss", *self._numbers)}
        record.update(loss=means.pop("loss"), **self._bits("", means.pop("nll")), **means)
        if p.skipped:
            record["skipped"] = p.skipped
        record["data_wait"] = round(self._waited / max(self._worked, 1e-9), 4)
        return record

    def _end_epoch(self) -> dict[str, Any]:
        p = self.state.progress
        self.ranks.same("fit", lambda: {"parameters": self._checksum()})
        value = None if self.valid is None else self._validate(self.valid)  # which an interrupt may end
        record = self._record()
        p.epoch, p.position, p.samples, p.skipped, p.sums = p.epoch + 1, 0, 0, 0, {}
        self._waited, self._worked = 0.0, 0.0
        if self.valid is not None:
            record.update(valid_loss=value, **self._bits("valid_", value))
            if value is not None and (p.best_loss is None or value < p.best_loss):
                p.best_loss, p.bad_epochs, p.flat_epochs, self.state.best = value, 0, 0, self.state.candidate()
            elif p.step > self.schedule.warmup:  # before, the rate is too small to judge by
                p.bad_epochs += 1
                p.flat_epochs += 1
                if self.settings.schedule == "plateau" and p.flat_epochs >= self.settings.lr_patience:
                    p.lr_scale, p.flat_epochs = p.lr_scale / 2, 0
                p.stopped = self.settings.patience is not None and p.bad_epochs >= int(self.settings.patience)
        p.history.append(record)
        return dict(record)

    def _validate(self, valid: Batch) -> float | None:
        """Mean negative log-likelihood of the validation data under the values that would be kept now."""
        average = self.state.average
        try:
            with contextlib.nullcontext() if average is None else average.applied():
                scores = log_prob_on_ranks(self.flow, valid, self.ranks)
            value = -float(np.average(scores, weights=valid.weight))
            if not math.isfinite(value):
                raise NumericError(f"[fit] expected a finite validation loss, got {value}")
        except NumericError:
            if self.settings.on_nonfinite == "raise":
                raise
            return None
        return value

    def _bits(self, prefix: str, nll: float | None) -> dict[str, float]:
        if not self.flow.is_image or nll is None:
            return {}
        return {f"{prefix}bits_per_dim": nll / (self.flow.dims * math.log(2))}

    def _init(self) -> None:
        s, dims, values = self.settings, self.flow.dims, values_a_row(self.flow)
        whitened = self.flow.config.get("preprocess") in ("whiten", "zca")  # never trained, and from few rows far off
        least = min(ROWS_A_COLUMN * dims, WHITENED_VALUES // values) if whitened else 16
        n = s.init_batch or max(least, INIT_VALUES // values)
        rows = in_proportion(shuffled(self.data.x, self.seed), self.data.weight, n)
        x = as_taken("fit", self.data.x[rows], origin(self.data.x, rows), self.flow.dtype, limits_of(self.flow))
        with few_rows_told("fit", rows, dims):
            initialize(self.flow, "fit", Batch(x, None, None if self.data.context is None else self.data.context[rows]))

    # Files

    def save(self, path: str) -> None:
        """Writes the kept values as a model, and beside it the state of the training, see State.save. IoError."""
        self.ranks.lead(lambda: self.write(path))
        self.saved_step = self.state.progress.step

    def write(self, path: str) -> None:
        """`save`, by this rank alone."""
        self.state.save(path, {"training": self._training_mark, "config": json.dumps(self.flow.config),
                               "data": self.data_mark, "settings": json.dumps(self.settings.saved())})

    def _save_if_finite(self, path: str) -> bool:
        """Whether it was saved: an update that overflowed fails the next step, which decides what becomes of it."""
        try:
            self.save(path)
        except NumericError:
            if self.settings.on_nonfinite == "raise":
                raise
            return False
        return True

    def load(self, path: str) -> None:
        """Goes back to where `save` was. IoError: a broken file; ConfigError: other data or settings."""
        tensors, metadata = read(path)
        path = state_path(path)
        config, settings = _saved(path, metadata)
        for what, got, wanted in (("a model with", config, json.loads(json.dumps(self.flow.config))),
                                  ("settings", settings, self.settings.saved())):
            for key in sorted({*got, *wanted}):
                if got.get(key) != wanted.get(key):
                    raise wrong(ConfigError, "resume", key, f"expected {what} {key} = {got.get(key)!r} as in {path}, "
                                                            f"got {wanted.get(key)!r}")
        if metadata.get("data") != self.data_mark:
            raise ConfigError(f"[resume] expected the data that {path} was trained on, got others")
        self.state.load(path, tensors, metadata)
        p, names = self.state.progress, {"loss", *self._numbers, *([] if self.data.weight is None else ["weight"])}
        if p.position > self.batches or p.samples and not names <= p.sums.keys():
            raise IoError(f"[resume] {path}: expected sums of at most {self.batches} batches, got position "
                          f"{p.position} and {', '.join(p.sums) or 'nothing'}")

    @functools.cached_property
    def _training_mark(self) -> str:
        """Tells one training from another: by the model, its seed, the settings and the data."""
        what = json.dumps([self.flow.config, self.settings.saved(), self.data_mark])
        return hashlib.sha256(what.encode()).hexdigest()[:16]

    @functools.cached_property
    def data_mark(self) -> str:
        """Tells one data set from another, see `data_mark`."""
        return data_mark(self.data, self.valid)


def saved_settings(path: str) -> dict[str, Any]:
    """The settings of the training whose checkpoint has this path. IoError."""
    return _saved(state_path(path), read(path)[1])[1]


def _saved(path: str, metadata: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A state's model and settings."""
    try:
        return dict(json.loads(metadata["config"])), dict(json.loads(metadata["settings"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise IoError(f"[resume] {path}: expected a model's config and settings, got {error!r}") from None


def _wants_to_stop(callback: Callback | None, record: dict[str, Any]) -> bool:
    """Whether the callback ends the training: it returns True, or raises StopIteration."""
    try:
        return callback is not None and callback(record) is True
    except StopIteration:
        return True
