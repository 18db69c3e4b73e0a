"""What must be true of a density model, whatever it has learned."""

import json
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import evenflow as ef
from plain import plain_table


@pytest.fixture(scope="module")
def moons():
    """A trained 2-D model and its data."""
    rng = np.random.default_rng(0)
    angle, side = rng.uniform(0, np.pi, 2000), rng.integers(0, 2, 2000)
    x = np.stack([np.where(side, np.cos(angle), 1 - np.cos(angle)),
                  np.where(side, np.sin(angle), 0.5 - np.sin(angle))], 1) + 0.1 * rng.standard_normal((2000, 2))
    flow = plain_table(2, couplings=6, hidden=(32, 32), seed=0)
    flow.init(x)
    flow.fit(x, epochs=20, batch_size=128, optimizer="adam", lr=2e-3, seed=0)
    return flow, x


@pytest.fixture(scope="module")
def trained_glow():
    """A Glow after some steps on the digits, and the digits."""
    digits = ef.data.load("digits")
    flow = ef.Glow((8, 8, 1), levels=2, steps=4, hidden=16, bits=4, seed=0)
    flow.fit(digits.train[:500], epochs=4, batch_size=50, optimizer="adamax", lr=5e-3, seed=0, settings=ef.Settings(warmup=10))
    return flow, digits.test


def log_prob_on_a_grid(flow):
    """Of points of the plane around the moons, and the area that each stands for."""
    axis = np.linspace(-5, 6, 1200)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    return flow.log_prob(grid), (axis[1] - axis[0]) ** 2


def test_trained_density_integrates_to_one(moons):
    flow, x = moons
    assert flow.log_prob(x).mean() > -1.6  # it has learned: a Gaussian fit gives -2.1
    log_prob, area = log_prob_on_a_grid(flow)
    assert abs(np.exp(log_prob).sum() * area - 1) < 1e-3


def test_bits_per_dim_of_uniform_images():
    # A fresh NICE is the identity on [0, 1] but for nets of weights 0.01: with those at zero it is exactly that.
    flow = ef.NICE((8, 8, 1), couplings=2, hidden=(4,), prior="logistic", seed=0)
    flow.params[:] = 0
    x = np.random.default_rng(0).integers(0, 256, (4000, 8, 8, 1)).astype(np.uint8)
    flow.init(x[:10])
    _, logdet = flow.forward(x[:10])
    assert np.allclose(-logdet / (64 * math.log(2)), 8.0, atol=1e-6)  # the units alone: 8 bits
    # Coding uniform data by the base's density on [0, 1] costs 8 - E log2 p0(u) bits.
    u = (np.arange(100000) + 0.5) / 100000
    log_p0 = -(np.logaddexp(0, u) + np.logaddexp(0, -u))
    assert abs(flow.bits_per_dim(x).mean() - (8 - log_p0.mean() / math.log(2))) < 1e-3


def test_actnorm_outputs_are_standardised_after_init():
    x = np.random.default_rng(1).gamma(2.0, 3.0, (500, 5))
    flow = plain_table(5, couplings=1, hidden=(4,), preprocess="none", actnorm=True, dtype="float64")
    flow.init(x)  # the only coupling starts as the identity
    z = flow.encode(x)
    assert np.abs(z.mean(0)).max() < 1e-9
    assert np.abs(z.std(0) - 1).max() < 1e-5  # Glow's 1e-6 beside the standard deviation


def test_noise_is_of_every_bit_of_a_seed_and_of_a_rows_number(moons):
    flow, many = moons[0], 2**32
    rows = flow.sample(4, seed=5, first=many - 2)
    assert np.array_equal(rows[2:], flow.sample(2, seed=5, first=many))
    assert not np.array_equal(rows[2:], flow.sample(2, seed=5))
    assert not np.array_equal(flow.sample(2, seed=5 + many), flow.sample(2, seed=5))


