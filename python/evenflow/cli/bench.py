"""How fast a model runs on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from evenflow import optim
from evenflow._border import checks
from evenflow.density import check_flow
from evenflow.flow import Flow


def bench(flow: Flow, batch: int = 64, seconds: float = 1.0, *, label: Any = None,
          context: Any = None) -> dict[str, Any]:
    """Medians over about `seconds` for each of: log_prob, sample, training step, log_prob of one row.

    Data are samples of the model. Returns milliseconds a call ("..._ms"), and rows a second of the three calls on
    `batch` rows ("..._rows_per_second"). The model is left as it was. label: of all rows, default 0; context (C,): of
    all rows, default the mean that `init` found.
    """
    check_flow("bench", flow)
    batch = checks.whole("bench", "batch", batch, low=1)
    seconds = checks.number("bench", "seconds", seconds, 0.0)
    label = 0 if flow.classes and label is None else label
    if flow.context and context is None:
        context = flow.named_parameters()["context.mean"].copy()
    given: dict[str, Any] = {"label": label, "context": context}
    x = flow.sample(batch, **given)
    values, grads = flow._core.values.copy(), flow.grads.copy()
    optimizer = optim.Adam(flow, lr=1e-6)
    try:
        times = {"log_prob": _median(lambda: flow.log_prob(x, **given), seconds),
                 "sample": _median(lambda: flow.sample(batch, **given), seconds),
                 "training_step": _median(lambda: flow.train_step(x, optimizer, seed=0, **given), seconds),
                 "one_row": _median(lambda: flow.log_prob(x[:1], **given), seconds)}
    finally:
        flow._core.values[...] = values
        flow.grads[...] = grads
    result: dict[str, Any] = {"batch": batch}
    for name, value in times.items():
        result[f"{name}_ms"] = 1e3 * value
        if name != "one_row":
            result[f"{name}_rows_per_second"] = batch / value
    return result


def _median(call: Callable[[], Any], seconds: float) -> float:
    """Of the times of at least three calls, after one that is not counted."""
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
