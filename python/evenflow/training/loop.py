"""Training by maximum likelihood: batches, noise, schedule, validation, recovery, exact resume."""

from __future__ import annotations

import contextlib
import functools
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
from evenflow.density import Density, budget_of, core_of, initialize, limits_of, values_a_row
from evenflow.distributed.ranks import Ranks
from evenflow.distributed.steps import Pieces
from evenflow.errors import ConfigError, IoError, NumericError, wrong
from evenflow.score import log_prob_on_ranks
from evenflow.training import signals
from evenflow.training.feed import Feed, as_taken
from evenflow.training.samples import in_proportion
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
        self.pieces = Pieces(flow, ranks, settings.accumulate, budget_of("fit", settings.activation_budget))
        self.feed = Feed(data, dtype=flow.dtype, batch_size=int(settings.batch_size), seed=self.seed,
                         augment=settings.augment, bounds=limits_of(flow), mine=self.pieces.rows)
        self.pieces.check("fit", len(data), int(settings.batch_size))
        self.batches = self.feed.batches
        """Steps an epoch."""
        self.means = ("nll", "class_nll", "class_error") if flow.config.get("class_weight") else ("nll",)
        """Means over a batch that a step tells besides its loss."""
        self.schedule = self._schedule(None)
        try:
            make = optim.OPTIMIZERS[str(settings.optimizer)]
            optimizer = make(flow, lr=self.schedule.lr, **settings.optimizer_options)
        except TypeError as error:
            raise wrong(ConfigError, "fit", "optimizer_options", f"expected options of {settings.optimizer}, got "
                                                                 f"{settings.optimizer_options}: {error}") from None
        decay = float(settings.average)
        self.state = State(flow, optimizer, optim.MovingAverage(flow, decay, zero_debias=True) if decay else None)
        self.planned: int | None = None
        """Steps until the training ends at the latest."""
        self.saved_step = 0
        """Step of the last checkpoint."""
        self._waited = self._worked = 0.0
        self._last: dict[str, Any] | None = None
        """The record of an epoch in which the training ended."""
        self.standardises = not flow.initialized
        """Whether the flow is initialised by these data."""
        if self.standardises:  # after all that may be refused
            self._init()

    @property
    def history(self) -> list[dict[str, Any]]:
        """One dict an epoch: epoch, step, loss [nats], lr, ...; valid_loss with validation data. A loss is None where
        there is none: of an epoch in which no step succeeded, or no row of its batches has a weight. An epoch that is
        not finished comes last.

        data_wait: share of the steps' time in which they waited for data, in this process.
        """
        p = self.state.progress
        return [*p.history, *([self._last or self._record()] if p.position else [])]

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """What a training that goes on, or another rank, must have alike: model, settings and data."""
        model = json.loads(json.dumps(self.flow.config))
        return {**{f"model {name}": value for name, value in model.items()}, **self.settings.saved(),
                "data": data_mark(self.data, self.valid)}

    # The loop

    def begin(self, epochs: int | None, steps: int | None, checkpoint: str | None = None) -> None:
        """All of a training until `epochs` or `steps` in total that may be refused."""
        limits = [math.inf if steps is None else checks.whole("fit", "steps", steps, low=0),
                  math.inf if epochs is None else checks.whole("fit", "epochs", epochs, low=0) * self.batches]
        self.ranks.same("fit", lambda: {
            "evenflow": _core.version, **self.facts, "save_every": self.settings.save_every, "epochs": epochs,
            "steps": steps, "checkpoint": checkpoint is not None, "rows read together": group_of(self.data.x),
            "data in memory": not stays_outside(self.data.x), "parameters": self._checksum()})
        self.planned = None if min(limits) == math.inf else int(min(limits))
        self.schedule = self._schedule(self.planned)
        if checkpoint is not None:
            self.save(checkpoint)  # a path that can't be written is found out now, not after an hour

    def train(self, callback: Callback | None, checkpoint: str | None = None) -> None:
        """Trains, after `begin`; the flow then holds the kept values (see Flow.fit).

        NumericError as `on_nonfinite` says. KeyboardInterrupt after Ctrl-C, SIGTERM or SIGHUP, at the end of a step,
        with the checkpoint saved; another Ctrl-C or SIGTERM, a second later, does not wait.
        """
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
                        with self.state.holding(self.state.kept()):
                            stop = _wants_to_stop(callback, record) or stop
                    interrupt, stop, due = self.ranks.any(bool(interrupted), stop,
                                                          time.monotonic() - saved >= self.settings.save_every)
                    if checkpoint is not None and due:
                        with contextlib.suppress(NumericError):  # of an update that overflowed: the next step fails
                            self.save(checkpoint)
                            saved = time.monotonic()
                if p.position and not interrupt:
                    self._last = self._record()
                    self.state.last = self._better(self._last)  # but `best` stays, for a training that goes on
                    with self.state.holding(self.state.kept()):
                        _wants_to_stop(callback, dict(self._last))
                if checkpoint is not None:
                    self.save(checkpoint)
                interrupt, = self.ranks.any(interrupt or bool(interrupted))
        finally:
            self.feed.close()
            core_of(self.flow).values[:] = self.state.kept()
        if interrupt:
            on = "" if checkpoint is None else "; with resume=True it goes on to the same bits"
            raise KeyboardInterrupt(f"[fit] stopped after step {p.step}; the flow is as trained so far, and another "
                                    f"fit goes on from it{on}")

    def _advance(self) -> dict[str, Any]:
        """One step of the training, or one failed attempt at it."""
        p, state, mode = self.state.progress, self.state, self.settings.on_nonfinite
        tried = None
        if mode == "rollback" and (not state.snapshot or p.step % SNAPSHOT_STEPS == 0):
            tried = [array.copy() for array in state.arrays()]
        record: dict[str, Any] = {"event": "step", "step": p.step + 1, "epoch": p.epoch + 1}
        start = time.monotonic()
        try:
            get = functools.partial(self.feed.get, p.epoch, p.position)
            # Data in memory were checked before; of others a bad value fails on all ranks.
            share = self.ranks.try_on_all(get) if stays_outside(self.data.x) else get()
            self._waited += time.monotonic() - start
            state.optimizer.lr = self._rate()
            seed = int(np.random.SeedSequence([self.seed, p.step]).generate_state(1, np.uint64)[0] >> np.uint64(1))
            step = self.pieces.step(share.batch, share.size, seed, state.optimizer, float(self.settings.clip),
                                    state.average, self.means)
            record.update(step, lr=state.optimizer.lr, samples=share.size, **self._bits("", step["nll"]))
            sums = {name: step[name] * share.size for name in ("loss", *self.means)}
            sums.update(samples=share.size, **({} if share.total is None else {"weight": share.total}))
            p.sums = {name: p.sums.get(name, 0.0) + value for name, value in sums.items()}
            p.failing = 0
            if tried is not None:  # now that it is known to be good for a step
                state.snapshot = tried
        except NumericError as error:
            p.skipped, p.failing = p.skipped + 1, p.failing + 1
            if mode == "raise":
                if error.argument == "x":  # a value of the data, which no other rate mends
                    raise
                raise NumericError(f"{error}; try a lower lr than {state.optimizer.lr:g}, or clip") from error
            if p.failing > MOST_FAILURES:
                raise NumericError(f"[fit] expected at most {MOST_FAILURES} failed steps one after the other, got one "
                                   f"more in step {p.step + 1}: {error}") from error
            if mode == "rollback":
                p.lr_scale *= 0.5
                if state.snapshot:
                    state.restore(state.snapshot)
            record["skipped"] = str(error)
        self._worked += time.monotonic() - start
        p.step += 1
        p.position += 1
        return record

    def _schedule(self, steps: int | None) -> optim.Schedule:
        s = self.settings
        if isinstance(s.schedule, optim.Schedule):
            return s.schedule
        steps = steps if s.schedule == "cosine" else None
        return optim.Schedule(float(s.lr), int(s.warmup), s.lr_decay, s.lr_floor, steps)

    def _rate(self) -> float:
        """Of this step."""
        p, schedule = self.state.progress, self.schedule
        rate = schedule.lr_at(p.step) * p.lr_scale
        if self.settings.schedule == "plateau" and p.step >= schedule.warmup:
            return max(rate, min(schedule.floor, schedule.lr))
        return rate

    def _checksum(self) -> str:
        return f"{zlib.crc32(core_of(self.flow).values.data):08x}"

    def _record(self) -> dict[str, Any]:
        """Of the epoch, as far as it is."""
        p = self.state.progress
        total = p.sums.get("weight", p.sums.get("samples", 0))
        means = {name: p.sums[name] / total if total else None for name in ("loss", *self.means)}
        nll = means.pop("nll")
        record = {"event": "epoch", "epoch": p.epoch + 1, "step": p.step, "lr": self.state.optimizer.lr,
                  "seconds": round(p.seconds, 3), **means, **self._bits("", nll)}
        if p.skipped:
            record["skipped"] = p.skipped
        record["data_wait"] = round(self._waited / max(self._worked, 1e-9), 4)
        return record

    def _end_epoch(self) -> dict[str, Any]:
        p = self.state.progress
        self.ranks.same("fit", lambda: {"parameters": self._checksum()})
        record = self._record()
        better = self._better(record)  # which an interrupt may end, before anything changes
        if better is not None:
            p.best_loss, p.bad_epochs, p.flat_epochs, self.state.best = record["valid_loss"], 0, 0, better
        elif self.valid is not None and p.step > self.schedule.warmup:  # before, the rate is too small to judge by
            p.bad_epochs += 1
            p.flat_epochs += 1
            if self.settings.schedule == "plateau" and p.flat_epochs >= self.settings.lr_patience:
                p.lr_scale, p.flat_epochs = p.lr_scale / 2, 0
            p.stopped = self.settings.patience is not None and p.bad_epochs >= int(self.settings.patience)
        p.position, p.skipped, p.sums = 0, 0, {}
        self._waited = self._worked = 0.0
        p.history.append(record)
        return dict(record)

    def _better(self, record: dict[str, Any]) -> np.ndarray | None:
        """The values to keep, if they are the best on the validation data so far, whose loss the record then has."""
        if self.valid is None:
            return None
        candidate, best = self.state.candidate(), self.state.progress.best_loss
        value = self._validate(self.valid, candidate)
        record.update(valid_loss=value, **self._bits("valid_", value))
        return candidate if value is not None and (best is None or value < best) else None

    def _validate(self, valid: Batch, values: np.ndarray) -> float | None:
        """Mean negative log-likelihood of the validation data under some values of the flow."""
        try:
            with self.state.holding(values):
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
        values = values_a_row(self.flow)
        whitened = self.flow.config.get("preprocess") in ("whiten", "zca")  # never trained, and from few rows far off
        least = min(ROWS_A_COLUMN * self.flow.dims, WHITENED_VALUES // values) if whitened else 16
        rows = in_proportion(shuffled(self.data.x, self.seed)[:], self.data.weight,
                             self.settings.init_batch or max(least, INIT_VALUES // values))
        x = as_taken("fit", self.data.x[rows], origin(self.data.x, rows), self.flow.dtype, limits_of(self.flow))
        initialize(self.flow, "fit", Batch(x, None, None if self.data.context is None else self.data.context[rows]))

    # Files

    def save(self, path: str) -> None:
        """Writes the kept values as a model, and beside it the state of the training, see State.save. IoError."""
        self.ranks.lead(lambda: self.state.save(path, self.facts))
        self.saved_step = self.state.progress.step

    def load(self, path: str) -> None:
        """Goes back to where `save` was. IoError: a broken file; ConfigError: other data or settings."""
        tensors, facts, progress = read(path)
        path = state_path(path)
        for name in sorted({*facts, *self.facts}, key=lambda name: (name == "data", name)):
            if facts.get(name) != self.facts.get(name):
                raise wrong(ConfigError, "resume", name.removeprefix("model "), f"expected {name} = "
                            f"{facts.get(name)!r} as in {path}, got {self.facts.get(name)!r}")
        names = {"samples", "loss", *self.means, *([] if self.data.weight is None else ["weight"])}
        if progress.position >= self.batches or progress.sums and not names <= progress.sums.keys():
            raise IoError(f"[resume] {path}: expected sums of less than {self.batches} batches, got position "
                          f"{progress.position} and {', '.join(progress.sums) or 'nothing'}")
        self.state.load(path, tensors, progress)


def _wants_to_stop(callback: Callback | None, record: dict[str, Any]) -> bool:
    """Whether the callback ends the training: it returns True, or raises StopIteration."""
    try:
        return callback is not None and callback(record) is True
    except StopIteration:
        return True
