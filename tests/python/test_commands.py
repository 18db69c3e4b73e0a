"""Commands on a trained model, and the functions behind them."""

import json

import numpy as np
import pytest
from raised import raises

import evenflow as ef
from evenflow import latent
from evenflow.cli import main
from evenflow.inpaint import MASKS, hidden_pixels, inpaint
from evenflow.score import p_values

DIGITS = ef.data.load("digits")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Small models of the digits and of a table of two columns, in one folder."""
    folder = tmp_path_factory.mktemp("runs")
    a = np.random.default_rng(0).standard_normal((2000, 2))
    rows = [f"{x},{x + 0.3 * y},{'p' if y > 0 else 'q'}" for x, y in a]
    (folder / "t.csv").write_text("\n".join(["a,b,kind", *rows]) + "\n")
    for name, data, options in (
            ("glow", "digits", ["--levels", "2", "--depth", "2", "--hidden", "16", "--epochs", "5"]),
            ("classes", "digits", ["--levels", "1", "--depth", "1", "--hidden", "8", "--epochs", "2",
                                   "--conditional"]),
            ("nice", "digits", ["--model", "nice", "--hidden", "64", "--epochs", "15", "--lr", "0.05",
                                "--average", "0"]),
            ("realnvp", "digits", ["--model", "realnvp", "--base-dim", "4", "--residual-blocks", "1",
                                   "--steps", "100", "--lr", "0.02", "--average", "0"]),
            ("table", str(folder / "t.csv"), ["--columns", "a", "b", "--hidden", "16", "--epochs", "5"])):
        assert main(["train", data, *options, "--quiet", "--json", "--out", str(folder / name)]) == 0
    return folder


def model(runs, name):
    return ef.load(runs / name / "model.safetensors")


def result(capsys, *arguments):
    """What a command that must succeed prints with --json."""
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)


def picture(path):
    with pytest.importorskip("PIL.Image").open(path) as image:
        return np.asarray(image)


# encode, decode, sample

def test_encode_and_decode_give_the_data_back(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("evenflow._border.files.ARRAY_VALUES", 100 * 64)
    np.save(tmp_path / "x.npy", DIGITS.test)
    z, out = tmp_path / "z.npy", tmp_path / "out.npy"
    assert result(capsys, "encode", runs / "glow", tmp_path / "x.npy", "--out", z)["n"] == 297
    assert np.array_equal(np.load(z), model(runs, "glow").encode(DIGITS.test))
    result(capsys, "decode", runs / "glow", z, "--out", out)
    assert np.array_equal(np.floor(np.load(out) + 1 / 1024), DIGITS.test // 16)
    z = tmp_path / "z.csv"
    result(capsys, "encode", runs / "table", runs / "t.csv", "--out", z)
    assert ef.data.load(z).columns == ["z0", "z1"]
    assert result(capsys, "decode", runs / "table", z, "--out", tmp_path / "out.csv")["n"] == 2000
    back, table = (ef.data.load(p, columns=["a", "b"]) for p in (tmp_path / "out.csv", runs / "t.csv"))
    assert np.abs(back.train - table.train).max() < 1e-4


def test_latents_keep_the_labels_of_a_conditional_model(runs, tmp_path, capsys):
    z = tmp_path / "z.npz"
    result(capsys, "encode", runs / "classes", "--out", z)
    with np.load(z) as file:
        assert file["z"].shape == (297, 64) and np.array_equal(file["labels"], DIGITS.test_labels)
        np.save(tmp_path / "bare.npy", file["z"][:3])
    result(capsys, "decode", runs / "classes", z, "--out", tmp_path / "out.npy")
    decoded = np.load(tmp_path / "out.npy")
    assert np.array_equal(np.floor(decoded + 1 / 1024), DIGITS.test // 16)
    result(capsys, "decode", runs / "classes", z, "--label", 3, "--out", tmp_path / "out.npy")
    assert np.array_equal(np.load(tmp_path / "out.npy"), decoded)
    assert main(["decode", str(runs / "classes"), str(tmp_path / "bare.npy")]) == 2
    assert "label" in capsys.readouterr().err
    result(capsys, "decode", runs / "classes", tmp_path / "bare.npy", "--label", "3", "--out",
           tmp_path / "o.png")
    assert {p.name for p in tmp_path.iterdir()} == {"z.npz", "bare.npy", "out.npy", "o.png"}


def test_sample_in_pieces_files_and_larger(runs, tmp_path, capsys, monkeypatch):
    whole = model(runs, "classes").sample(25, temperature=0.5, seed=3, label=np.arange(25) % 10)
    monkeypatch.setattr("evenflow.density.BLOCK_VALUES", 7 * 64)
    options = ["--n", 25, "--seed", 3, "--temperature", 0.5]
    result(capsys, "sample", runs / "classes", *options, "--out", tmp_path / "s.npy")
    assert np.array_equal(np.load(tmp_path / "s.npy"), whole)
    result(capsys, "sample", runs / "classes", *options, "--out", tmp_path / "single")
    files = sorted((tmp_path / "single").iterdir())
    assert [f.name for f in files] == [f"{i:06d}.png" for i in range(25)]
    assert np.array_equal(picture(files[11]), ef.to_uint8(whole, 4)[11, :, :, 0])
    result(capsys, "sample", runs / "table", "--n", 9, "--out", tmp_path / "s.csv")
    assert ef.data.load(tmp_path / "s.csv").columns == ["a", "b"]
    result(capsys, "sample", runs / "realnvp", "--enlarge", 2, "--n", 4, "--out", tmp_path / "large.npy")
    assert np.load(tmp_path / "large.npy").shape == (4, 16, 16, 1)


def test_enlarged_has_the_same_parameters(runs):
    flow = model(runs, "glow")
    large = latent.enlarged(flow, 2)
    x = large.sample(3, seed=1)
    assert x.shape == (3, 16, 16, 1) and np.abs(large.decode(large.encode(x)) - x).max() < 1e-3
    same = latent.enlarged(flow, 1)
    assert np.array_equal(same.sample(3, seed=1), flow.sample(3, seed=1))
    for name in ("nice", "table"):
        with pytest.raises(ef.ConfigError):
            latent.enlarged(model(runs, name), 2)


def test_columns_go_by_their_names(runs, tmp_path, capsys):
    """Trained without --columns; later files have them in another order, others between, and no classes."""
    a, b = (ef.data.load(runs / "t.csv", columns=[name]).train[:, 0] for name in "ab")
    (tmp_path / "t.csv").write_text("\n".join(['"x, in m",b,kind', *(f"{x},{y},p" for x, y in zip(a, b))]))
    (tmp_path / "other.csv").write_text("\n".join(['b,note,"x, in m"',
                                                   *(f"{y},?,{x}" for x, y in zip(a[:50], b))]))
    run, options = tmp_path / "run", ["--couplings", "2", "--hidden", "8", "--steps", "20", "--quiet"]
    result(capsys, "train", tmp_path / "t.csv", "--label", "kind", *options, "--out", run)
    flow, x = ef.load(run / "model.safetensors"), np.stack([a, b], axis=1)[:50]
    for model in (run, run / "model.safetensors"):
        result(capsys, "score", model, tmp_path / "other.csv", "--out", tmp_path / "s.npy")
        assert np.array_equal(np.load(tmp_path / "s.npy"), flow.log_prob(x))
        out = result(capsys, "eval", model, tmp_path / "other.csv")
        assert out["log_likelihood"] == pytest.approx(flow.log_prob(x).mean())
        result(capsys, "sample", model, "--n", 9, "--out", tmp_path / "s.csv")
        samples = ef.data.load(tmp_path / "s.csv")
        assert samples.columns == ["x, in m", "b"]
        assert np.array_equal(samples.train.astype(np.float32), flow.sample(9, seed=0))
        assert main(["info", str(model)]) == 0
        assert "columns: x, in m, b" in capsys.readouterr().out
    np.savetxt(tmp_path / "no names.csv", x, delimiter=",")  # taken by position
    result(capsys, "score", run / "model.safetensors", tmp_path / "no names.csv", "--out", tmp_path / "s.npy")
    assert np.array_equal(np.load(tmp_path / "s.npy"), flow.log_prob(x))
    # Columns without names stay without.
    np.savetxt(tmp_path / "bare.csv", x, delimiter=",")
    result(capsys, "train", tmp_path / "bare.csv", *options, "--out", run, "--force")
    result(capsys, "sample", run, "--n", 9, "--out", tmp_path / "s.csv")
    assert len(ef.data.load(tmp_path / "s.csv").train) == 9
    result(capsys, "score", run, tmp_path / "s.csv", "--out", tmp_path / "s.npy")


# reconstruct, interpolate, edit

def test_reconstruct(runs, tmp_path, capsys):
    out = result(capsys, "reconstruct", runs / "realnvp", "--n", 5, "--out", tmp_path / "r.png")
    assert out["reconstructions"][0]["worst_error"] < 1e-3
    canvas = picture(tmp_path / "r.png")
    assert canvas.shape == (17 * 22, 44 * 22)
    assert np.array_equal(canvas[:8 * 22], canvas[9 * 22:]) and canvas[:8 * 22].any()
    out = result(capsys, "reconstruct", runs / "realnvp", "--keep", 1, 2, "--out", tmp_path / "r.npy")
    errors = [r["worst_error"] for r in out["reconstructions"]]
    assert errors[0] > 0.1 and errors[1] < 1e-3
    assert np.load(tmp_path / "r.npy").shape == (3, 10, 8, 8, 1)
    assert result(capsys, "reconstruct", runs / "table", "--out", tmp_path / "r.npy")[
        "reconstructions"][0]["worst_error"] < 1e-4


def test_reconstruct_keeps_the_coarse_levels(runs):
    flow, x = model(runs, "glow"), DIGITS.test[:6]
    fine, coarse = flow.split_latent(flow.encode(latent.as_floats(flow, x)))
    for rest in ("zero", "redraw"):
        z = flow.split_latent(flow.encode(latent.reconstruct(flow, x, keep=1, rest=rest, seed=2)))
        assert np.abs(z[1] - coarse).max() < 1e-3
        assert np.abs(z[0] - fine).max() > 0.1 and (np.abs(z[0]).max() < 1e-3) == (rest == "zero")
    with raises(ef.ConfigError, argument="keep"):
        latent.reconstruct(flow, x, keep=3)


def test_interpolate(runs, tmp_path, capsys):
    flow, x = model(runs, "glow"), DIGITS.test[:4]
    result(capsys, "interpolate", runs / "glow", "--rows", 0, 1, 2, 3, "--steps", 5, "--out",
           tmp_path / "i.npy")
    line = np.load(tmp_path / "i.npy")
    assert line.shape == (2, 5, 8, 8, 1)
    ends = latent.as_floats(flow, x)
    assert np.abs(line[:, 0] - ends[0::2]).max() < 1e-3 and np.abs(line[:, -1] - ends[1::2]).max() < 1e-3
    z = flow.encode(ends)
    assert np.abs(flow.encode(line[1])[1] - (0.75 * z[2] + 0.25 * z[3])).max() < 1e-3
    result(capsys, "interpolate", runs / "glow", "--out", tmp_path / "i.png")
    assert picture(tmp_path / "i.png").shape == (35 * 12, 80 * 12)


def test_edit(runs, tmp_path, capsys):
    flow = model(runs, "glow")
    out = result(capsys, "edit", runs / "glow", "--positive", 0, "--negative", 6, "--rows", 3, 5,
                 "--strengths", 0, 0.5, "--out", tmp_path / "e.npy")
    assert (out["positive"], out["negative"]) == tuple((DIGITS.train_labels == k).sum() for k in (0, 6))
    direction = latent.attribute(flow, DIGITS.train, DIGITS.train_labels == 0, DIGITS.train_labels == 6)
    z = flow.encode(latent.as_floats(flow, DIGITS.train))
    means = [z[DIGITS.train_labels == k].mean(axis=0) for k in (0, 6)]
    assert np.abs(direction - (means[0] - means[1])).max() < 1e-4
    assert out["length"] == pytest.approx(np.linalg.norm(direction), rel=1e-5)
    x, edited = latent.as_floats(flow, DIGITS.test[[3, 5]]), np.load(tmp_path / "e.npy")
    assert edited.shape == (2, 2, 8, 8, 1) and np.abs(edited[:, 0] - x).max() < 1e-3
    moved = flow.encode(edited[:, 1]) - flow.encode(x)
    assert np.abs(moved - 0.5 * direction).max() < 1e-3
    result(capsys, "edit", runs / "glow", "--positive", 0, "--negative", 6, "--n", 2, "--strengths", 0,
           "--out", tmp_path / "six.npy")
    sixes = latent.as_floats(flow, DIGITS.test[DIGITS.test_labels == 6][:2])
    assert np.abs(np.load(tmp_path / "six.npy")[:, 0] - sixes).max() < 1e-3
    shares = z[:9].astype(float) @ direction / (direction @ direction)
    np.testing.assert_allclose(latent.project(flow, DIGITS.train[:9], direction), shares, atol=1e-6)
    assert np.abs(latent.project(flow, edited[:, 1], direction)
                  - latent.project(flow, x, direction) - 0.5).max() < 1e-4
    for error, call in ((ef.ConfigError, lambda: latent.project(flow, x, np.zeros(64))),
                        (ef.ShapeError, lambda: latent.project(flow, x, direction[1:])),
                        (ef.ShapeError, lambda: latent.edit(flow, DIGITS.test[:1], direction, np.inf)),
                        (ef.NumericError, lambda: latent.edit(flow, DIGITS.test[:1], direction, [0, 1e36])),
                        (TypeError, lambda: latent.edit(flow, DIGITS.test[:1], None, [1.0]))):
        with pytest.raises(error):
            call()


# inpaint


@pytest.mark.parametrize("name", ["nice", "glow", "realnvp"])
def test_inpaint_finds_a_likelier_image(runs, name):
    flow, x, hidden = model(runs, name), DIGITS.test[:8], hidden_pixels("top", 8, 8)
    flow.grads[...] = 7
    params, grads = flow.params.copy(), flow.grads.copy()
    found = inpaint(flow, x, hidden, steps=300)
    assert np.array_equal(flow.params, params) and np.array_equal(flow.grads, grads)
    assert np.array_equal(found[:, 4:], x[:, 4:] // 16)
    assert found.min() >= 0 and found.max() <= 16
    noise = latent.as_floats(flow, x)
    noise[:, :4] = np.random.default_rng(0).uniform(0, 16, noise[:, :4].shape)
    found[:, 4:] += 0.5
    assert (flow.log_prob(found) - flow.log_prob(noise)).mean() > 15
    one = inpaint(flow, x, np.broadcast_to(hidden, (8, 8, 8)), steps=3, seed=1)
    assert np.array_equal(one, inpaint(flow, x, hidden, steps=3, seed=1))


def test_inpaint_command(runs, tmp_path, capsys):
    out = result(capsys, "inpaint", runs / "glow", "--mask", "all", "--n", 3, "--steps", 2, "--out",
                 tmp_path / "i.png")
    assert list(out["mean_error"]) == list(MASKS)
    assert picture(tmp_path / "i.png").shape == (188 * 5, 26 * 5)
    out = result(capsys, "inpaint", runs / "classes", "--n", 2, "--steps", 2, "--out", tmp_path / "i.npy")
    lines = np.load(tmp_path / "i.npy")
    assert lines.shape == (3, 2, 8, 8, 1) and (lines[1, :, :4] == 8).all()
    assert out["mean_error"] == {"top": pytest.approx(np.abs(lines[2] - lines[0])[:, :4].mean(), rel=1e-5)}
    with pytest.raises(ef.ConfigError):
        inpaint(model(runs, "glow"), DIGITS.test[:1], np.zeros((8, 8), bool))
    with pytest.raises(ef.ShapeError):
        inpaint(model(runs, "glow"), DIGITS.test[:1], np.zeros((8, 8)))


# score

def test_score_streams_the_same_numbers(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("evenflow._border.files.ARRAY_VALUES", 50 * 64)
    flow, out = model(runs, "glow"), tmp_path / "s.npy"
    np.save(tmp_path / "x.npy", DIGITS.test)
    numbers = result(capsys, "score", runs / "glow", tmp_path / "x.npy", "--seed", 5, "--out", out)
    wanted = flow.log_prob(DIGITS.test, seed=5)
    assert np.array_equal(np.load(out), wanted)
    assert numbers["n"] == 297 and numbers["mean"] == pytest.approx(wanted.mean())
    assert (numbers["min"], numbers["max"]) == (wanted.min(), wanted.max())
    result(capsys, "score", runs / "classes", "--out", out)
    wanted = model(runs, "classes").log_prob(DIGITS.test, label=DIGITS.test_labels)
    assert np.array_equal(np.load(out), wanted)
    monkeypatch.setattr("evenflow.data.table.BLOCK_CELLS", 64)
    result(capsys, "score", runs / "table", runs / "t.csv", "--out", tmp_path / "s.csv")
    scores, table = ef.data.load(tmp_path / "s.csv"), ef.data.load(runs / "t.csv", label="kind").train
    assert scores.columns == ["log_prob"]
    assert np.array_equal(scores.train[:, 0], model(runs, "table").log_prob(table))


def test_p_values():
    reference = np.arange(9.0)
    conformal, typicality = p_values([-1, 0, 4, 8, 100], reference)
    assert np.allclose(conformal, [0.1, 0.2, 0.6, 1.0, 1.0])
    assert np.allclose(typicality, [0.2, 0.4, 1.0, 0.4, 0.2])
    rng = np.random.default_rng(0)
    ours, theirs = rng.standard_normal(20000), rng.standard_normal(2000)
    for p in p_values(ours, theirs):
        for level in (0.05, 0.3):
            assert (p <= level).mean() == pytest.approx(level, abs=0.02)
    with pytest.raises(ef.NumericError):
        p_values([0.0, np.nan], reference)
    with pytest.raises(ef.ShapeError):
        p_values([0.0], [])


def test_score_with_reference(runs, tmp_path, capsys):
    flow, out = model(runs, "glow"), tmp_path / "s.csv"
    x = np.concatenate([np.zeros((4, 8, 8), np.uint8), DIGITS.train[:500, :, :, 0]])
    np.save(tmp_path / "x.npy", x)
    numbers = result(capsys, "score", runs / "glow", tmp_path / "x.npy", "--reference", "--seed", 5, "--out", out)
    scores = ef.data.load(out)
    assert scores.columns == ["log_prob", "conformal_p", "typicality_p"] and numbers["reference"] == 297
    wanted = p_values(flow.log_prob(x[..., None], seed=5), flow.log_prob(DIGITS.test, seed=5))
    assert np.array_equal(scores.train[:, 1:].T, wanted)
    assert (scores.train[:4, 1:] < 0.05).all() and (scores.train[4:, 1:].mean(axis=0) > 0.4).all()
    result(capsys, "score", runs / "glow", tmp_path / "x.npy", "--reference", "digits", "--seed", 5,
           "--out", tmp_path / "s.npy")
    assert np.array_equal(np.load(tmp_path / "s.npy"), scores.train)


# Bad input

@pytest.mark.parametrize("arguments, word", [
    (["encode", "glow", "--out", "z.txt"], ".npy, .npz or .csv"),
    (["encode", "glow", "nowhere.npy"], "nowhere.npy"),
    (["encode", "glow", "t.csv", "--columns", "a", "c"], "the columns are a, b, kind"),
    (["decode", "glow", "wide.npy"], "(N, 64)"),
    (["decode", "glow", "x.npz"], "an array z"),
    (["sample", "glow", "--n", "0"], "--n >= 1"),
    (["sample", "glow", "--out", "full"], "new folder"),
    (["sample", "nice", "--enlarge", "2"], "convolutional"),
    (["sample", "table", "--out", "s.png"], "for a table"),
    (["reconstruct", "glow", "--keep", "3"], "--keep <= 2"),
    (["reconstruct", "glow", "--n", "0"], "--n 0 asks for no samples"),
    (["interpolate", "glow", "--steps", "1"], "--steps >= 2"),
    (["edit", "glow", "--positive", "ten"], "out of 0, 1"),
    (["inpaint", "table"], "no pixels"),
    (["score", "table", "bad.csv", "--columns", "a"], "row 1, column 'a'"),
])
def test_bad_input(runs, tmp_path, capsys, monkeypatch, arguments, word):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_bytes((runs / "t.csv").read_bytes())
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n?,4\n")
    np.save("wide.npy", np.zeros((2, 65)))
    np.savez("x.npz", x=np.zeros((2, 64)))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    assert main([arguments[0], str(runs / arguments[1]), *arguments[2:]]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("evenflow: error: [") and word in captured.err and captured.out == ""
    assert captured.err.count("\n") == 1 and sorted(tmp_path.rglob("*")) == before


def test_a_failure_half_way_leaves_the_old_file(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("evenflow._border.files.ARRAY_VALUES", 2 * 100)
    x = np.zeros((1000, 2))
    x[777, 1] = 1e300
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "s.npy").write_text("old")
    assert main(["score", str(runs / "table"), str(tmp_path / "x.npy"), "--out",
                 str(tmp_path / "s.npy")]) == 2
    assert "got 1e+300 in row 777, column 'b'" in capsys.readouterr().err
    assert (tmp_path / "s.npy").read_text() == "old" and len(list(tmp_path.iterdir())) == 2
