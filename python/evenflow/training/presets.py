"""What the command line trains when nothing else is said, and the papers' own settings by name.

Where a paper and its code disagree, a preset has what gave the published numbers: the code's for Glow and
Real NVP, the paper's for NICE, whose code has other nets. Sources:

Glow      openai/glow, README (commands) and train.py (defaults): batch 64 a worker for 32x32 images and fewer
          for larger ones, 8 workers (40 for 256x256); an epoch is 50,000 images counted at 32x32; 10 epochs
          of warm-up; Adamax with beta2 = 1 - 1 / (steps an epoch); CIFAR-10 is shifted by 10 %. The 1x1
          convolutions are unfactored.
Real NVP  Dinh, Sohl-Dickstein, Bengio 2016, section 4.1 (nets, scales, batch, regularisation, flips), and
          tensorflow/models, real_nvp_multiscale_dataset.py (Adam, clipping). 5e-5 times the squared scales in
          the loss is weight_decay = 1e-4 in their gradient. LSUN's random crops are left to the data.
NICE      Dinh, Krueger, Bengio 2014, section 5.1: nets, priors, preprocessing, AdaM with beta2 = 0.01 in that
          year's convention, 1,500 epochs. The batch sizes are those of laurent-dinh/nice.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import Any

from evenflow.errors import ConfigError
from evenflow.training.settings import Settings

MODELS: dict[tuple[str, str], dict[str, Any]] = {
    ("glow", "image"): dict(steps=8, hidden=128, coupling="bounded"),
    ("realnvp", "image"): dict(levels=2, base_dim=32, residual_blocks=2),
    ("nice", "image"): dict(),
    ("couplingflow", "table"): dict(),
    ("nice", "table"): dict(couplings=4, hidden=(64, 64), preprocess="standardize"),
}
"""Settings by model and kind of data that are not the model's own defaults; the first of a kind is its default."""

TRAINING: dict[str, dict[str, Any]] = {
    "image": dict(epochs=10, least_steps=3000, batch_size=64, optimizer="adamax", lr=4e-3, warmup=100, clip=1e5,
                  averaged=0.05, patience=20, schedule="constant"),
    "table": dict(epochs=20, least_steps=4000, optimizer="adam", lr=3e-3, clip=20.0, average=0.99, patience=20,
                  schedule="constant"),
}
"""Length and settings of a training by kind of data, for `fit`, FlowDensity and the command line; see `resolved`."""
UNVALIDATED = 100
"""Most passes where no length is given, nor data that would show overfitting."""

# Depth and a high rate help most on the digits; more epochs overfit.
DIGITS_MODEL: dict[str, Any] = dict(levels=2, steps=16, hidden=64, coupling="affine")
DIGITS_TRAINING: dict[str, Any] = dict(epochs=45, batch_size=50, optimizer="adamax", lr=2e-2, warmup=200,
                                       average=0.99, on_nonfinite="rollback", temperature=0.8)


@dataclass(frozen=True)
class Preset:
    """Settings of one published experiment."""

    model: str
    shape: tuple[int, int, int]
    """Of the paper's images (H, W, C); others are taken if they fit the model."""
    settings: dict[str, Any]
    """Arguments of the model."""
    training: dict[str, Any]
    """Fields of evenflow.training.settings.Settings and evenflow.runs.logs.Outputs, and epochs."""


UNTIL_STOPPED = 1_000_000
"""Epochs where a paper names none, as in Glow's code."""
SAMPLE_EVERY = 50
"""Epochs between two pictures of such a training, as in Glow's code."""


def _glow(size: int, levels: int, depth: int, coupling: str, bits: int, workers: int,
          temperature: float = 1.0, augment: dict[str, Any] | None = None) -> Preset:
    shrink = 32 * 32 / (size * size)
    batch = int(64 * shrink) * workers
    steps = math.ceil(50_000 / (64 * workers))
    return Preset("glow", (size, size, 3),
                  dict(levels=levels, steps=depth, hidden=512, coupling=coupling, permutation="plain",
                       learn_top=True, bits=bits),
                  dict(epochs=UNTIL_STOPPED, batch_size=batch, optimizer="adamax", lr=1e-3,
                       optimizer_options=dict(beta1=0.9, beta2=1 - 1 / steps),
                       warmup=math.ceil(10 * 50_000 / (64 * workers)), init_batch=int(256 * shrink),
                       augment=augment, temperature=temperature, sample_every=SAMPLE_EVERY))


def _real_nvp(size: int, levels: int, base_dim: int, blocks: int, flip: bool) -> Preset:
    return Preset("realnvp", (size, size, 3),
                  dict(levels=levels, base_dim=base_dim, residual_blocks=blocks, bottleneck=False, skip=True,
                       batch_norm=True, weight_norm=True, coupling="affine", recursion=2, bits=8),
                  dict(epochs=UNTIL_STOPPED, batch_size=64, optimizer="adam", lr=1e-3, warmup=0, clip=100.0,
                       optimizer_options=dict(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=1e-4),
                       augment={"flip": True} if flip else None, sample_every=SAMPLE_EVERY))