def test_decoded_images_are_exact_after_training(trained_glow):
    flow, images = trained_glow
    assert np.array_equal(np.rint(flow.decode(flow.encode(images))), images >> 4)
    assert np.array_equal(flow.to_uint8(flow.decode(flow.encode(images))), images)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("hidden", [(64, 64), (136, 72), (30, 7), (1,), (520,)])
@pytest.mark.parametrize("dims", [2, 3, 16])
def test_the_density_of_a_row_does_not_depend_on_its_batch(dims, hidden, dtype):
    flow = plain_table(dims, couplings=3, hidden=hidden, dtype=dtype, seed=0)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((9, dims))
    flow.init(x)
    flow.params[:] += (0.1 * rng.standard_normal(flow.params.size)).astype(dtype)  # last layers start at zero
    assert np.array_equal(flow.log_prob(x), [flow.log_prob(row[None])[0] for row in x])


@pytest.mark.slow
def test_memory_of_a_step_is_flat_in_depth():
    """Without an activation budget, besides parameters, gradients and moments. Peaks of whole processes."""
    script = pathlib.Path(__file__).parents[2] / "bench" / "worker.py"
    shallow, deep = (json.loads(subprocess.run([sys.executable, script, f"glow_depth_{k}", "evenflow", "--calls",
                                                "step_rebuilding", "--seconds", "0"], check=True,
                                               capture_output=True, text=True).stdout) for k in (4, 16))
    assert deep["state_mb"] > 3.9 * shallow["state_mb"]
    besides = [result["peak_mb"]["step_rebuilding"] - result["state_mb"] for result in (shallow, deep)]
    assert abs(besides[1] / besides[0] - 1) < 0.02


def test_samples_of_a_trained_model_have_its_entropy(moons):
    flow, _ = moons
    log_prob, area = log_prob_on_a_grid(flow)
    drawn = flow.log_prob(flow.sample(20000, seed=1))
    error = drawn.std() / len(drawn) ** 0.5
    assert error < 0.01
    assert abs(drawn.mean() - (np.exp(log_prob) * log_prob).sum() * area) < 4 * error


def test_bfloat16_nets_keep_the_likelihood_the_inverse_and_the_file(tmp_path):
    images = ef.data.load("digits").train[:400]
    flows = {}
    for dtype in ("float32", "bfloat16"):
        flow = flows[dtype] = ef.Glow((8, 8, 1), levels=2, steps=4, hidden=32, bits=4, conditioner_dtype=dtype, seed=1)
        flow.fit(images, epochs=4, batch_size=50, optimizer="adamax", lr=2e-3, seed=0)
    bits = {dtype: flow.bits_per_dim(images, seed=0).mean() for dtype, flow in flows.items()}
    assert abs(bits["bfloat16"] - bits["float32"]) < 0.02
    half = flows["bfloat16"]
    assert half.loss_and_grad(images[:100]) and half.last_step["drift"] < 1e-3 and not half.last_step["fallback"]
    assert np.array_equal(np.rint(half.decode(half.encode(images))), images >> 4)
    half.save(tmp_path / "half.safetensors")
    again = ef.load(tmp_path / "half.safetensors")
    assert again.config["conditioner_dtype"] == "bfloat16"
    assert np.array_equal(again.log_prob(images[:20]), half.log_prob(images[:20]))
    assert not np.array_equal(again.log_prob(images[:20]), flows["float32"].log_prob(images[:20]))


@pytest.mark.parametrize("context", [0, 2])
def test_weights_of_a_residual_net_start_by_their_inputs(context):
    """As torch's linear layers do; but the last layer is zero, so that a coupling starts as the identity."""
    flow = plain_table(5, context=context, couplings=1, net="residual", hidden=(200,))
    for name, value in flow.named_parameters().items():
        if name.startswith("coupling0") and name.endswith("weight") and "dense_out" not in name and "dense1" not in name:
            assert np.abs(value).max() == pytest.approx(value.shape[-2]**-0.5, rel=0.1), name
        assert "dense_out" not in name or not value.any()
