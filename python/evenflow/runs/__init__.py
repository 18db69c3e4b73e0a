"""A training run in a folder, with everything that is needed to go on with it or to repeat it.

config.toml    what was asked for, resolved; `evenflow train --config` repeats it
log.jsonl      first line: the plan, versions, command and data; then what happened
model.safetensors, model.state.safetensors    the checkpoint, see evenflow.training.loop
samples.png, samples/, curve.png    what `evenflow.runs.logs.Outputs` say
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import glob
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evenflow import _core, data, models
from evenflow._border import checks
from evenflow._border.batch import Batch
from evenflow._border.files import lock, replacing, writing
from evenflow._border.weights import mean_one
from evenflow.data import Dataset
from evenflow.data.dataset import require_weight, said
from evenflow.data.folder import MODES
from evenflow.data.rows import data_mark, drawn_together
from evenflow.data.table import TABLES, Columns, is_header
from evenflow.density import Density, column_names, for_flow, name_columns
from evenflow.distributed.ranks import Ranks
from evenflow.errors import ConfigError, IoError
from evenflow.flow import Flow
from evenflow.models import build
from evenflow.runs.logs import Outputs, Recorder
from evenflow.score import log_prob_on_ranks
from evenflow.training.loop import Trainer
from evenflow.training.samples import checked
from evenflow.training.settings import Settings
from evenflow.training.state import state_path

FILES = ("log.jsonl", "config.toml", "model.safetensors", "model.state.safetensors", "samples.png", "curve.png",
         "samples/epoch_*.png")
"""What a run writes."""
LEFTOVERS = (".evenflow-[0-9]*.tmp", ".[0-9]*.log.jsonl", ".[0-9]*.samples.png", ".[0-9]*.curve.png",
             "samples/.[0-9]*.epoch_*.png", ".[0-9]*.new")
"""What a killed process leaves half-written: names with its number."""
BASELINE_ROWS = 1 << 16
"""Rows of a table that a Gaussian is fitted to, and that it is tested on."""


@dataclass(frozen=True)
class Source:
    """Where data come from, and what is held out."""

    path: str
    columns: list[str] | None = said(None, "tables: columns to use, in this order")
    label: str | None = said(None, "tables: column of classes")
    context: list[str] | None = said(None, "tables: columns that the density of the others is given")
    weight: str | None = said(None, "tables: column of what rows count for")
    size: int | None = said(None, "folder of images: resize to SIZE x SIZE")
    background: str | None = said(None, "folder of images: colour behind transparent pixels; default: white")
    crop: int | None = said(None, "folder of images: a square of CROP x CROP out of the middle, before")
    pad: int | None = said(None, "images: in the middle of a black square of PAD x PAD")
    valid: float = said(0.1, "fraction for validation, 0 for none, and for testing where the data have no test part")
    seed: int = 0
    named: bool = False
    """Whether `path` is a name: a folder of that name may come later, the run's own."""

    @property
    def chosen(self) -> Columns:
        """Which columns are read."""
        return Columns(self.columns, self.label, self.context, self.weight)

    def read(self) -> Dataset:
        """The data as they come, in their own order."""
        return data.load(self.path, **vars(self.chosen), size=self.size, crop=self.crop, pad=self.pad,
                         background=self.background, named=self.named)

    def parts(self, whole: Dataset) -> tuple[Dataset, Dataset]:
        """(train, test), (train, valid or None) of data that were read. ConfigError for a part that counts for nothing,
        or without a test part.
        """
        if whole.test is None:
            if self.valid == 0:
                raise ConfigError(f"[data] {self.path} has no test part, so valid=0 would leave nothing to test on")
            whole = whole.split(self.valid, self.seed)
        part = (whole.without_test() if self.valid == 0
                else whole.split(self.valid, (self.seed + 1) % (checks.LARGEST + 1)))
        require_weight(self.path, training=part.train_weight, validation=part.test_weight, test=whole.test_weight)
        return whole, part


