"""What a person sees of a training: lines, or a bar on a terminal."""

import sys

import numpy as np
import pytest

from evenflow.cli import main
from evenflow.training.progress import Progress
from evenflow.training.presets import UNTIL_STOPPED


def test_a_bar_on_a_terminal(capsys, monkeypatch):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    progress = Progress(total=4, quiet=False, images=False)
    for step in range(1, 5):
        progress({"event": "step", "step": step, "epoch": 1, "samples": 50, "loss": 9.0})
    progress.close()
    last = capsys.readouterr().err.split("\r")[-1]
    assert "100%" in last and "4/4" in last and "rows/s" in last and "9.000 nats" in last


def test_a_training_that_stops_early_has_not_failed(capsys, monkeypatch):
    """A bar short of its end would be red in a notebook."""
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    progress = Progress(total=40, quiet=False, images=False)
    progress({"event": "step", "step": 1, "epoch": 1, "samples": 50, "loss": 9.0})
    progress.close(stopped=True)
    assert "stopped early: 100%" in capsys.readouterr().err.split("\r")[-1]


def test_lines_elsewhere(capsys):
    """The time left is that of a training that was resumed: it took 100 s for ten steps, and has ten to go."""
    progress = Progress(total=40, quiet=False, images=True)
    progress.printed -= 3  # the first line waits for a rate
    progress({"event": "step", "step": 21, "epoch": 3, "samples": 50, "loss": 9.0, "bits_per_dim": 2.0})
    assert capsys.readouterr().err.startswith("epoch 3, step 21 of 40: 2.000 bits/dim, ")
    progress.begun -= 100
    progress.printed -= 100
    progress({"event": "epoch", "step": 30, "epoch": 3, "loss": 9.0, "bits_per_dim": 2.0, "valid_loss": 11.0,
              "valid_bits_per_dim": 2.5})
    err = capsys.readouterr().err
    assert err.startswith("epoch 3, step 30 of 40: 2.000 bits/dim, valid 2.500 bits/dim, 0.50 images/s, ")
    assert err.endswith(", 0:01:40 left\n")


@pytest.mark.parametrize("length, wanted", [
    (["--epochs", "2", "--steps", "10"], "; 8 steps, 4 an epoch"), (["--epochs", "5", "--steps", "10"], "; 10 steps"),
    (["--epochs", "2"], "; 8 steps"), (["--steps", "10"], "; 10 steps"),
    (["--epochs", str(UNTIL_STOPPED), "--steps", "10"], "; 10 steps")])
def test_what_is_about_to_be_done(tmp_path, capsys, length, wanted):
    """The steps are those of whichever length ends first."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((100, 2)))
    assert main(["train", str(tmp_path / "x.npy"), "--hidden", "4", "--couplings", "1", "--batch-size", "20", *length,
                 "--out", str(tmp_path / "run")]) == 0
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith("training CouplingFlow (") and "81 samples, 9 to validate, 10 to test" in first
    assert wanted in first