def _nice(shape: tuple[int, int, int], hidden: tuple[int, ...], prior: str, preprocess: str,
          batch: int) -> Preset:
    training = dict(epochs=1500, batch_size=batch, optimizer="adam", lr=1e-3, warmup=0,
                    optimizer_options=dict(beta1=0.9, beta2=0.99, eps=1e-4))
    if preprocess != "none":
        # The whitening is fitted by `init`: a covariance needs many more images than dimensions.
        training["init_batch"] = 50_000
    settings = dict(couplings=4, hidden=hidden, prior=prior, permutation="tile", preprocess=preprocess, bits=8)
    return Preset("nice", shape, settings, training)


PRESETS = {
    "glow-cifar10": _glow(32, levels=3, depth=32, coupling="affine", bits=8, workers=8,
                          augment={"shift": 0.1}),
    "glow-imagenet32": _glow(32, levels=3, depth=48, coupling="affine", bits=8, workers=8),
    "glow-imagenet64": _glow(64, levels=4, depth=48, coupling="affine", bits=8, workers=8),
    "glow-celeba-hq-256": _glow(256, levels=6, depth=32, coupling="additive", bits=5, workers=40,
                                temperature=0.7),
    "realnvp-cifar10": _real_nvp(32, levels=2, base_dim=64, blocks=8, flip=True),
    "realnvp-imagenet32": _real_nvp(32, levels=4, base_dim=32, blocks=4, flip=False),
    "realnvp-imagenet64": _real_nvp(64, levels=5, base_dim=32, blocks=2, flip=False),
    "realnvp-celeba": _real_nvp(64, levels=5, base_dim=32, blocks=2, flip=True),
    "realnvp-lsun": _real_nvp(64, levels=5, base_dim=32, blocks=2, flip=True),
    "nice-mnist": _nice((28, 28, 1), (1000,) * 5, prior="logistic", preprocess="none", batch=200),
    "nice-tfd": _nice((48, 48, 1), (5000,) * 4, prior="gaussian", preprocess="whiten", batch=128),
    "nice-cifar10": _nice((32, 32, 3), (2000,) * 4, prior="logistic", preprocess="zca", batch=200),
    "nice-svhn": _nice((32, 32, 3), (2000,) * 4, prior="logistic", preprocess="zca", batch=200),
}


def find(name: str) -> Preset:
    """The preset of a name. ConfigError names the nearest one there is."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.0)[0]
        raise ConfigError(f"[preset] there is no preset {name!r}; did you mean {near}?")
    return PRESETS[name]


def choose(source: str, kind: str, shape: tuple[int, ...], model: str | None,
           preset: str | None = None) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """(name of the model, its settings, its training) for some data. model None: the default."""
    if preset is not None:
        found = find(preset)
        if model not in (None, found.model) or kind != "image":
            raise ConfigError(f"[preset] expected {found.model} and images for {preset}, "
                              f"got {model or found.model} and {kind}s")
        return found.model, dict(found.settings), dict(found.training)
    name = model or next(m for m, k in MODELS if k == kind)
    if (name, kind) not in MODELS:
        known = [m for m, k in MODELS if k == kind]
        raise ConfigError(f"[train] {name} is not a model of {kind}s; choose --model {' or '.join(known)}")
    settings, training = dict(MODELS[name, kind]), dict(TRAINING[kind])
    if name == "glow":
        settings["levels"] = _levels(*shape[:2])
    if source == "digits":
        settings["bits"] = 4
        if name == "glow":
            settings.update(DIGITS_MODEL)
            training = dict(DIGITS_TRAINING)
    return name, settings, training


def resolved(settings: Settings, usual: dict[str, Any], n: int, epochs: int | None, steps: int | None,
             validated: bool) -> tuple[Settings, int | None]:
    """Settings without "auto" for a training on n samples, and how many passes over them it makes at most.

    usual: what is taken for "auto", as in TRAINING. Batches are small for few rows of a table: with 256 of 1,000 rows
    most of a training was warm-up, and patience ended some in it. Of few samples more passes are made, up to
    `least_steps`. averaged: the share of the training by which an average may lag.
    """
    usual = {"schedule": "constant", "seed": 0, "batch_size": min(256, max(32, n // 30)), **usual}
    batch = int(usual["batch_size"] if settings.batch_size == "auto" else settings.batch_size)
    an_epoch = -(-n // batch)
    usual.setdefault("warmup", min(100, an_epoch))
    if epochs is None and steps is None:
        epochs = max(int(usual["epochs"]), -(-int(usual.get("least_steps", 0)) // an_epoch))
        epochs = epochs if validated else min(epochs, max(UNVALIDATED, int(usual["epochs"])))
    else:
        usual["patience"] = None  # a length that was asked for is kept
    if not validated:
        usual["patience"] = None
    planned = min([math.inf if steps is None else steps, math.inf if epochs is None else epochs * an_epoch])
    if "averaged" in usual:
        usual["average"] = round(min(max(0.0, 1 - 1 / (usual["averaged"] * max(planned, 1))), 0.999), 3)
    whole = settings.over({"patience": None, "clip": 0.0, "average": 0.0, "warmup": 0, **usual})
    return whole, epochs


def _levels(height: int, width: int) -> int:
    """Scales of a Glow for images of this size: as many as halve evenly, at most 3."""
    return next(levels for levels in (3, 2, 1) if levels == 1 or height % 2**levels == width % 2**levels == 0)
