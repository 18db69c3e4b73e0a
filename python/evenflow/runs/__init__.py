"""A training run in a folder, with everything that is needed to go on with it or to repeat it.

log.jsonl      first line: the plan, versions, command and data; then what happened
config.toml    the plan's settings; `evenflow train --config` repeats the run
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
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np

from evenflow import _core, data, models
from evenflow._border import checks
from evenflow._border.batch import Batch
from evenflow._border.files import lock, replacing, writing
from evenflow._border.weights import mean_one
from evenflow.data import Dataset
from evenflow.data.dataset import require_weight, said
from evenflow.data.rows import data_mark, drawn_together
from evenflow.data.table import TABLES, Columns
from evenflow.density import Density, column_names, for_flow, sample
from evenflow.distributed.ranks import Ranks
from evenflow.errors import ConfigError, IoError, NumericError, wrong
from evenflow.flow import Flow
from evenflow.runs.logs import Outputs, Recorder
from evenflow.score import log_prob_on_ranks
from evenflow.training.loop import Trainer
from evenflow.verify import verify

FIRST = ("log.jsonl", "config.toml", "model.state.safetensors", "model.safetensors")
"""What a run begins with; with the first alone, it can begin again."""
FILES = (*FIRST, "samples.png", "curve.png", "samples/epoch_*.png")
"""What a run writes."""
LEFTOVERS = (".evenflow-[0-9]*", "samples/.evenflow-[0-9]*")
"""What a killed process leaves half-written: names with its number."""
TRIED = 1000
"""Samples that a trained model is tried with."""
BASELINE_ROWS = 1 << 16
"""Rows of a table that a Gaussian is fitted to, and that it is tested on."""

Kind = TypeVar("Kind")


def of(kind: type[Kind], settings: dict[str, Any]) -> Kind:
    """A dataclass from those settings that are its fields."""
    return kind(**{f.name: settings[f.name] for f in dataclasses.fields(kind)  # type: ignore[arg-type]
                   if f.name in settings})


@dataclass(frozen=True)
class Source(Columns):
    """Where data come from, which of them are read, and what is held out."""

    data: str = ""
    """An absolute path, or a name."""
    columns: list[str] | None = said(None, "tables: columns to use, in this order (all)")
    label: str | None = said(None, "tables: column of classes (none)")
    context: list[str] | None = said(None, "tables: columns that the others are given (none)")
    weight: str | None = said(None, "tables: column of what rows count for (none)")
    drop: list[str] | None = said(None, "tables: columns to leave out (none)")
    size: int | None = said(None, "folder of images: resize to N x N (as they are)")
    channels: int | None = said(None, "folder of images: 1 grey, 3 RGB, 2 and 4 these with alpha (1 or 3)")
    background: str | None = said(None, "folder of images: colour behind transparent pixels (white)")
    crop: int | None = said(None, "folder of images: take N x N pixels of the middle, before --size (all)")
    pad: int | None = said(None, "images: in the middle of a black square of N x N (none)")
    valid: float = said(0.1, "share to validate on, 0: none; and to test on")
    seed: int = 0

    def read(self) -> Dataset:
        """The data as they come, in their own order."""
        named = not os.path.isabs(self.data)  # a folder of that name may be there, the run's own
        options = {name: value for name, value in vars(self).items() if name not in ("data", "valid", "seed")}
        return data.load(self.data, **options, named=named)

    def parts(self, whole: Dataset) -> tuple[Dataset, Dataset]:
        """(train, test), (train, valid or None) of data that were read. ConfigError for a part that counts for nothing,
        or without a test part.
        """
        if whole.test is None:
            if self.valid == 0:
                raise ConfigError(f"[data] {self.data} has no test part, so valid=0 would leave nothing to test on")
            whole = whole.split(self.valid, self.seed)
        part = (whole.without_test() if self.valid == 0
                else whole.split(self.valid, (self.seed + 1) % (checks.LARGEST + 1)))
        require_weight(self.data, training=part.train_weight, validation=part.test_weight, test=whole.test_weight)
        return whole, part


@dataclass(frozen=True)
class Plan:
    """What a run is to do: in the first line of its log."""

    settings: dict[str, Any]
    """By the names of the command line's options, as they were resolved; not those that are None."""
    classes: list[str]
    """Names of the labels of a class-conditional model."""
    mark: str
    """Tells the data from others, by the samples that are trained, validated and tested on."""

    @property
    def source(self) -> Source:
        return of(Source, self.settings)

    def require(self, source: Source, whole: Dataset, part: Dataset) -> None:
        """ConfigError if these parts of a source are not the run's, by the setting that makes them others, if one does.
        """
        if mark(whole, part) == self.mark:
            return
        for name, value in vars(self.source).items():
            if name != "data" and (got := getattr(source, name)) != value:
                raise wrong(ConfigError, "resume", name, f"expected {name} = {value!r} as in the run, got {got!r}")
        were = "" if source.data == self.source.data else f", {self.source.data}"
        raise ConfigError(f"[data] {source.data}: expected the data that the run was trained on{were}, got others; "
                          "restore them. To test the model on other data, name them")


