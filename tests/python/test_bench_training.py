"""bench/gpu_training.py on the CPU, with a clock by which every step takes ten seconds."""

import argparse
import importlib
import json
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("PIL")

BENCH = pathlib.Path(__file__).parents[2] / "bench"
TRAIN = f"""
import itertools, sys
sys.path.insert(0, {str(BENCH)!r})
import gpu_training
gpu_training.clock = itertools.count(0, 10).__next__
"""
SMALL = ("--device", "cpu", "--steps", "1", "--hidden", "4", "--batch", "8", "--warmup", "3", "--held-out", "8")


@pytest.fixture
def data(tmp_path):
    """Images with an even gradient and some noise; an epoch is five steps."""
    rng = np.random.default_rng(0)
    images = 8 * np.arange(8)[:, None, None] + 6 * np.arange(8)[:, None] + rng.integers(0, 90, (50, 8, 8, 3))
    np.savez(tmp_path / "images.npz", train=images[:42].astype(np.uint8), test=images[42:].astype(np.uint8))
    return tmp_path / "images.npz"


def command(library, data, folder, *options):
    return [sys.executable, "-c", TRAIN + "gpu_training.main()", library, data, "--out", folder, *SMALL, *options]


def train(*given, status=0):
    done = subprocess.run(command(*given), capture_output=True, text=True, timeout=300)
    assert done.returncode == status, done.stderr
    return done.stderr


def results(folder, library):
    return json.loads((folder / f"training_{library}.json").read_text())


def test_two_commands_are_one_training(data, tmp_path):
    one, two, first = tmp_path / "one", tmp_path / "two", {}
    for library in ("evenflow", "torch"):
        train(library, data, one, "--minutes", "2")
        train(library, data, two, "--minutes", "1")
        assert results(two, library)["steps"] == 6
        train(library, data, two, "--minutes", "2", "--resume")
        whole, parts = results(one, library), results(two, library)
        assert whole.pop("resumed_at_step") == [] and parts.pop("resumed_at_step") == [6]
        assert whole == parts
        assert whole["steps"] == len(whole["curve"]) == 12 and whole["seconds"] == 120
        looks = whole["held_out"]["all"]
        assert [(look["seconds"], look["steps"]) for look in looks] == [(60, 6), (120, 12)]
        assert whole["held_out"]["last"] == looks[-1]
        assert whole["held_out"]["best"] == min(looks, key=lambda look: look["bits_per_dim"])
        assert looks[0]["bits_per_dim"] != looks[1]["bits_per_dim"]
        with np.load(one / f"training_{library}.npz") as a, np.load(two / f"training_{library}.npz") as b:
            assert set(a) == set(b)
            for name in set(a) - {"told"}:
                np.testing.assert_array_equal(a[name], b[name], err_msg=name)
        assert (one / f"training_{library}.png").read_bytes() == (two / f"training_{library}.png").read_bytes()
        assert whole["how"]["precision"] and whole["how"]["mode"] and whole["how"]["versions"][library]
        first[library] = whole["curve"][0][1]
    assert first["torch"] == pytest.approx(first["evenflow"], abs=1e-4)


def test_a_kill_leaves_what_there_is(data, tmp_path):
    file, end = tmp_path / "training_evenflow.json", time.monotonic() + 100
    with subprocess.Popen(command("evenflow", data, tmp_path, "--minutes", "1e9"), stdout=subprocess.DEVNULL) as run:
        try:
            looks = 0
            while looks < 3 and time.monotonic() < end:  # whenever it is read, it is whole
                looks = len(json.loads(file.read_text())["held_out"]["all"]) if file.exists() else 0
        finally:
            run.kill()
    left = results(tmp_path, "evenflow")
    assert len(left["held_out"]["all"]) >= 3 and left["steps"] >= 18 and "error" not in left
    minutes = left["seconds"] / 60 + 2  # the checkpoint may be a minute further
    train("evenflow", data, tmp_path, "--minutes", str(minutes), "--resume")
    assert results(tmp_path, "evenflow")["seconds"] == 60 * minutes


def test_an_error_of_one_library(tmp_path, monkeypatch):
    """It is in the results, with what there was before it; the other trains all the same."""
    failing = TRAIN + """
def step(self, x, seed, rate, good=gpu_training.OurTraining.step):
    if seed == 8:
        raise gpu_training.ef.NumericError("[a step] failed")
    return good(self, x, seed, rate)
gpu_training.OurTraining.step = step
gpu_training.main()
"""
    monkeypatch.syspath_prepend(BENCH)
    gpu = importlib.import_module("gpu")
    monkeypatch.setattr(gpu, "script", lambda name, *arguments: [sys.executable, "-c", failing, *arguments])
    options = argparse.Namespace(smoke=True, data=None, minutes=2, only=None, resume=False, out=None)
    assert gpu.train(options, str(tmp_path)) == {"evenflow": "exit status 1", "torch": "ok"}
    ours, torch = results(tmp_path, "evenflow"), results(tmp_path, "torch")
    assert ours["error"] == "NumericError: [a step] failed"
    assert len(ours["curve"]) == 8 and ours["held_out"]["last"]["steps"] == 6
    assert "error" not in torch and torch["steps"] == 12
    options = argparse.Namespace(**{**vars(options), "only": "evenflow", "resume": True})
    assert gpu.train(options, str(tmp_path)) == {"evenflow": "exit status 1"}
    again = results(tmp_path, "evenflow")
    assert again.pop("resumed_at_step") == [6] and ours.pop("resumed_at_step") == [] and again == ours


@pytest.mark.parametrize("library", ["evenflow", "torch"])
def test_a_training_that_diverges(library, data, tmp_path):
    train(library, data, tmp_path, "--minutes", "2", "--lr", "1e20", status=1)
    assert results(tmp_path, library)["error"].startswith("NumericError: ")


def test_a_checkpoint_that_is_not_to_go_on(data, tmp_path):
    train("evenflow", data, tmp_path, "--minutes", "1")
    kept = {path: path.read_bytes() for path in tmp_path.glob("training_*")}
    assert "--resume goes on from it" in train("evenflow", data, tmp_path, status=1)
    assert "expected lr = 0.0005 as in" in train("evenflow", data, tmp_path, "--resume", "--lr", "1e-3", status=1)
    assert {path: path.read_bytes() for path in tmp_path.glob("training_*")} == kept and len(kept) == 3


def test_batches_depend_on_the_step_alone(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    batch = importlib.import_module("gpu_training").batch
    images = np.arange(10 * 2 * 4 * 1, dtype=np.uint8).reshape(10, 2, 4, 1)
    epochs = [np.concatenate([batch(images, 5, step) for step in steps]) for steps in ((0, 1), (2, 3))]
    for x in epochs:
        np.testing.assert_array_equal(np.sort(x.min((1, 2, 3))), images[:, 0, 0, 0])  # every image once
        flipped = x[:, 0, 0, 0] > x[:, 0, 3, 0]
        assert 0 < flipped.sum() < 10
        np.testing.assert_array_equal(x[flipped][:, :, ::-1], images[x[flipped].min((1, 2, 3)) // 8])
    assert (epochs[0] != epochs[1]).any()
    np.testing.assert_array_equal(batch(images, 5, 3), epochs[1][5:])
    np.testing.assert_array_equal(images.ravel(), np.arange(80))
