"""The papers' presets: sizes of their models, their training, and that each one takes a step."""

import dataclasses

import numpy as np
import pytest

from fits import fit

import evenflow as ef
from evenflow.training import presets
from evenflow.cli.train import MODELS
from evenflow.training.loop import Settings

# Millions of parameters of the authors' code.
MILLIONS = {"glow-cifar10": 44.6, "glow-imagenet32": 66.9, "glow-imagenet64": 112.4,
            "glow-celeba-hq-256": 175.1, "realnvp-cifar10": 19.6, "realnvp-imagenet32": 46.2,
            "realnvp-imagenet64": 96.4, "realnvp-celeba": 96.4, "realnvp-lsun": 96.4,
            "nice-mnist": 19.2, "nice-tfd": 346.2, "nice-cifar10": 72.6, "nice-svhn": 72.6}


SLOW = {"glow-celeba-hq-256", "glow-imagenet64", "realnvp-celeba", "realnvp-lsun"}
every = pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in MILLIONS])


def build(name, width, **more):
    """A preset's model with nets of another width, and the preset's own width."""
    preset = presets.find(name)
    key = "base_dim" if preset.model == "realnvp" else "hidden"
    own = preset.settings[key]
    wanted = (width,) * len(own) if isinstance(own, tuple) else width
    flow = MODELS[preset.model](preset.shape, **{**preset.settings, key: wanted, **more})
    return flow, own[0] if isinstance(own, tuple) else own


@every
def test_size(name):
    """The number of parameters is quadratic in the width: three narrow models tell that of the wide one."""
    counts, widths = {}, (1, 2, 4)
    for width in widths:
        flow, own = build(name, width)
        counts[width] = flow.num_params
    count = sum(n * np.prod([(own - b) / (a - b) for b in widths if b != a]) for a, n in counts.items())
    if name.startswith("glow"):
        # The code's learned prior is a 3x3 convolution of zeros and a border channel: weights that see only
        # zeros are not in ours.
        _, (_, _, channels) = flow._core.levels()[-1]
        count += 9 * (2 * channels)**2
    assert round(count / 1e6, 1) == MILLIONS[name]


@every
def test_takes_a_step(name):
    preset = presets.find(name)
    # A covariance of a few images is singular.
    flow, _ = build(name, 2, **({"preprocess": "none"} if preset.model == "nice" else {}))
    known = {field.name for field in dataclasses.fields(Settings)}
    training = {k: v for k, v in preset.training.items() if k in known}
    assert set(preset.training) - set(training) <= {"epochs", "temperature", "sample_every"}
    x = np.random.default_rng(0).integers(0, 256, (3, *preset.shape), np.uint8)
    seen = []
    fit(flow, x, steps=1, callback=seen.append, **{**training, "batch_size": 2})
    assert 0 < seen[0]["bits_per_dim"] < 20
    assert seen[0]["lr"] == pytest.approx(preset.training["lr"] / max(1, training.get("warmup", 0)))


def test_glow_counts_like_its_code():
    """50,000 images an epoch counted at 32x32, 64 a worker: 98 steps, or 20 with 40 workers."""
    small, large = (presets.find(f"glow-{n}").training for n in ("imagenet64", "celeba-hq-256"))
    assert (small["batch_size"], large["batch_size"]) == (16 * 8, 1 * 40)
    assert (small["init_batch"], large["init_batch"]) == (64, 4)
    assert small["optimizer_options"]["beta2"] == pytest.approx(1 - 1 / 98)
    assert large["optimizer_options"]["beta2"] == pytest.approx(1 - 1 / 20)
    assert (small["warmup"], large["warmup"]) == (977, 196)


def test_real_nvp_regularises_the_scales():
    """The gradient of 5e-5 |g|^2 is 1e-4 g, and reaches exactly the scales that the code names."""
    flow, _ = build("realnvp-cifar10", 2)
    flow.init(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8))
    before = {name: value.copy() for name, value in flow.named_parameters().items()}
    flow.zero_grad()
    ef.SGD(flow, lr=1.0, weight_decay=1e-4).step()
    after = flow.named_parameters()
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved and all("magnitude" in name for name in moved)
    for name in moved:
        np.testing.assert_allclose(after[name], before[name] * (1 - 1e-4), rtol=1e-6)
    decayed = {name for name, _, group, _, _ in flow.entries() if group == "decay"}
    assert all("magnitude" in name or "gain" in name for name in decayed)


def test_an_average_of_images_looks_back_over_a_share_of_the_training():
    averages = [presets.resolved(Settings(), presets.TRAINING["image"], 640, None, steps, True)[0].average
                for steps in (0, 10, 200, 2000, 10**6)]
    assert averages == [0.0, 0.0, 0.9, 0.99, 0.999]