@dataclass(frozen=True)
class Plan:
    """What a run is to do: in the first line of its log."""

    source: Source
    model: dict[str, Any]
    """The config of the flow."""
    training: dict[str, Any]
    """Fields of evenflow.training.settings.Settings."""
    outputs: Outputs
    epochs: int | None = None
    steps: int | None = None
    classes: list[str] = field(default_factory=list)
    """Names of the labels of a class-conditional model."""
    folder: str = field(default_factory=lambda: _here())
    """In which the run began."""
    data: str = ""
    """`mark` of the data."""

    def __post_init__(self) -> None:
        for name in ("epochs", "steps"):
            if getattr(self, name) is not None:
                checks.whole("train", name, getattr(self, name), low=0)
        if not isinstance(self.classes, list) or not all(isinstance(one, str) for one in (*self.classes, self.folder)):
            raise TypeError("[train] expected names of classes and of a folder, got others")

    def mark(self, whole: Dataset, part: Dataset) -> str:
        """Tells data from others, by the samples that are trained, validated and tested on."""
        batches = [part.part("train"), *(one.part("test") for one in (part, whole) if one.test is not None)]
        return data_mark(np.dtype(self.model["dtype"]), *batches)

    def load(self) -> tuple[Dataset, Dataset]:
        """(train, test), (train, valid), from where the run began if the data are not here. ConfigError if they are
        others than then.
        """
        source, there = self.source, os.path.join(self.folder, self.source.path)
        if not source.named and not os.path.exists(source.path) and os.path.exists(there):
            source = dataclasses.replace(source, path=there)
        if data.is_pictures(source.path):  # its training has warned of transparent ones
            source = dataclasses.replace(source, background=source.background or "white")
        whole, part = source.parts(source.read())
        if self.mark(whole, part) != self.data:
            raise ConfigError(f"[data] {source.path} has changed since the run was trained on it; restore it. To "
                              "test the model on other data, name them")
        return whole, part

    def trainer(self, flow: Density, part: Dataset, ranks: Ranks = Ranks()) -> Trainer:
        """Of the flow, on the training and validation data, whose columns it is told the names of, if they have any."""
        if not flow.initialized and (self.source.path.lower().endswith(".parquet") or is_header(part.columns)):
            name_columns(flow, part.columns, part.context)
        parts = [for_flow(flow, part.part(which)) for which in ("train", *(["test"] if part.test is not None else []))]
        train, *valid = (checked(flow, where, batch.x, batch.label, batch.context, batch.weight, where == "fit")
                         for where, batch in zip(("fit", "fit valid"), parts))
        return Trainer(flow, train, valid[0] if valid else None, Settings(**self.training), ranks)


def tested(flow: Density, part: Dataset) -> Batch:
    """The samples to test on, the test part or else all, with what the flow's density is given."""
    return for_flow(flow, part.part("train" if part.test is None else "test"))