def mark(whole: Dataset, part: Dataset) -> str:
    """`Plan.mark` of data."""
    batches = [part.part("train"), *(one.part("test") for one in (part, whole) if one.test is not None)]
    return data_mark(*batches)


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

        Makes the folder where there is none, with those above it, and removes of these what is empty in the end.
        """
        made = [folder for folder in (Path(self.folder), *Path(self.folder).parents) if not folder.exists()]
        held = ranks.lead(self._lock)
        try:
            yield
        finally:
            if ranks.rank == 0:
                with contextlib.suppress(OSError):
                    for folder in made:
                        os.rmdir(folder)
                os.close(held)

    def _lock(self) -> int:
        try:
            os.makedirs(self.folder, exist_ok=True)
            return lock(self.folder)
        except BlockingIOError:
            raise IoError(f"[train] another process is working on the run in {self.folder}") from None
        except OSError as error:
            raise IoError(f"[train] the folder {self.folder} can't be made: {error}") from error

    def start(self, plan: Plan, trainer: Trainer, config: str, command: str, force: bool) -> None:
        """Makes the first files, all or none. IoError if the folder has files of a run, unless `force`: they are then
        replaced once the new files are complete.
        """
        there = self._found(FILES)
        if there and not force:
            what = "a run" if self.exists else f"a file that a run would replace, {os.path.basename(there[0])}"
            raise IoError(f"[train] {self.folder} already has {what}; go on with it by --resume, replace it by "
                          "--force, or choose another folder with --out")
        with writing("train", self.folder):
            self._remove(LEFTOVERS)
            with TemporaryDirectory(prefix=f".evenflow-{os.getpid()}-", dir=self.folder) as folder:
                new = Run(folder)
                new.append({"event": "start", **_circumstances(trainer, command), **vars(plan)})
                _write(new.config, config)
                trainer.state.save(new.model, trainer.facts)
                self._remove(FILES)
                for name in FIRST:
                    os.replace(os.path.join(folder, name), os.path.join(self.folder, name))

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
        """From the first line of the log. IoError if there is none."""
        try:
            with open(self.log, encoding="utf-8", errors="replace") as file:
                return of(Plan, json.loads(file.readline()))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise IoError(f"[run] expected a run in {self.folder}, with {self.log}, got: {error}") from error

    def go_on(self, plan: Plan, trainer: Trainer) -> None:
        """Takes the log back to the trainer's step: what it says of later ones goes, or of an epoch that goes on, and
        lines that are no records. Its first line then has the plan, which may be of another length than before.
        """
        with contextlib.suppress(OSError):  # what can't be removed stays
            self._remove(LEFTOVERS)
        # Before the log has the length: asked for again, it changes nothing.
        trainer.state.save(self.model, trainer.facts)
        progress, kept = trainer.state.progress, list[dict[str, Any]]()
        with writing("resume", self.log), open(self.log, encoding="utf-8", errors="replace") as file:
            for line in file:
                with contextlib.suppress(ValueError, RecursionError, LookupError, TypeError):
                    record = json.loads(line)
                    done = record["event"] != "epoch" or record["epoch"] <= progress.epoch
                    kept += [record] if done and record.get("step", 0) <= progress.step else []
        kept[0].update(vars(plan))
        _write(self.log, "".join(json.dumps(record) + "\n" for record in kept))
        self.append({"event": "resume", "epochs": plan.settings.get("epochs"), "steps": plan.settings.get("steps")})

    def fit(self, trainer: Trainer, plan: Plan, whole: Dataset,
            callback: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Trains, draws pictures, and returns the numbers on the test data, which training never saw.

        Of several ranks, all return the numbers, and rank 0 alone writes and calls back.
        """
        leads = trainer.ranks.rank == 0
        processes = trainer.ranks.collect(f"{platform.node()}:{os.getpid()}")
        if leads and len(processes) > 1:  # launchers report a dead process by its number
            self.append({"event": "ranks", "ranks": processes})
        recorder = Recorder(self, of(Outputs, plan.settings), trainer, plan.source)

        def watch(record: dict[str, Any]) -> None:
            if leads:
                recorder(record)
                callback(record)

        trainer.begin(plan.settings.get("epochs"), plan.settings.get("steps"), self.model)
        trainer.train(watch, self.model)
        result = {"event": "end", "epochs": trainer.state.progress.epoch, "steps": trainer.state.progress.step,
                  **evaluate(trainer.flow, whole, trainer.ranks), "model": self.model, "log": self.log}
        if leads:
            failed, doubts = _tried(trainer.flow, whole, recorder.outputs.temperature)
            result.update(failures=failed, pictures=recorder.draw(self.samples), notes=recorder.notes + doubts,
                          marginals=recorder.marginals)
            self.append(result)
        return result


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


