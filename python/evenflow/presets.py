"""What the command line trains when nothing else is said."""

from __future__ import annotations

from typing import Any

from evenflow.errors import ConfigError

MODELS: dict[tuple[str, str], dict[str, Any]] = {
    ("glow", "image"): dict(steps=8, hidden=128),
    ("realnvp", "image"): dict(scales=2, base_dim=32, residual_blocks=2),
    ("nice", "image"): dict(),
    ("realnvp", "table"): dict(couplings=8, hidden=(64, 64)),
    ("nice", "table"): dict(couplings=4, hidden=(64, 64), preprocess="standardize"),
}
"""Settings by model and kind of data, for a desktop machine; the first of a kind is its default."""

TRAINING: dict[str, dict[str, Any]] = {
    "image": dict(epochs=10, batch_size=64, optimizer="adamax", lr=1e-3, warmup=100, average=0.999),
    "table": dict(epochs=20, batch_size=256, optimizer="adam", lr=1e-3, warmup=100, average=0.999),
}
"""Length and settings of the training by kind of data."""

# Depth and a high rate help most on the digits; more epochs overfit.
DIGITS_MODEL: dict[str, Any] = dict(levels=2, steps=16, hidden=64)
DIGITS_TRAINING: dict[str, Any] = dict(epochs=45, batch_size=50, optimizer="adamax", lr=2e-2, warmup=200,
                                       average=0.99, on_nonfinite="rollback", temperature=0.8)


def choose(source: str, kind: str, shape: tuple[int, ...],
           model: str | None) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """(name of the model, its settings, its training) for some data. model None: the default."""
    name = model or next(m for m, k in MODELS if k == kind)
    if (name, kind) not in MODELS:
        raise ConfigError(f"[train] expected realnvp or nice for a table, got {name}")
    settings, training = dict(MODELS[name, kind]), dict(TRAINING[kind])
    if name == "glow":
        settings["levels"] = _levels(*shape[:2])
    if source == "digits":
        settings["bits"] = 4
        if name == "glow":
            settings.update(DIGITS_MODEL)
            training = dict(DIGITS_TRAINING)
    return name, settings, training


def _levels(height: int, width: int) -> int:
    """Scales of a Glow for images of this size: as many as halve evenly, at most 3."""
    count = 0
    while count < 3 and height % 2 == 0 and width % 2 == 0:
        height, width, count = height // 2, width // 2, count + 1
    return max(count, 1)
