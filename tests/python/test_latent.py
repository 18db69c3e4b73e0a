"""Functions on latents and inpainting: units, labels, seeds and blocks; test_commands.py has the rest."""

import numpy as np
import pytest
from raised import raises

import evenflow as ef
from evenflow import latent
from evenflow.inpaint import hidden_pixels, inpaint


@pytest.fixture
def conditional(images, glow):
    """A Glow of three classes that has learned to tell them apart."""
    flow = glow(classes=3)
    flow.fit(images[0], label=images[1], epochs=5, lr=1e-2)
    return flow


@pytest.mark.parametrize("bits", [4, 8])
def test_as_floats_takes_the_middle_of_levels(images, glow, bits):
    x = images[0]
    floats = latent.as_floats(glow(bits=bits), x)
    assert floats.dtype == np.float32 and np.array_equal(floats, x // 2**(8 - bits) + 0.5)


def test_redrawn_levels_depend_on_the_seed(images, glow):
    x, flow = images[0][:4], glow(levels=2)
    flow.init(images[0])
    one, two, other = (latent.reconstruct(flow, x, keep=1, rest="redraw", seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one, two) and np.abs(one - other).max() > 1


def test_redrawn_levels_are_of_the_label(images, glow):
    """Those of a sample of its class; the coarsest stays the image's."""
    x, labels, flow = images[0], np.full(4, 2), glow(levels=2, classes=3)
    flow.init(x)
    found, drawn = latent.reconstruct(flow, x[:4], keep=1, rest="redraw", seed=3, label=labels), flow.sample(4, seed=3, label=labels)
    z, fresh, kept = (flow.split_latent(flow.encode(y, label=labels)) for y in (found, drawn, latent.as_floats(flow, x[:4])))
    assert np.abs(z[0] - fresh[0]).max() < 1e-3 and np.abs(z[1] - kept[1]).max() < 1e-3


def test_enlarged_keeps_height_and_width_apart():
    flow = ef.Glow((4, 8, 1), levels=1, steps=1, hidden=4)
    flow.init(np.random.default_rng(0).integers(0, 256, (20, 4, 8, 1), np.uint8))
    large = latent.enlarged(flow, 2)
    assert large.shape == (8, 16, 1) and large.sample(1).shape == (1, 8, 16, 1)


def test_interpolation_has_a_label_a_pair(images, conditional):
    x, labels = images[0], np.array([0, 2])
    both = latent.interpolate(conditional, x[:2], x[2:4], steps=3, label=labels)
    for i in range(2):
        alone = latent.interpolate(conditional, x[i:i + 1], x[i + 2:i + 3], steps=3, label=labels[i:i + 1])
        assert np.abs(both[i] - alone[0]).max() < 1e-3
        assert np.abs(both[i][[0, 2]] - latent.as_floats(conditional, x[[i, i + 2]])).max() < 1e-2


def test_attribute_in_blocks_is_the_same(images, model, block_of):
    x, labels = images
    whole = latent.attribute(model, x, labels == 1)
    block_of(7 * 32)
    np.testing.assert_allclose(latent.attribute(model, x, labels == 1), whole, atol=1e-6)
    bad = x.astype(np.float32)
    bad[60, 0, 0, 0] = np.nan
    for call in (lambda: latent.attribute(model, bad, labels == 1), lambda: latent.project(model, bad, whole)):
        with raises(ef.NumericError, argument="x", row=60):
            call()


def test_inpainting_depends_on_seed_label_and_noise(images, conditional):
    x, hidden = images[0][:4], hidden_pixels("top", 4, 4)
    found = inpaint(conditional, x, hidden, steps=5, label=0)
    assert np.array_equal(found, inpaint(conditional, x, hidden, steps=5, label=0))
    others = [inpaint(conditional, x, hidden, steps=5, label=0, seed=1),
              inpaint(conditional, x, hidden, steps=5, label=2),
              inpaint(conditional, x.astype(np.float32), hidden, steps=5, label=0)]  # which get no noise
    assert not any(np.array_equal(found, other) for other in others)


def test_inpainting_takes_the_steps_of_its_formula(images, model):
    x, hidden, top = images[0][:2].astype(np.float32), hidden_pixels("left", 4, 4), 2.0**model.bits
    mask, rng = np.broadcast_to(hidden[..., None], x.shape), np.random.default_rng(5)
    guess = rng.random(x.shape)
    for i in range(12):
        rng.random(x.shape)  # the noise that uint8 pixels would get
        gradient = model.log_prob_and_grad(np.where(mask, guess * top, x))[1]
        push = np.clip(top * gradient / 100, -1, 1)
        guess = np.clip(guess + 10 / (100 + i) * (push + rng.standard_normal(x.shape)), 0, 1)
    found = inpaint(model, x, hidden, steps=12, seed=5)
    np.testing.assert_allclose(found, np.where(mask, guess * top, x), atol=0.05)
