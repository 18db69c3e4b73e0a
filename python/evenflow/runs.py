"""A training run in a folder: model.safetensors, model.state.safetensors, log.jsonl, samples.png.

The first line of the log says where the data came from and how they are trained on, so that the run can be
resumed and evaluated without repeating it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from evenflow import _core, checkpoint, data
from evenflow.errors import ConfigError, IoError
from evenflow.export import write_samples
from evenflow.flow import Flow
from evenflow.train import state_path


@dataclass(frozen=True)
class Source:
    """Where data come from, and what is held out."""

    path: str
    columns: list[str] | None = None
    label: str | None = None
    size: int | None = None
    valid: float = 0.1
    """Fraction of the training data for validation; also for a test part, where the data have none."""
    seed: int = 0

    def load(self) -> tuple[data.Dataset, data.Dataset]:
        """(train, test), (train, valid)."""
        whole = data.load(self.path, columns=self.columns, label=self.label, size=self.size)
        if whole.test is None:
            whole = whole.split(self.valid, self.seed)
        return whole, whole.split(self.valid, self.seed + 1)


@dataclass(frozen=True)
class Plan:
    """The first line of a log."""

    source: Source
    training: dict[str, Any]
    """Fields of evenflow.train.Settings."""
    epochs: int | None
    steps: int | None
    classes: list[str]
    """Names of the labels of a class-conditional model."""
    temperature: float = 1.0
    """Of samples.png."""


class Run:
    """The files of one run."""

    def __init__(self, folder: str):
        self.folder = folder
        self.model = os.path.join(folder, "model.safetensors")
        self.log = os.path.join(folder, "log.jsonl")
        self.samples = os.path.join(folder, "samples.png")

    @property
    def exists(self) -> bool:
        return os.path.exists(self.log)

    def start(self, plan: Plan, force: bool) -> None:
        """Makes the folder and writes the log's first line. IoError if a run is there, unless `force`."""
        if not force and (self.exists or os.path.exists(self.model)):
            raise IoError(f"[train] expected an empty folder, got {self.folder} with a run in it; "
                          "resume it, use another --out, or replace it with --force")
        try:
            os.makedirs(self.folder, exist_ok=True)
            for path in (self.model, state_path(self.model), self.samples):
                if os.path.exists(path):
                    os.remove(path)
        except OSError as error:
            raise IoError(f"[train] expected to make the folder {self.folder}, got: {error}") from error
        self._write({"event": "start", "evenflow": _core.version, **dataclasses.asdict(plan)}, mode="w")

    def append(self, record: dict[str, Any]) -> None:
        self._write(record, mode="a")

    def _write(self, record: dict[str, Any], mode: str) -> None:
        try:
            with open(self.log, mode, encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise IoError(f"[train] expected to write {self.log}, got: {error}") from error

    def plan(self) -> Plan:
        """The first line of the log. IoError if there is none."""
        try:
            with open(self.log, encoding="utf-8") as file:
                record = json.loads(file.readline())
            fields = {f.name: record[f.name] for f in dataclasses.fields(Plan)}
            return Plan(**{**fields, "source": Source(**fields["source"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise IoError(f"[run] expected a run in {self.folder}, with {self.log}, got: {error}") from error

    def fit(self, flow: Flow, plan: Plan, *, resume: bool, callback: Callable[[dict[str, Any]], None],
            parts: tuple[data.Dataset, data.Dataset]) -> dict[str, Any]:
        """Trains, writes samples.png, and returns the numbers on the test data, which training never saw."""
        whole, train = parts
        conditional = flow.classes > 0

        def log(record: dict[str, Any]) -> None:
            if record["event"] == "epoch" or "skipped" in record:
                self.append(record)
            callback(record)

        history = flow.fit(train.train, valid=train.test, label=train.train_labels if conditional else None,
                           valid_label=train.test_labels if conditional else None, epochs=plan.epochs,
                           steps=plan.steps, callback=log, checkpoint=self.model, resume=resume,
                           **plan.training)
        result = {"event": "end", "epochs": len(history), **evaluate(flow, whole), "model": self.model,
                  "log": self.log}
        if flow.is_image and flow.shape[2] in (1, 3):
            try:
                write_samples(flow, 100, self.samples, plan.temperature)
                result["samples"] = self.samples
            except ConfigError as error:
                result["note"] = str(error)
        self.append(result)
        return result


def evaluate(flow: Flow, part: data.Dataset) -> dict[str, Any]:
    """Mean negative log-likelihood of the test part (bits/dim for images), with its standard error."""
    x = part.test if part.test is not None else part.train
    labels = part.test_labels if part.test is not None else part.train_labels
    nll = -flow.log_prob(x, label=labels if flow.classes else None)
    error = float(nll.std(ddof=1) / np.sqrt(len(nll))) if len(nll) > 1 else 0.0
    result = {"n": len(nll), "nll_nats": float(nll.mean()), "nll_nats_error": error}
    if flow.is_image:
        scale = flow.dims * np.log(2)
        result.update(bits_per_dim=float(nll.mean() / scale), bits_per_dim_error=float(error / scale))
    return result


def open_model(path: str, device: str = "cpu", threads: int = 0) -> tuple[Flow, Plan | None]:
    """A run's folder or a model file -> the model, and the run's plan where there is one."""
    if os.path.isdir(path):
        run = Run(path)
        return checkpoint.load(run.model, device, threads), run.plan()
    return checkpoint.load(path, device, threads), None


def held_out(plan: Plan | None, source: str | None, size: int | None = None) -> data.Dataset:
    """The data to test on: other data if given (their test part, else all), or the run's own test part."""
    if source is not None:
        keep = plan.source if plan is not None and source.endswith(data.TABLES) else Source(source)
        part = data.load(source, columns=keep.columns, label=keep.label, size=size)
        return part if plan is None or not plan.classes else _renumber(part, plan.classes)
    if plan is None:
        raise ConfigError("[data] expected data to test a model file on, got none")
    return plan.source.load()[0]


def _renumber(part: data.Dataset, classes: list[str]) -> data.Dataset:
    """Labels by the numbers that the classes of these names have in a model."""
    unknown = [name for name in part.classes if name not in classes]
    if unknown:
        raise ConfigError(f"[data] expected labels out of {', '.join(classes)}, got {unknown[0]!r}")
    number = np.array([classes.index(name) for name in part.classes], np.int32)
    train, test = (None if y is None else number[y] for y in (part.train_labels, part.test_labels))
    return dataclasses.replace(part, train_labels=train, test_labels=test, classes=classes)
