"""Functions on latents and inpainting: units, labels, seeds and blocks; test_commands.py has the rest."""

import numpy as np
import pytest

import evenflow as ef
from evenflow import latent
from evenflow.cli import main
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


def test_the_command_redraws_by_its_seed(tmp_path, images, glow):
    flow, paths = glow(levels=2), [str(tmp_path / name) for name in ("m.safetensors", "x.npy", "out.npy")]
    flow.init(images[0])
    flow.save(paths[0])
    np.save(paths[1], images[0][:3])
    for seed in (4, 5):
        options = ["--keep", "1", "--rest", "redraw", "--seed", str(seed), "--out", paths[2]]
        assert main(["reconstruct", *paths[:2], *options]) == 0
        wanted = latent.reconstruct(flow, images[0][:3], keep=1, rest="redraw", seed=seed)
        assert np.array_equal(np.load(paths[2])[1], wanted)


def test_enlarged_keeps_height_and_width_apart():
    flow = ef.Glow((4, 8, 1), levels=1, steps=1, hidden=4)
    flow.init(np.random.default_rng(0).integers(0, 256, (20, 4, 8, 1), np.uint8))
    large = latent.enlarged(flow, 2)
    assert large.shape == (8, 16, 1) and large.sample(1).shape == (1, 8, 16, 1)


def test_arguments_that_make_no_difference_are_checked(images, model):
    x = images[0][:4]
    for seed, error in ((None, TypeError), ("a", TypeError), (-1, ef.ConfigError), (2**64, ef.ConfigError)):
        with pytest.raises(error, match=r"\[reconstruct\] expected .*seed"):
            latent.reconstruct(model, x, seed=seed)
    for first, error in ((None, TypeError), (-1, ef.ConfigError)):
        with pytest.raises(error, match=r"\[data\] expected .*first"):
            latent.as_floats(model, x, first)


def test_interpolation_has_a_label_a_pair(images, conditional):
    x, labels = images[0], np.array([0, 2])
    both = latent.interpolate(conditional, x[:2], x[2:4], steps=3, label=labels)
    for i in range(2):
        alone = latent.interpolate(conditional, x[i:i + 1], x[i + 2:i + 3], steps=3, label=labels[i:i + 1])
        assert np.abs(both[i] - alone[0]).max() < 1e-3
        assert np.abs(both[i][[0, 2]] - latent.as_floats(conditional, x[[i, i + 2]])).max() < 1e-2


def test_steps_beyond_all_memory(images, model):
    x = images[0][:4]
    for steps in (2**20 + 1, 2**63 - 1):
        with pytest.raises(ef.ConfigError, match=rf"\[interpolate\] expected steps <= 1048576, got {steps}"):
            latent.interpolate(model, x[:2], x[2:], steps=steps)
        with pytest.raises(ef.ConfigError, match=rf"\[manifold\] expected steps <= 1048576, got {steps}"):
            latent.manifold(model, x, steps=steps)
    with pytest.raises(MemoryError, match=r"\[manifold\] expected memory for 1048576 x 1048576 samples, got:"):
        latent.manifold(model, x, steps=2**20)


def test_attribute_in_blocks_is_the_same(images, model, block_of):
    x, labels = images
    whole = latent.attribute(model, x, labels == 1)
    block_of(7 * 32)
    np.testing.assert_allclose(latent.attribute(model, x, labels == 1), whole, atol=1e-6)
    bad = x.astype(np.float32)
    bad[60, 0, 0, 0] = np.nan
    for call in (lambda: latent.attribute(model, bad, labels == 1), lambda: latent.project(model, bad, whole)):
        with pytest.raises(ef.NumericError, match="got nan in row 60,"):
            call()


def test_labels_go_with_their_blocks(images, conditional, block_of):
    x, labels = images
    bright = x[:, 0, 0, 0] > 40
    direction = latent.attribute(conditional, x, bright, label=labels)
    shares = latent.project(conditional, x, direction, label=labels)
    block_of(7 * 32)
    np.testing.assert_allclose(latent.attribute(conditional, x, bright, label=labels), direction, atol=1e-4)
    np.testing.assert_allclose(latent.project(conditional, x, direction, label=labels), shares, atol=1e-4)


def test_no_sample_left_to_edit(tmp_path, capsys, monkeypatch):
    """Where all have the attribute: said of the samples, since no rows were asked for."""
    monkeypatch.chdir(tmp_path)
    flow = ef.NICE((8, 8, 1), bits=4, hidden=(4,))
    flow.init(ef.data.load("digits").train)
    flow.save("m")
    command = ["edit", "m", "digits", "--positive", "0", "--negative", "0", "--out", "e.npy"]
    assert main(command) == 2
    assert "[edit] no sample of the test part is without the attribute" in capsys.readouterr().err
    assert main([*command, "--rows", "3"]) == 0


def test_projection_on_directions_of_any_length(table, real_nvp):
    flow = real_nvp(dtype="float64")
    flow.init(table)
    direction = np.array([1.0, -2.0, 0.5])
    wanted = latent.project(flow, table, direction)
    for length in (1e-200, 1e200):
        np.testing.assert_allclose(latent.project(flow, table, length * direction) * length, wanted, rtol=1e-12)
    with pytest.raises(ef.NumericError, match=r"\[project\] expected a direction long enough .* got .* 1e-310"):
        latent.project(flow, table, np.full(3, 1e-310))


@pytest.mark.parametrize("strengths, error, message", [
    ([0, 1e39], ef.NumericError, r"\[edit\] expected values that float32 can hold, got 1e\+39 in row 1"),
    ([np.nan], ef.NumericError, r"\[edit\] expected finite values, got nan in row 0"),
    (np.inf, ef.ShapeError, r"\[edit\] expected strengths as \(S,\), got \(\)"),
    ([], ef.ShapeError, r"\[edit\] expected strengths as \(S,\), got \(0,\)"),
    ([[1.0]], ef.ShapeError, r"\[edit\] expected strengths as \(S,\), got \(1, 1\)")])
def test_strengths_that_are_refused(images, model, strengths, error, message):
    with pytest.raises(error, match=message):
        latent.edit(model, images[0][:1], np.ones(32), strengths)


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


def test_masks_of_sides_that_are_no_multiple_of_four():
    assert hidden_pixels("rows", 6, 5).all(axis=1).tolist() == [False, True, True, True, True, False]
    assert hidden_pixels("columns", 6, 7).all(axis=0).tolist() == [False, True, True, True, True, True, False]
    assert np.array_equal(np.flatnonzero(hidden_pixels("odd", 2, 6)), [1, 3, 5, 7, 9, 11])
