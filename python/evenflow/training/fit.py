"""Flow.fit."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from evenflow._border import arrays, checks
from evenflow._border.console import tell
from evenflow.data import check
from evenflow.density import Density, bounds_of, column_names, name_columns, undone_on_error
from evenflow.distributed.ranks import Ranks
from evenflow.errors import ConfigError, warn, wrong
from evenflow.training import presets, samples
from evenflow.training.history import History
from evenflow.training.loop import Callback, Trainer
from evenflow.training.progress import Display, ahead, find_bar
from evenflow.training.settings import Settings
from evenflow.training.state import read, state_path


def fit(flow: Density, x: Any, valid: Any, label: Any, context: Any, sample_weight: Any, epochs: int | None,
        steps: int | None, everyday: dict[str, Any], checkpoint: str | os.PathLike[str] | None, resume: bool,
        callback: Callback | None, verbose: bool | None, settings: Settings | None) -> History:
    """`Flow.fit`; everyday: those of the settings that it takes by name."""
    chosen = merged(settings, everyday)
    ranks = Ranks(chosen.comm)
    path = None if checkpoint is None else checks.file_name("fit", checkpoint)
    if checks.flag("fit", "resume", resume) and path is None:
        raise wrong(ConfigError, "fit", "checkpoint", "resume=True needs checkpoint=...")
    if callback is not None and not callable(callback):
        raise wrong(TypeError, "fit", "callback", f"expected a function of a record as callback, got {callback!r}")
    for name, length in (("epochs", epochs), ("steps", steps)):
        if length is not None:
            checks.whole("fit", name, length, low=0)
    told = verbose is not None and checks.flag("fit", "verbose", verbose) and ranks.rank == 0
    bar = find_bar() if verbose is not False and ranks.rank == 0 else None
    goes_on = ranks.lead(lambda: path is not None and _goes_on(path, resume))
    known = ranks.try_on_all(lambda: read(path)[1]) if goes_on and path is not None else {}
    seed = known.get("seed", flow.config["seed"]) if chosen.seed is None else chosen.seed

    def prepare() -> tuple[Trainer, int | None]:
        data = samples.checked(flow, "fit", x, label, context, sample_weight)
        train, validated = samples.parts(flow, "fit", data, valid, seed)
        usual = dataclasses.replace(chosen, seed=seed).over(known)
        whole, length = presets.resolved(usual, presets.TRAINING["image" if flow.is_image else "table"], len(train),
                                         epochs, steps, validated is not None)
        trainer = Trainer(flow, train, validated, whole, ranks)
        if goes_on and path is not None:
            trainer.load(path)
        return trainer, length

    def warn_of_table() -> None:
        for text in check.look(trainer.data, flow.dtype, column_names(flow).get("x", ()), seed, bounds_of(flow),
                               trainer.standardises).lines(most=check.SHOWN):
            warn(f"[fit] {text}")

    with undone_on_error(flow):
        if not flow.initialized:
            name_columns(flow, arrays.names_of(x) or column_names(flow).get("x"), arrays.names_of(context))
        trainer, length = ranks.try_on_all(prepare)
        if not flow.is_image and not goes_on:  # once a training
            ranks.lead(warn_of_table)
        trainer.begin(length, steps, path)
    shown = Display(trainer.planned, bar, lines=told)
    rows, valid_rows = len(trainer.data), 0 if trainer.valid is None else len(trainer.valid)
    if told or bar is not None:
        tell(f"training on {rows:,} rows, validating on {valid_rows:,}; "
             + ahead(trainer.planned, trainer.state.progress.step))

    def watch(record: dict[str, Any]) -> Any:
        shown(record)
        return None if callback is None else callback(record)

    try:
        trainer.train(watch, path)
    finally:
        shown.close(stopped=trainer.state.progress.stopped)
    return History(trainer.history, rows, valid_rows, trainer.settings, trainer.state.progress.stopped)


def merged(settings: Settings | None, everyday: dict[str, Any]) -> Settings:
    """`settings`, with those that were given by name. ConfigError for one that is given twice."""
    if settings is not None and not isinstance(settings, Settings):
        raise wrong(TypeError, "fit", "settings", f"expected Settings or None, got {type(settings).__name__}")
    given = {name: value for name, value in everyday.items()
             if not (value is None and name == "seed" or isinstance(value, str) and value == "auto")}
    by_name = Settings(**given)
    for name in given if settings is not None else ():
        there, here = getattr(settings, name), getattr(by_name, name)
        if there not in ("auto", here) and not (there is None and name == "seed"):
            raise wrong(ConfigError, "fit", name, f"expected {name} once, got {here!r} and, in settings, {there!r}")
    return by_name if settings is None else dataclasses.replace(
        settings, **{name: getattr(by_name, name) for name in given})


def _goes_on(path: str, resume: bool) -> bool:
    """Whether there is a training to go on with. ConfigError where a new one would write over files."""
    state = state_path(path)
    there = [file for file in (path, state) if os.path.isfile(file)]
    if resume and state in there:
        return True
    if resume and there:
        raise wrong(ConfigError, "fit", "checkpoint", f"{path} is there, and its training state {state} is not, "
                                                      "without which no training goes on; take another path")
    if there:
        raise wrong(ConfigError, "fit", "checkpoint", f"expected a checkpoint that is not there yet, got {there[0]}; "
                                                      "pass resume=True to go on from it, another path, or delete it")
    return False
