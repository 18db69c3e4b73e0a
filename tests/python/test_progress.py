"""What a person sees of a training: lines, or a bar on a terminal."""

import sys

import numpy as np
import pytest

from evenflow.cli import main
from evenflow.training.progress import Display, find_bar
from evenflow.training.presets import UNTIL_STOPPED


def test_a_bar_on_a_terminal(capsys, monkeypatch):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    display = Display(4, find_bar())
    for step in range(1, 5):
        display({"event": "step", "step": step, "epoch": 1, "samples": 50, "loss": 9.0})
    display.close()
    last = capsys.readouterr().err.split("\r")[-1]
    assert "100%" in last and "4/4" in last and "loss 9.000 nats a row" in last


def test_a_training_that_stops_early_has_not_failed(capsys, monkeypatch):
    """A bar short of its end would be red in a notebook."""
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    display = Display(40, find_bar())
    display({"event": "step", "step": 1, "epoch": 1, "samples": 50, "loss": 9.0})
    display.close(stopped=True)
    assert "stopped early: 100%" in capsys.readouterr().err.split("\r")[-1]


def test_lines_elsewhere(capsys, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr("evenflow.training.progress.time.monotonic", lambda: clock[0])
    display = Display(4000, None, lines=True)
    for step in (21, 22):  # the second one follows too soon
        display({"event": "step", "step": step, "epoch": 3, "loss": 9.0, "bits_per_dim": 2.0})
    for step, clock[0] in (30, 1090.0), (2021, 2000.0):
        display({"event": "epoch", "step": step, "epoch": 3, "loss": 9.0, "bits_per_dim": 2.0, "valid_loss": 11.0,
                 "valid_bits_per_dim": 2.5})
    display({"event": "step", "step": 2022, "epoch": 4, "loss": 9.0, "bits_per_dim": 1.9})
    display.close(stopped=True)  # the last line
    display.close()
    assert capsys.readouterr().err.splitlines() == [
        "epoch 3, step 21 of 4,000: loss 2.000 bits/dim",
        "epoch 3, step 30 of 4,000: loss 2.000, valid 2.500 bits/dim",
        "epoch 3, step 2,021 of 4,000: loss 2.000, valid 2.500 bits/dim",
        "epoch 4, step 2,022 of 4,000: loss 1.900, valid 2.500 bits/dim"]


def test_what_is_left_of_a_resumed_training(table, real_nvp, monkeypatch, tmp_path, capsys):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    for steps in (5, 12):
        flow = real_nvp()
        flow.fit(table, steps=steps, batch_size=50, checkpoint=tmp_path / "m.safetensors", resume=True)
    first, bar = capsys.readouterr().err.split("training on ")[2].split("\n", 1)
    assert first.endswith("; 7 of 12 steps are left") and "5/12" in bar and "12/12" in bar


@pytest.mark.parametrize("verbose", [False, True])
def test_a_callback_ends_a_training_that_shows_a_bar(table, real_nvp, verbose):
    pytest.importorskip("tqdm")
    assert real_nvp().fit(table, steps=9, verbose=verbose, callback=lambda r: r["step"] == 3)[-1]["step"] == 3


@pytest.mark.parametrize("length, wanted", [
    (["--epochs", "2", "--steps", "10"], "; 8 steps, 4 an epoch"), (["--epochs", "5", "--steps", "10"], "; 10 steps"),
    (["--epochs", "2"], "; 8 steps"), (["--steps", "10"], "; 10 steps"),
    (["--epochs", str(UNTIL_STOPPED), "--steps", "10"], "; 10 steps")])
def test_what_is_about_to_be_done(tmp_path, capsys, length, wanted):
    """The steps are those of whichever length ends first."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((100, 2)))
    assert main(["train", str(tmp_path / "x.npy"), "--hidden", "4", "--couplings", "1", "--batch-size", "20", *length,
                 "--out", str(tmp_path / "run")]) == 0
    few, first = capsys.readouterr().err.splitlines()[:2]
    assert "81 rows are few" in few and first.startswith("training CouplingFlow (") and "81 samples, 9 to validate, 10 to test" in first
    assert wanted in first
