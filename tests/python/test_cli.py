"""The command line: what it trains, prints and returns; what it says of wrong input."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import evenflow as ef
from evenflow.cli import main
from evenflow.cli.common import flag
from evenflow.cli.options import KEYS

SMALL = ["--levels", "1", "--depth", "1", "--hidden", "8", "--batch-size", "100", "--quiet"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["train", "digits", *SMALL, "--epochs", "2", "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def csv(tmp_path):
    rng = np.random.default_rng(0)
    a = rng.standard_normal((300, 2))
    rows = [f"{x},{x + y},{'p' if y > 0 else 'q'}" for x, y in a]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,kind", *rows]))
    return tmp_path / "t.csv"


def answer(capsys, *arguments):
    """What a command that must succeed prints with --json."""
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# What commands do

def test_train_and_eval(run, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert {p.name for p in run.iterdir()} == {"config.toml", "log.jsonl", "model.safetensors",
                                               "model.state.safetensors", "samples.png", "curve.png"}
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [r["event"] for r in log] == ["start", "epoch", "epoch", "end"]
    assert log[0]["settings"]["batch_size"] == 100 and log[-1]["n"] == 297
    flow, digits = ef.load(run / "model.safetensors"), ef.data.load("digits")
    assert flow.config["bits"] == 4 and flow.config["steps"] == 1
    bits = flow.bits_per_dim(digits.test)
    result = answer(capsys, "eval", run)
    for name in ("bits_per_dim", "log_likelihood_error"):
        assert result[name] == log[-1][name]
    assert result["bits_per_dim"] == pytest.approx(bits.mean(), rel=1e-12)
    error = bits.std(ddof=1) / np.sqrt(297)
    assert result["bits_per_dim_error"] == pytest.approx(error)
    assert result["log_likelihood_error"] == pytest.approx(64 * np.log(2) * error)
    np.save(tmp_path / "x.npy", digits.test[:50])
    assert answer(capsys, "eval", run / "model.safetensors", tmp_path / "x.npy")["n"] == 50
    np.save(tmp_path / "x.npy", digits.test[:1])  # which tells nothing of the spread
    result = answer(capsys, "eval", run, tmp_path / "x.npy")
    assert result["log_likelihood_error"] is None
    assert main(["eval", str(run), str(tmp_path / "x.npy")]) == 0
    assert capsys.readouterr().out == (f"held-out bits a dimension: {result['bits_per_dim']:.4f} (lower is better), "
                                       "over 1 images; uniform noise has 4\n")
    with pytest.importorskip("PIL.Image").open(run / "samples.png") as picture:
        assert picture.size == (11 * 89, 11 * 89)


def test_sample_info_verify(run, tmp_path, capsys):
    flow, out = ef.load(run / "model.safetensors"), tmp_path / "s.npy"
    assert main(["sample", str(run), "--n", "5", "--seed", "3", "--temperature", "0.5", "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert np.array_equal(np.load(out), flow.sample(5, temperature=0.5, seed=3))
    result = answer(capsys, "info", run, "--tensors")
    assert result["config"] == flow.config and result["parameters"] == flow.num_params
    assert list(result["tensors"]) == list(flow.named_parameters())
    assert main(["info", str(run)]) == 0
    assert "Glow" in capsys.readouterr().out
    result, digits = answer(capsys, "verify", run, "--seed", "3"), ef.data.load("digits")
    assert result["ok"] is True
    assert result["round_trip_z"] == flow.verify(digits.test, seed=3).round_trip_z


def test_table(csv, tmp_path, capsys):
    out = str(tmp_path / "run")
    # The largest seed: the validation data are split by the next one.
    result = answer(capsys, "train", csv, "--label", "kind", "--epochs", "2", "--hidden", "8", "8", "--couplings", "2",
                    "--seed", 2**63 - 1, "--out", out, "--quiet")
    assert result["n"] == 30 and "bits_per_dim" not in result
    assert answer(capsys, "eval", out)["log_likelihood"] == result["log_likelihood"]
    whole = ef.data.load(csv, label="kind").split(0.1, 2**63 - 1)
    x, test = whole.train.astype(float), whole.test.astype(float)
    variance = x.var(axis=0)
    gaussian = -0.5 * ((test - x.mean(axis=0))**2 / variance + np.log(2 * np.pi * variance)).sum(axis=1)
    assert result["log_likelihood_baseline"] == pytest.approx(gaussian.mean())
    assert main(["train", str(csv), "--columns", "b", "a", "--epochs", "1", "--model", "nice",
                 "--hidden", "8", "--out", out, "--force", "--quiet"]) == 0
    assert ef.load(os.path.join(out, "model.safetensors")).shape == (2,)


def test_conditional(tmp_path, capsys):
    out = str(tmp_path / "run")
    assert main(["train", "digits", *SMALL, "--epochs", "1", "--conditional", "--out", out]) == 0
    assert main(["sample", out, "--n", "4", "--label", "7", "--out", str(tmp_path / "s.png")]) == 0
    assert main(["sample", out, "--label", "ten", "--out", str(tmp_path / "s.png")]) == 2
    assert "out of 0, 1, 2" in capsys.readouterr().err
    assert main(["eval", out]) == 0
    # A test part without labels could not be tested on after the training: said before.
    x = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 1), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", train=x, test=x, train_labels=np.arange(30) % 3)
    assert main(["train", str(tmp_path / "x.npz"), "--conditional", "--out", str(tmp_path / "other")]) == 2
    assert "--conditional needs labels, and the test part has none" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_all_training_data(tmp_path, capsys):
    """--valid 0: nothing is held out, the last parameters are kept, and the test part is what it was."""
    rng = np.random.default_rng(0)
    train, test = rng.standard_normal((60, 2)), rng.standard_normal((7, 2))
    np.savez(tmp_path / "x.npz", train=train, test=test)
    out, alone = tmp_path / "run", tmp_path / "alone"
    base = ["train", str(tmp_path / "x.npz"), "--hidden", "8", "--couplings", "2", "--batch-size", "20",
            "--valid", "0", "--quiet"]
    assert answer(capsys, *base, "--out", out, "--epochs", "2")["n"] == 7
    assert main(["resume", str(out), "--epochs", "4", "--quiet"]) == 0
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    epochs = [r for r in log if r["event"] == "epoch"]
    assert [r["step"] for r in epochs] == [3, 6, 9, 12] and not any("valid_loss" in r for r in epochs)
    assert main([*base, "--out", str(alone), "--epochs", "4"]) == 0
    assert (alone / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


# What a training says at its end

@pytest.mark.parametrize("data, options, code, words", [
    ("digits", ["--lr", "1000", "--epochs", "12"], 1, "failed: the training diverged: the model is worse than uniform"),
    ("noise.npy", ["--epochs", "40"], 0, "warning: the model is no better than uniform noise"),
    ("noise.npy", ["--epochs", "40", "--temperature", "4"], 0, "samples have pixels far outside of 0 ... 256;"),
    ("digits", ["--temperature", "40"], 3, "warning: the model fails its test: "),
    ("table.npy", ["--epochs", "30"], 0, "")])
def test_verdict(tmp_path, monkeypatch, capsys, data, options, code, words):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.save("noise.npy", rng.integers(0, 256, (300, 4, 4, 1), np.uint8))
    np.save("table.npy", rng.standard_normal((600, 3)).cumsum(axis=1)**3)
    small = SMALL if data != "table.npy" else ["--hidden", "16", "--couplings", "4", "--batch-size", "50", "--quiet"]
    assert main(["train", data, *small, *options, "--out", "run"]) == code
    captured = capsys.readouterr()
    told = "\n".join(line for line in captured.err.splitlines()
                     if "was not drawn" not in line and "[train] column" not in line)  # without matplotlib; of the data
    assert words in told and bool(words) == ("evenflow: " in told)
    assert "; uniform noise has " in captured.out or "; a Gaussian for each column has " in captured.out


def test_few_pictures_are_told_of_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("noise.npy", np.random.default_rng(0).integers(0, 256, (40, 4, 4, 1), np.uint8))
    told = []
    for options in ([], ["--flip"], ["--flip", "--bits", "5"]):
        assert main(["train", "noise.npy", *SMALL, *options, "--steps", "2", "--out", "run", "--force"]) == 0
        told.append(capsys.readouterr().err)
    assert ["--flip," in text for text in told] == [True, False, False]
    assert ["--bits 5" in text for text in told] == [True, False, False]
    assert main(["resume", "run", "--steps", "3"]) == 0 and "are few" not in capsys.readouterr().err


# Wrong input: one line in the command line's words, exit code 2, and nothing is left behind

@pytest.mark.parametrize("arguments, word", [
    (["train"], "name DATA"),
    (["train", "nowhere.npy"], "there is no file or folder nowhere.npy"),
    (["train", "digits", "--model", "realnvp", "--depth", "3"], "realnvp has no option --depth\n"),
    (["train", "CSV", "--label", "kind", "--conditional"], "--conditional is for images with labels; "),
    (["train", "digits", "--coupling", "spline"], "affine"),
    (["train", "digits", "--steps", "-3"], "--steps"),
    (["train", "digits", "--hidden", "8", "8"], "a whole number for --hidden, got [8, 8]"),
    (["train", "digits", "--preset", "glow-cifar"], "did you mean glow-cifar10?"),
    (["train", "CSV", "--columns", "a", "b", "--valid", "0"], "no test part"),
    (["train", "CSV"], "column 'kind'"),
    (["eval", "nowhere"], "nowhere"),
    (["resume", "nowhere"], "nowhere"),
    (["resume", "RUN", "--epochs", "-3"], "expected --epochs >= 0, got -3"),
    (["train", "digits", *SMALL, "--steps", "1", "--out", "RUN"], "already has a run"),
    (["train", "digits", *SMALL, "--steps", "1", "--out", "file/run"], "file/run"),
    (["info", "no\nfile"], "no\\nfile"),
    (["sample", "RUN", "--label", "3"], "the model has no classes"),
    (["train", "mixed.csv"], "mixed.csv, row 1, column 'b': 'x' is not a number"),
    (["train", "file"], "the name must end in"),
    (["sample", "RUN", "--out", "file/s.png"], "expected to write file/s.png"),
    (["resume", "damaged"], "expected a run in damaged"),
])
def test_bad_input(arguments, word, csv, run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mixed.csv").write_text("a,b\n1,2\n3,x\n")
    Path("file").touch()
    Path("damaged").mkdir()
    Path("damaged/log.jsonl").write_text("[" * 100000)
    before = sorted(tmp_path.rglob("*"))
    assert main([{"CSV": str(csv), "RUN": str(run)}.get(a, a) for a in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("evenflow: error: [") and word in captured.err and captured.out == ""
    assert captured.err.count("\n") == 1 and sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("arguments, word", [
    ([], "COMMAND"), (["fly"], "fly"), (["eval"], "MODEL"),
    (["train", "digits", "--epochs", "x"], "--epochs: invalid int value: 'x'"),
    (["train", "digits", "--learning-rate", "1"], "there is no option --learning-rate; did you mean --lr?"),
    (["train", "digits", "--batchsize=3"], "there is no option --batchsize; did you mean --batch-size?"),
    (["train", "digits", "--epoch", "3"], "did you mean --epochs?"),  # no abbreviation: a later option may have it too
    (["eval", "run", "data", "more"], "there is no place for more")])
def test_usage(arguments, word, capsys):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    err = capsys.readouterr().err
    assert exit.value.code == 2 and word in err and err.count("\n") == 1 and "--help" in err


@pytest.mark.parametrize("command", ["train", "resume", "eval", "sample", "info", "verify", "encode", "decode",
                                     "reconstruct", "interpolate", "edit", "inpaint", "score"])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as exit:
        main([command, "--help"])
    assert exit.value.code == 0 and f"example:\n  evenflow {command}" in capsys.readouterr().out


def test_the_help_of_train(monkeypatch, capsys):
    """A page of what people use, and all options; each that takes a value ends with its default."""
    monkeypatch.setenv("COLUMNS", "80")
    texts = []
    for which in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            main(["train", which])
        texts.append(capsys.readouterr().out)
    short, whole = texts
    assert short.count("\n") < 70 and "--momentum" not in short
    for key in KEYS[:-4]:  # but for DATA and those of every command
        assert flag(key) + " " in whole or flag(key) + "," in whole
    for text in texts:
        entries = re.findall(r"^  --[\w-]+(?: [A-Z]|, --no-).*\n(?:    .*\n)*", text, re.M)
        assert len(entries) > 20
        assert all(entry.endswith(")\n") for entry in entries)


# Where output goes

@pytest.mark.parametrize("shell, code, word", [
    ("> /dev/full", 2, "evenflow: error: [output] the result can't be written: [Errno 28] No space"),
    (">&-", 0, ""), ("> /dev/full 2>&1", 2, ""), (">&- 2>&-", 0, ""), ("| head -n 0; exit ${PIPESTATUS[0]}", 141, "")])
def test_output_that_can_not_be_written(run, shell, code, word):
    command = shlex.join([sys.executable, "-m", "evenflow", "info", str(run), "--tensors"])
    process = subprocess.run(["bash", "-c", f"{command} {shell}"], stderr=subprocess.PIPE, text=True, timeout=120,
                             env={name: v for name, v in os.environ.items() if name != "PYTHONUNBUFFERED"})
    assert process.returncode == code
    assert process.stderr.startswith(word) and process.stderr.count("\n") == (word != "")


@pytest.mark.parametrize("shell", ["2> /dev/full"])
def test_progress_that_can_not_be_written(tmp_path, shell):
    """Ends no training."""
    command = [sys.executable, "-m", "evenflow", "train", "digits", *SMALL[:-1], "--epochs", "40", "--out", "run"]
    process = subprocess.run(["bash", "-c", f"{shlex.join(command)} {shell}"], cwd=tmp_path, timeout=120)
    assert process.returncode == 0
    log = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["event"] == "end" and json.loads(log[-1])["epochs"] == 40
