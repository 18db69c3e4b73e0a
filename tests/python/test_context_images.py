"""Densities of images given numbers, p(x | c), with Glow and Real NVP. Against torch's arithmetic: test_oracle.py."""

import numpy as np
import pytest

import evenflow as ef
from evenflow.cli import main
from evenflow.runs.export import write_samples
from evenflow.inpaint import hidden_pixels, inpaint
from evenflow.latent import as_floats

MODELS = [("Glow", dict(levels=2, steps=2, hidden=6)),
          ("Glow", dict(levels=1, steps=2, hidden=6, coupling="additive", permutation="plain", learn_top=False)),
          ("RealNVP", dict(levels=2, base_dim=3, residual_blocks=1, batch_norm=True)),
          ("RealNVP", dict(levels=2, base_dim=3, residual_blocks=1, batch_norm=False, coupling="additive",
                           recursion=3))]


@pytest.fixture
def known():
    """x (40, 4, 8, 1) in levels and what it was drawn given, c (40, 2), columns of very different sizes."""
    rng = np.random.default_rng(4)
    c = rng.standard_normal((40, 2)) * [300.0, 0.1] + [5000.0, 0.0]
    light = 128 + 20 * (c[:, :1] - 5000) / 300 + rng.standard_normal((40, 32)) * 20
    return light.clip(1, 255).reshape(40, 4, 8, 1), c


def conditional(x, c, kind="Glow", settings=MODELS[0][1], **more):
    """A flow whose nets, unlike fresh ones, do something."""
    flow = getattr(ef, kind)(x.shape[1:], context=c.shape[1], **{"dtype": "float64", **settings, **more})
    flow.init(x, context=c)
    flow.params[:] += np.random.default_rng(7).normal(0, 0.05, flow.params.size)
    return flow


def digits_with_their_light(n=1000):
    """Digits, half of them in the negative, and which: (x (n, 8, 8, 1) uint8, c (n, 1))."""
    x = ef.data.load("digits").train[:n]
    c = np.random.default_rng(0).integers(0, 2, (n, 1))
    return np.where(c[:, :, None, None] == 1, 255 - x, x), c


@pytest.mark.slow
def test_learns_what_the_context_says():
    """Half of the digits are white on black, half black on white: the loss is below an unconditional model's."""
    x, c = digits_with_their_light()
    losses = []
    for given in (c, None):
        flow = ef.Glow((8, 8, 1), levels=2, steps=4, hidden=32, bits=4, context=0 if given is None else 1)
        history = flow.fit(x[:900], valid=dict(x=x[900:], context=None if given is None else given[900:]), epochs=6,
                           context=None if given is None else given[:900], batch_size=32, optimizer="adam", lr=2e-3)
        losses.append(history[-1]["valid_bits_per_dim"])
        if given is not None:
            dark, light = (flow.sample(100, context=[v], seed=1).mean() for v in (0, 1))
    assert losses[0] < losses[1] - 0.03, losses
    assert dark < 7 < 8 < light, (dark, light)


@pytest.mark.parametrize("model", [["glow", "--levels", "1", "--depth", "2", "--hidden", "8"],
                                   ["realnvp", "--base-dim", "4", "--residual-blocks", "1"]], ids=lambda m: m[0])