class Run:
    """The files of one run."""

    def __init__(self, folder: str):
        if folder == "":  # as of an unset variable of the shell
            raise ConfigError("[run] expected a folder, got an empty name")
        self.folder = folder
        self.log, self.config, self.model, self.samples, self.curve, self.sample_folder = (
            os.path.join(folder, name)
            for name in ("log.jsonl", "config.toml", "model.safetensors", "samples.png", "curve.png", "samples"))

    @property
    def exists(self) -> bool:
        return os.path.exists(self.log)

    @contextlib.contextmanager
    def alone(self, ranks: Ranks) -> Iterator[None]:
        """No other process works on the run meanwhile: IoError while one does.

        Makes the folder where there is none, with those above it, and removes them if nothing came into it.
        """
        held, made = ranks.lead(self._lock)
        try:
            yield
        finally:
            if ranks.rank == 0:
                with contextlib.suppress(OSError):
                    for folder in made:
                        os.rmdir(folder)  # only if nothing is in it
                os.close(held)

    def _lock(self) -> tuple[int, list[Path]]:
        """(a descriptor that locks the folder until it is closed or the process ends, the folders made for it)."""
        made = [folder for folder in (Path(self.folder), *Path(self.folder).parents) if not os.path.exists(folder)]
        try:
            os.makedirs(self.folder, exist_ok=True)
            return lock(self.folder), made
        except BlockingIOError:
            raise IoError(f"[train] another process is working on the run in {self.folder}") from None
        except OSError as error:
            raise IoError(f"[train] the folder {self.folder} can't be made: {error}") from error

    def start(self, plan: Plan, trainer: Trainer, config: str, command: str, force: bool) -> None:
        """Makes the first files, all or none. IoError if the folder has files of a run, unless `force`: they are then
        replaced once the new files are complete.
        """
        trainer.ranks.lead(lambda: self._start(plan, trainer, config, command, force))

    def _start(self, plan: Plan, trainer: Trainer, config: str, command: str, force: bool) -> None:
        there = self._found(FILES)
        if there and not force:
            what = "a run" if self.exists else f"a file that a run would replace, {os.path.basename(there[0])}"
            raise IoError(f"[train] {self.folder} already has {what}; go on with it by --resume, replace it by "
                          "--force, or choose another folder with --out")
        new = Run(os.path.join(self.folder, f".{os.getpid()}.new"))
        try:
            with writing("train", self.folder):
                self._remove(LEFTOVERS)
                os.makedirs(new.folder)
                _write(new.config, config)
                first = {"event": "start", **_circumstances(trainer, command), **dataclasses.asdict(plan)}
                _write(new.log, json.dumps(first) + "\n")
                trainer.write(new.model)
                self._remove(FILES)
                # The log first: with it alone, the run can begin again.
                for path in (self.log, self.config, state_path(self.model), self.model):
                    os.replace(os.path.join(new.folder, os.path.basename(path)), path)
        finally:
            shutil.rmtree(new.folder, ignore_errors=True)

    def _found(self, patterns: Iterable[str]) -> list[str]:
        return [path for pattern in patterns for path in glob.glob(os.path.join(glob.escape(self.folder), pattern))]

    def _remove(self, patterns: Iterable[str]) -> None:
        """Removes files of a run, and the folder of samples once it is empty; nothing else."""
        for path in self._found(patterns):
            (shutil.rmtree if os.path.isdir(path) else os.remove)(path)
        with contextlib.suppress(OSError):
            os.rmdir(self.sample_folder)

    def append(self, record: dict[str, Any]) -> None:
        """Adds a line to the log."""
        with writing("train", self.log), open(self.log, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def plan(self) -> Plan:
        """From the first line of the log, with the length that was asked for last. IoError if there is none."""
        try:
            with open(self.log, encoding="utf-8", errors="replace") as file:
                record = json.loads(file.readline())
                for later in _records(file):
                    if later.get("event") == "resume":
                        record.update(epochs=later["epochs"], steps=later["steps"])
            fields = {f.name: record[f.name] for f in dataclasses.fields(Plan)}
            return Plan(**{**fields, "source": Source(**fields["source"]), "outputs": Outputs(**fields["outputs"])})
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise IoError(f"[run] expected a run in {self.folder}, with {self.log}, got: {error}") from error

    def resume(self, plan: Plan, device: str, threads: int, ranks: Ranks = Ranks(), *,
               anew: bool = False) -> tuple[Trainer, Dataset]:
        """The trainer, at the run's last checkpoint, and all its data. The log goes back to there as well.

        A run that was killed before its first checkpoint begins again. anew: the plan has another length than
        before, and patience begins anew.
        """
        whole, part = plan.load()
        begun = os.path.exists(self.model)
        flow = (models.load(self.model, device=device, threads=threads) if begun
                else build(plan.model, device=device, threads=threads))
        trainer = plan.trainer(flow, part, ranks)
        if begun or os.path.exists(state_path(self.model)):
            trainer.load(self.model)
        if anew:
            trainer.state.progress.stopped, trainer.state.progress.bad_epochs = False, 0
        ranks.lead(lambda: self._go_on(plan, trainer, anew))
        return trainer, whole

    def _go_on(self, plan: Plan, trainer: Trainer, anew: bool) -> None:
        with contextlib.suppress(OSError):  # what can't be removed stays
            self._remove(LEFTOVERS)
        self._rewind(trainer.state.progress.step)
        if anew:
            trainer.write(self.model)  # before the log has the length: asked for again, it changes nothing
        self.append({"event": "resume", "epochs": plan.epochs, "steps": plan.steps})

    def _rewind(self, step: int) -> None:
        """Drops from the log lines that are no records, and what it says of steps after `step`."""
        try:
            with open(self.log, encoding="utf-8", errors="replace") as file:
                kept = [json.dumps(record) + "\n" for record in _records(file) if record.get("step", 0) <= step]
        except OSError as error:
            raise IoError(f"[resume] {self.log} can't be read: {error}") from error
        _write(self.log, "".join(kept))

    def fit(self, trainer: Trainer, plan: Plan, whole: Dataset,
            callback: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Trains, draws pictures, and returns the numbers on the test data, which training never saw.

        Of several ranks, all return the numbers, and rank 0 alone writes and calls back.
        """
        leads = trainer.ranks.rank == 0
        processes = trainer.ranks.collect(f"{platform.node()}:{os.getpid()}")
        if leads and len(processes) > 1:  # launchers report a dead process by its number
            self.append({"event": "ranks", "ranks": processes})
        recorder = Recorder(self, plan.outputs, trainer)

        def watch(record: dict[str, Any]) -> None:
            if leads:
                recorder(record)
                callback(record)

        trainer.run(plan.epochs, plan.steps, watch, self.model)
        result = {"event": "end", "epochs": trainer.state.progress.epoch, "steps": trainer.state.progress.step,
                  **evaluate(trainer.flow, whole, trainer.ranks), "baseline_nats": baseline(trainer.flow, whole),
                  "model": self.model, "log": self.log}
        if leads:
            result.update(pictures=recorder.finish(), notes=recorder.notes)
            self.append(result)
        return result


def inside(path: str, folder: str) -> bool:
    """Whether a path is a folder, or file, or in it."""
    here = Path(os.path.realpath(path))
    return here.is_relative_to(os.path.realpath(folder))


def _records(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Of a log; a line that was cut short, or is no record, is left out."""
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record.get("step", 0), int):
                yield record


def _write(path: str, text: str) -> None:
    # A path that is no valid text must not stop a training that could read it.
    with replacing("train", path) as temporary, \
            open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)


