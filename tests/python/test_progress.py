"""What a person sees of a training: lines, or a bar on a terminal."""

import os
import sys

import numpy as np
import pytest

from evenflow.cli import main
from evenflow.cli.progress import Progress, clock
from evenflow.presets import UNTIL_STOPPED


def test_plain_progress(capsys):
    progress = Progress(total=40, quiet=False, images=True)
    for step in range(21, 31):
        progress({"event": "step", "step": step, "epoch": 3, "samples": 50, "loss": 9.0, "bits_per_dim": 2.0})
    progress({"event": "epoch", "step": 30, "epoch": 3, "loss": 9.0, "bits_per_dim": 2.0, "valid_loss": 11.0,
              "valid_bits_per_dim": 2.5})
    err = capsys.readouterr().err
    assert err.startswith("epoch 3, step 30 of 40: train 2.000 bits/dim, valid 2.500 bits/dim, ")
    assert "images/s" in err and err.endswith("0:00 left\n") and err.count("\n") == 1
    assert [clock(s) for s in (0.4, 59.6, 3700)] == ["0:00", "1:00", "1:01:40"]


def test_bar(capsys, monkeypatch):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    progress = Progress(total=4, quiet=False, images=False)
    for step in range(1, 5):
        progress({"event": "step", "step": step, "epoch": 1, "samples": 50, "loss": 9.0})
    progress.close()
    last = capsys.readouterr().err.split("\r")[-1]
    assert "100%" in last and "4/4 steps" in last and "rows/s" in last and "9.000 nats" in last


def test_time_left(capsys):
    """Of a training that was resumed: it took 100 s for ten steps, and has ten to go."""
    progress = Progress(total=40, quiet=False, images=False)
    progress({"event": "step", "step": 21, "epoch": 3, "samples": 50, "loss": 9.0})
    progress.begun -= 100
    progress({"event": "epoch", "step": 30, "epoch": 3, "loss": 9.0})
    assert capsys.readouterr().err.endswith(", 1:40 left\n")


@pytest.mark.parametrize("length, wanted", [
    (["--epochs", "2", "--steps", "10"], "step 8 of 8"), (["--epochs", "5", "--steps", "10"], "step 4 of 10"),
    (["--epochs", "2"], "step 8 of 8"), (["--steps", "10"], "step 4 of 10"),
    (["--epochs", str(UNTIL_STOPPED), "--steps", "10"], "step 4 of 10")])
def test_the_steps_that_progress_counts_to(tmp_path, capsys, length, wanted):
    """Those of whichever length ends first; of four an epoch."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((100, 2)))
    assert main(["train", str(tmp_path / "x.npy"), "--hidden", "4", "--couplings", "1", "--batch-size", "20", *length,
                 "--out", str(tmp_path / "run")]) == 0
    assert wanted in capsys.readouterr().err


@pytest.mark.parametrize("size", [(0, 0), (80, 0), (0, 24)])
def test_a_bar_on_a_terminal_without_a_size(capsys, monkeypatch, size):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stderr, "fileno", lambda: 2, raising=False)
    monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size(size))
    progress = Progress(total=2, quiet=False, images=False)
    for step in (1, 2):
        progress({"event": "step", "step": step, "epoch": 1, "samples": 50, "loss": 9.0})
    progress.close()
    assert "2/2 steps" in capsys.readouterr().err