def test_command_line(tmp_path, capsys, model):
    """Arrays of an .npz: train, with a line of samples for each of ten contexts, then every command with a context."""
    Image = pytest.importorskip("PIL.Image")
    x, c = digits_with_their_light(120)
    np.savez(tmp_path / "d.npz", train=x[:100], test=x[100:], train_context=c[:100], test_context=c[100:])
    run = str(tmp_path / "run")
    assert main(["train", str(tmp_path / "d.npz"), "--model", *model, "--bits", "4", "--epochs", "3", "--lr", "0.01",
                 "--out", run]) == 0
    flow = ef.load(f"{run}/model.safetensors")
    assert flow.context == 1
    for name, value in (("dark", 0), ("light", 1)):
        write_samples(flow, 10, f"{run}/{name}.png", context=np.full((10, 1), value))
    found, *wanted = (np.asarray(Image.open(f"{run}/{name}.png")) for name in ("samples", "dark", "light"))
    equal = [(found == picture).all(axis=1) for picture in wanted]
    assert (equal[0] | equal[1]).all() and not equal[0].all() and not equal[1].all()
    alike = [str(row) for row in np.flatnonzero(c[100:, 0] == 1)[:4]]
    for command in (["eval", run], ["verify", run],
                    ["sample", run, "--n", "3", "--given", "1", "--out", f"{run}/s.png"],
                    ["encode", run, "--out", f"{run}/z.npz"], ["decode", run, f"{run}/z.npz", "--out", f"{run}/b.npy"],
                    ["score", run, str(tmp_path / "d.npz"), "--out", f"{run}/s.csv"],
                    ["reconstruct", run, "--out", f"{run}/r.png"],
                    ["interpolate", run, "--rows", *alike, "--out", f"{run}/i.png"],
                    ["inpaint", run, "--steps", "2", "--out", f"{run}/p.png"], ["info", run]):
        capsys.readouterr()
        assert main(command) == 0, (command, capsys.readouterr())


def test_inpainting(known):
    x, c = known
    flow, hidden = conditional(x, c), hidden_pixels("top", 4, 8)
    own = inpaint(flow, x[:4], hidden, steps=30, context=c[:4])
    first = inpaint(flow, x[:4], hidden, steps=30, context=c[0])
    np.testing.assert_allclose(first, inpaint(flow, x[:4], hidden, steps=30, context=c[[0] * 4]), atol=1e-9)
    changed = np.abs(own - first).max(axis=(1, 2, 3))
    assert changed[0] < 1e-9 and (changed[1:] > 1e-3).all()


@pytest.fixture
def of_images(known, tmp_path):
    """(a model file, images .npy without what they are given, images (40, 4, 8, 1) uint8, c (40, 2))."""
    x, c = known
    levels = x.astype(np.uint8)
    conditional(x, c).save(tmp_path / "m.safetensors")
    np.save(tmp_path / "x.npy", levels)
    return str(tmp_path / "m.safetensors"), str(tmp_path / "x.npy"), levels, c


def test_given_takes_a_context_out_of_an_archive(of_images, tmp_path, capsys):
    """Of its arrays test_context, context and train_context the first there is, with images beside it or alone."""
    model, _, x, c = of_images
    flow, out = ef.load(model), str(tmp_path / "s.npy")
    for arrays, rows in ((dict(train=x[:30], test=x[30:], train_context=c[:30], test_context=c[30:]), c[30:]),
                         (dict(context=c[:3], train_context=c[3:]), c[:3]), (dict(train_context=c[:4]), c[:4]),
                         (dict(context=c[:2], x=x[:5]), c[:2]), (dict(x=c[:5]), c[:5])):
        np.savez(tmp_path / "d.npz", **arrays)
        assert main(["sample", model, "--given", str(tmp_path / "d.npz"), "--n", "2", "--seed", "3", "--out", out]) == 0
        assert np.array_equal(np.load(out), flow.sample(2 * len(rows), seed=3, context=np.repeat(rows, 2, axis=0)))
    np.save(tmp_path / "z.npy", flow.encode(as_floats(flow, x[:5]), context=c[:5]))
    np.savez(tmp_path / "d.npz", context=c[:5])
    assert main(["decode", model, str(tmp_path / "z.npy"), "--given", str(tmp_path / "d.npz"), "--out", out]) == 0
    np.testing.assert_allclose(np.load(out), x[:5] + 0.5, atol=1e-6)
    for numbers in (c[:5, :1], c[0] > 0, np.array([None]), c[:4], np.repeat(c[:5], 2, axis=0)):
        np.savez(tmp_path / "d.npz", context=numbers)
        given = ["--given", str(tmp_path / "d.npz")]
        assert main(["decode", model, str(tmp_path / "z.npy"), *given, "--out", out]) == 2