def evaluate(flow: Density, part: Dataset, ranks: Ranks = Ranks()) -> dict[str, Any]:
    """Mean log-likelihood [nats] of the test part (for images also bits a dimension), weighted where the data have
    weights, with its standard error, or None, and that of a model that has learned nothing.
    """
    batch = tested(flow, part)
    weights = mean_one("data", batch.weight)
    scores = log_prob_on_ranks(flow, batch, ranks)
    mean, error = np.average(scores, weights=weights), _standard_error(scores, weights, drawn_together(batch.x))
    result = {"n": len(scores), "log_likelihood": float(mean), "log_likelihood_error": error,
              "log_likelihood_baseline": _baseline(flow, part), "weighted": weights is not None}
    if flow.is_image:
        scale = flow.dims * np.log(2)
        result.update(bits_per_dim=float(-mean / scale), bits_per_dim_baseline=flow.bits,
                      bits_per_dim_error=None if error is None else float(error / scale))
    return result


def _tried(flow: Density, whole: Dataset, temperature: float) -> tuple[list[str], list[str]]:
    """What fails of `verify` on the test part and of samples, in words; and a doubt, where pixels are far out."""
    rows = tested(flow, whole)[:TRIED]
    found = [f"verify: {text}" for text in verify(flow, rows.x, **rows.conditions).failures]
    label, context = (None if part is None else np.resize(part, (TRIED, *part.shape[1:]))
                      for part in (rows.label, rows.context))
    try:
        x, _, lost = sample(flow, "sample", TRIED, label, context, 0, 0, temperature, redraw=True)
    except NumericError as error:
        return [*found, str(error)], []
    found += [f"{lost} of {TRIED} samples are not finite"] if lost else []
    if not flow.is_image:
        return found, []
    levels = 2.0**flow.bits
    wild = int((abs(x.reshape(TRIED, -1) - levels / 2).max(1) > levels).sum())
    return found, [] if wild <= TRIED // 100 else [
        f"warning: {wild} of {TRIED} samples have pixels far outside of 0 ... {levels:g}; what helps is a longer "
        "training, more pictures, or samples at a --temperature of 0.7"]


def _baseline(flow: Density, whole: Dataset) -> float | None:
    """Of uniform images; of a table, of a Gaussian for each column of the training data. None where a column does not
    vary, or the data have no two parts.
    """
    if flow.is_image:
        return float(-flow.dims * flow.bits * np.log(2))
    if whole.test is None:
        return None
    train, test = (whole.part(which)[:BASELINE_ROWS] for which in ("train", "test"))
    x = np.asarray(train.x, np.float64)
    with np.errstate(all="ignore"), contextlib.suppress(ZeroDivisionError):  # weights that are all zero
        mean = np.average(x, axis=0, weights=train.weight)
        variance = np.average((x - mean)**2, axis=0, weights=train.weight)
        scores = -0.5 * ((test.x - mean)**2 / variance + np.log(2 * np.pi * variance)).sum(axis=1)
        value = float(np.average(scores, weights=test.weight))
        return value if np.isfinite(value) else None
    return None


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
    own = Columns() if plan is None else plan.source
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
    if source is None:
        if plan is None:
            raise ConfigError("[data] a model file has no data of its own; name data to test on")
        if chosen != Columns() or size is not None:
            raise ConfigError("[data] columns and size of the run's own data are chosen already; name other data")
        whole, part = plan.source.parts(plan.source.read())
        plan.require(plan.source, whole, part)
        return whole
    table, pictures, own = source.lower().endswith(TABLES), data.is_pictures(source), Columns()
    options: dict[str, Any] = {"size": size}
    if table:
        own = columns_of(flow, plan, source)
    if plan is not None:
        options["pad"] = plan.source.pad
        if labelled and table:
            own = dataclasses.replace(own, label=plan.source.label)
        if pictures:
            options.update(crop=plan.source.crop, background=plan.source.background,
                           size=plan.source.size if size is None else size)
    if pictures and flow is not None and flow.is_image:
        options["channels"] = flow.shape[2]
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