def _circumstances(trainer: Trainer, command: str) -> dict[str, Any]:
    """What else decides a result, or helps to find out why it differs."""
    return {"evenflow": _core.version, "python": platform.python_version(), "numpy": np.__version__,
            "platform": platform.platform(), "instruction_set": _core.isa(),
            "matmul_precision": _core.matmul_precision(), "command": command,
            "parameters": trainer.flow.num_params,
            "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")}


def _here() -> str:
    """The working folder, or nothing where it has been removed."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def evaluate(flow: Density, part: Dataset, ranks: Ranks = Ranks()) -> dict[str, Any]:
    """Mean negative log-likelihood of the test part (bits/dim for images), weighted where the data have weights, with
    its standard error, or None; `weighted` says whether they have.
    """
    batch = tested(flow, part)
    weights = mean_one("data", batch.weight)
    nll = -log_prob_on_ranks(flow, batch, ranks)
    mean, error = np.average(nll, weights=weights), _standard_error(nll, weights, drawn_together(batch.x))
    result = {"n": len(nll), "nll_nats": float(mean), "nll_nats_error": error, "weighted": weights is not None}
    if flow.is_image:
        scale = flow.dims * np.log(2)
        result.update(bits_per_dim=float(mean / scale),
                      bits_per_dim_error=None if error is None else float(error / scale))
    return result


def baseline(flow: Density, whole: Dataset) -> float | None:
    """What `nll_nats` is of a model that has learned nothing: uniform images; of a table, a Gaussian for each column of
    the training data. None where a column does not vary.
    """
    if flow.is_image:
        return float(flow.dims * flow.bits * np.log(2))

    def rows(which: str) -> tuple[np.ndarray, np.ndarray]:
        batch = whole.part(which)[:BASELINE_ROWS]
        weights = np.ones(len(batch)) if batch.weight is None else batch.weight
        return np.asarray(batch.x, np.float64)[weights > 0], weights[weights > 0]  # others may be no numbers

    (x, weights), (test, test_weights) = rows("train"), rows("test")
    if not len(x) or not len(test):
        return None
    with np.errstate(all="ignore"):
        mean = np.average(x, axis=0, weights=weights)
        variance = np.average((x - mean)**2, axis=0, weights=weights)
        nll = 0.5 * ((test - mean)**2 / variance + np.log(2 * np.pi * variance)).sum(axis=1)
        value = float(np.average(nll, weights=test_weights))
    return value if np.isfinite(value) else None


def _standard_error(values: np.ndarray, weights: np.ndarray | None, group: int) -> float | None:
    """Of the mean of values that were drawn by groups of neighbours (cluster sampling), or one by one. None: of one.

    weights: of mean one. The mean is a ratio of two sums, whose error is that of its linear part.
    """
    weights = np.ones(len(values)) if weights is None else weights
    starts = np.arange(0, len(values), group)
    sums = np.add.reduceat(weights * (values - np.average(values, weights=weights)), starts)
    count = int(np.count_nonzero(np.add.reduceat(weights, starts)))
    return None if count == 1 else float(np.sqrt(count / (count - 1) * (sums**2).sum()) / len(values))


def open_model(path: str, device: str = "cpu", threads: int = 0) -> tuple[Flow, Plan | None]:
    """A run's folder or a model file -> the model, and the run's plan where there is one."""
    run = Run(path) if os.path.isdir(path) else None
    flow = models.load(path if run is None else run.model, device=device, threads=threads)
    return flow, None if run is None else run.plan()


def columns_of(flow: Density | None, plan: Plan | None, path: str) -> Columns:
    """The columns of another table that a model takes: by the names in its file, else all by position."""
    own = Columns() if plan is None else plan.source.chosen
    return own if flow is None else own.elsewhere(path, column_names(flow), flow.shape[0])


def held_out(flow: Density | None, plan: Plan | None, source: str | None, size: int | None = None, *,
             labelled: bool = False, chosen: Columns = Columns()) -> Dataset:
    """The data to test a model on: other data if given (their test part, else all), or its run's own test part.
    ConfigError if the run's own have changed: split anew, rows to test on could be some it was trained on.

    Pictures of a folder are cropped, resized and padded as the run's, unless size is given, and have the model's
    channels.
    labelled: of another table too, whose column of classes is otherwise left alone.
    chosen: columns of another CSV or Parquet file instead of the run's, where they are not None.
    """
    table = source is not None and source.lower().endswith(TABLES)
    if chosen != Columns() and not table:
        raise ConfigError("[data] columns, label, context and weight can be chosen in a CSV or Parquet file only, not "
                          f"in {source or 'the data of a run'}")
    if source is None:
        if plan is None:
            raise ConfigError("[data] a model file has no data of its own; name data to test on")
        return plan.load()[0]
    own = columns_of(flow, plan, source) if table else Columns()
    options: dict[str, Any] = {"size": size}
    if plan is not None:
        options["pad"] = plan.source.pad
        own = dataclasses.replace(own, label=plan.source.label) if labelled and table else own
    if data.is_pictures(source):
        if flow is not None and flow.is_image and flow.shape[2] in MODES:
            options["channels"] = flow.shape[2]
        if plan is not None:
            options.update(crop=plan.source.crop, background=plan.source.background or "white",
                           size=plan.source.size if size is None else size)
    part = data.load(source, **vars(own.over(chosen)), **options)
    return part if plan is None or not plan.classes else _renumber(part, plan.classes)


def _renumber(part: Dataset, classes: list[str]) -> Dataset:
    """Labels by the numbers that the classes of these names have in a model."""
    unknown = [name for name in part.classes if name not in classes]
    if unknown:
        raise ConfigError(f"[data] expected labels out of {', '.join(classes)}, got {unknown[0]!r}")
    number = np.array([classes.index(name) for name in part.classes], np.int32)
    train, test = (None if y is None else number[y] for y in (part.train_labels, part.test_labels))
    return dataclasses.replace(part, train_labels=train, test_labels=test, classes=classes)
