"""Runs in a folder: what they hold, that they can be repeated, resumed, killed and stopped."""

import json
import os
import random
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import evenflow as ef
from evenflow.cli import main
from evenflow.runs import Run

SMALL = ["--levels", "1", "--depth", "1", "--hidden", "8", "--batch-size", "100", "--quiet"]


def records(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def model_bytes(folder):
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture
def table_file(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((300, 3)).cumsum(1))
    return str(tmp_path / "x.npy")


# Length, settings, data


def test_resume_with_other_settings_is_refused(tmp_path, table_file, capsys):
    """`train --resume` goes on with a run as it is: what it would leave out is an error."""
    out = tmp_path / "run"
    base = ["train", table_file, "--couplings", "2", "--quiet", "--out", str(out)]
    assert main([*base, "--steps", "2", "--lr", "1e-3"]) == 0
    again = [*base, "--resume", "--steps", "4"]
    assert main([*again, "--lr", "0.001", "--hidden", "64", "64", "--no-batch-norm", "--threads", "1"]) == 0
    assert main(["train", "--config", str(out / "config.toml"), "--out", str(out), "--resume", "--quiet"]) == 0
    capsys.readouterr()
    elsewhere = tmp_path / "elsewhere.npy"
    np.save(elsewhere, np.zeros((9, 3)))
    for options, word in ((["--lr", "0.5"], "expected --lr = 0.001 as in"), (["--beta1", "0.5"], "optimizer_options = {} as in"),
                          (["--hidden", "8"], "expected model --hidden = [64, 64] as in"),
                          (["--seed", "3"], "expected --seed = 0 as in"), (["--valid", "0.3"], "expected --valid = 0.1 as in"),
                          (["--columns", "a"], "for CSV and Parquet files")):
        assert main([*again, *options]) == 2
        assert word in capsys.readouterr().err
    assert main(["train", str(elsewhere), *again[2:]]) == 2
    assert f"{elsewhere}: expected the data that the run was trained on, {table_file}, got" in capsys.readouterr().err


def test_the_same_length_again_leaves_patience(tmp_path, table_file):
    """`train --resume` as a job that is started again and again: the end is that of a run without a stop."""
    whole, part = tmp_path / "whole", tmp_path / "part"
    base = ["train", table_file, "--couplings", "2", "--law", "affine", "--lr", "0.3", "--patience", "3", "--quiet", "--resume"]
    assert main([*base, "--epochs", "200", "--out", str(whole)]) == 0
    stopped = records(whole)[-1]["epochs"]
    assert 3 < stopped < 200
    assert main([*base, "--epochs", str(stopped - 1), "--out", str(part)]) == 0
    # As if it had been killed then: in the log's first line is the length that it was to have.
    log = (part / "log.jsonl").read_text()
    (part / "log.jsonl").write_text(log.replace(f'"epochs": {stopped - 1}', '"epochs": 200', 1))
    for _ in range(3):
        assert main([*base, "--epochs", "200", "--out", str(part)]) == 0
        assert records(part)[-1]["epochs"] == stopped and model_bytes(part) == model_bytes(whole)


@pytest.mark.parametrize("parts", ["one", "two"])
def test_data_that_have_changed(tmp_path, capsys, parts):
    """Split anew, rows that the model has seen would be in the test part; a test part may change by itself."""
    rng, file, out = np.random.default_rng(0), str(tmp_path / "x.npz"), str(tmp_path / "run")
    x, test = rng.standard_normal((80, 2)), rng.standard_normal((9, 2))

    def write(x, test):
        np.savez(file, train=x, test=test) if parts == "two" else np.savez(file, x=x)

    write(x, test)
    assert main(["train", file, "--steps", "2", "--quiet", "--out", out]) == 0
    commands = (["eval", out], ["score", out, file, "--reference", "--out", str(tmp_path / "s.csv")],
                ["resume", out, "--quiet"])
    changed = [(np.append(x, x[:1], 0), test)] + ([(x, test + 1)] if parts == "two" else [])
    for now in changed:
        write(*now)
        for command in commands:
            assert main(command) == 2
            assert f"{file}: expected the data that the run was trained on" in capsys.readouterr().err
        assert main(["eval", out, file]) == 0
    write(x, test)
    for command in commands:
        assert main(command) == 0


@pytest.mark.parametrize("options", [
    ["digits", *SMALL, "--epochs", "2", "--conditional", "--flip", "--beta2", "0.9", "--seed", "3"],
    ["digits", "--preset", "glow-cifar10", *SMALL, "--steps", "3", "--optimizer", "sgd", "--momentum", "0.5"],
    ["digits", "--model", "realnvp", "--levels", "1", "--base-dim", "2", "--residual-blocks", "1",
     "--no-batch-norm", "--steps", "2", "--quiet"],
    ["TABLE", "--couplings", "2", "--preprocess", "whiten", "--valid", "0.2", "--steps", "5", "--quiet"],
    ["TABLE", "--model", "nice", "--patience", "3", "--dtype", "float64", "--steps", "5", "--quiet"],
    ["TABLE", "--net", "mlp", "--couplings", "2", "--steps", "5", "--quiet"],
], ids=lambda options: " ".join(options[:3]))
def test_config_repeats_the_run(tmp_path, table_file, options):
    one, two = tmp_path / "one", tmp_path / "two"
    options = [table_file if o == "TABLE" else o for o in options]
    assert main(["train", *options, "--out", str(one)]) == 0
    assert main(["train", "--config", str(one / "config.toml"), "--out", str(two), "--quiet"]) == 0
    assert model_bytes(one) == model_bytes(two)
    first = [records(folder)[0] for folder in (one, two)]
    for record in first:
        assert record["event"] == "start" and record["evenflow"] == ef.__version__
        assert record["numpy"] == np.__version__ and record["command"].startswith("evenflow train")
        for key in ("command", "time"):
            del record[key]
    assert first[0] == first[1]


@pytest.mark.parametrize("text, word", [
    ("batchsize = 3", "there is no option batchsize; did you mean batch_size?"),
    ("steps = 'many'", "expected a whole number for --steps, got 'many'"),
    ("lr = true", "expected a number for --lr, got True"),
    ("flip = 1", "expected True or False for flip, got 1"),
    ("model = 'flow'", "flow is not a model of images"),
    ("lr 0.1", "can't be read as TOML"),
    pytest.param("seed = 1" + "0" * 400, "seed", id="long"),
    pytest.param("hidden = " + "[" * 100000, "can't be read as TOML", id="nested"),
])
def test_bad_config(tmp_path, capsys, monkeypatch, text, word):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my.toml"
    path.write_text(text)
    assert main(["train", "digits", "--config", str(path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("evenflow: error: [") and err.count("\n") == 1 and word in err
    assert os.listdir(tmp_path) == ["my.toml"]
    assert main(["train", "digits", "--config", "nowhere.toml"]) == 2
    assert "nowhere.toml" in capsys.readouterr().err


# Killed, stopped, without room

# A kill -9 while Python, the engine or the disk is at work: the timer is a thread of the process itself.
KILLED = """
import os, signal, sys, threading
from evenflow.cli import main
threading.Timer(float(sys.argv[1]), os.kill, (os.getpid(), signal.SIGKILL)).start()
os._exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path):
    """20 times kill -9 in one run that saves after every step: the end is that of a run without a stop."""
    base = ["train", "digits", *SMALL, "--steps", "300", "--save-every", "0", "--log-every", "10"]
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert main([*base, "--save-every", "60", "--out", str(whole)]) == 0
    moments, reached = random.Random(1), []
    for _ in range(20):
        process = subprocess.run([sys.executable, "-c", KILLED, str(moments.uniform(0.0, 0.4)), *base,
                                  "--out", str(part), "--resume"], capture_output=True, text=True)
        assert process.returncode in (-signal.SIGKILL, 0), process.stderr
        reached.append(process.returncode)
        if (part / "model.safetensors").exists():
            assert ef.load(part / "model.safetensors").initialized
    assert reached.count(-signal.SIGKILL) >= 10
    assert main([*base, "--out", str(part), "--resume"]) == 0
    assert model_bytes(part) == model_bytes(whole)
    steps, epochs = (
        [[r["step"] for r in records(folder) if r["event"] == event] for folder in (whole, part)]
        for event in ("step", "epoch"))
    assert steps[0] == steps[1] and epochs[0] == epochs[1] and len(epochs[0]) == 22
    left = {p.name for p in part.iterdir()}
    assert left == {p.name for p in whole.iterdir()}


def test_resume_rewinds_the_log(tmp_path):
    """Later steps, an epoch that goes on, lines that are no records and half a line go; so do half-written files of a
    killed process.
    """
    out = tmp_path / "run"
    assert main(["train", "digits", *SMALL, "--steps", "33", "--out", str(out)]) == 0
    assert [r["step"] for r in records(out) if r["event"] == "epoch"] == [14, 28, 33]
    with open(out / "log.jsonl", "a") as log:
        log.write('{"event": "epoch", "epoch": 3, "step": 42}\n5\n[]\nnull\n["resume"]\n'
                  '{"event": "epoch", "step": null}\n{"event": "epo')
    left = [out / name for name in (".evenflow-999999999-0.tmp", ".evenflow-999999999-log.jsonl")]
    for path in left:
        path.write_text("half")
    (out / ".evenflow-999999999.new").mkdir()
    assert main(["resume", str(out), "--epochs", "3", "--quiet"]) == 0
    assert [r["step"] for r in records(out) if r["event"] == "epoch"] == [14, 28, 42]
    assert records(out)[-1]["steps"] == 3 * 14
    assert not any(path.exists() for path in left)
    assert not (out / ".evenflow-999999999.new").exists()
    settings = Run(str(out)).plan().settings
    assert (settings["epochs"], settings.get("steps")) == (3, None)  # the length that was asked for last


def main_on_a_full_disk(arguments, size=1 << 16):
    """Files can't grow beyond that; nor could one that pytest's own output goes to, so it is for this call alone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        return main(arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_disk_that_fills_up(tmp_path, capsys):
    """The checkpoint of before stays, and the run goes on from it."""
    out, whole = tmp_path / "run", tmp_path / "whole"
    assert main(["train", "digits", *SMALL, "--steps", "20", "--out", str(out)]) == 0
    before = model_bytes(out)
    assert main_on_a_full_disk(["resume", str(out), "--steps", "40", "--quiet"], 2000) == 2
    assert "File too large" in capsys.readouterr().err
    assert model_bytes(out) == before
    assert main(["resume", str(out), "--steps", "40", "--quiet"]) == 0
    assert main(["train", "digits", *SMALL, "--steps", "40", "--out", str(whole)]) == 0
    assert model_bytes(out) == model_bytes(whole)


def test_names_that_are_no_text(tmp_path, table_file, capfd):
    """Bytes that are not UTF-8, in the name of the data, of the run and of what is missing."""
    x, out, nowhere = (os.fsdecode(bytes(tmp_path) + name) for name in (b"/x\xff.npy", b"/r\xff", b"/n\xff"))
    os.rename(table_file, x)
    assert main(["train", x, "--steps", "2", "--quiet", "--out", out]) == 0
    assert main(["resume", out, "--steps", "3", "--quiet"]) == 0
    assert main(["eval", out]) == 0
    assert "r\\udcff/model.safetensors" in capfd.readouterr().out
    for command in (["eval", nowhere], ["eval", x]):
        assert main(command) == 2
        err = capfd.readouterr().err
        assert err.startswith("evenflow: error: [") and err.count("\n") == 1
    ef.load(os.path.join(out, "model.safetensors")).save(os.path.join(out, "copy"))
    with pytest.raises(ef.IoError):
        ef.load(os.path.join(out, "nowhere"))


def test_a_training_that_fails_removes_only_the_folders_that_it_made(tmp_path):
    (tmp_path / "mine" / "empty").mkdir(parents=True)
    assert main(["train", "two-moons", "--lr", "-1", "--out", str(tmp_path / "mine" / "empty" / "a" / "run")]) == 2
    assert os.listdir(tmp_path / "mine") == ["empty"] and not os.listdir(tmp_path / "mine" / "empty")


def test_force_removes_the_old_run_and_nothing_else(tmp_path):
    out = tmp_path / "run"
    base = ["train", "digits", *SMALL, "--out", str(out)]
    assert main([*base, "--epochs", "2", "--sample-every", "1"]) == 0
    (out / "samples" / "mine.txt").write_text("kept")
    assert main([*base, "--steps", "1", "--force"]) == 0
    found = {p.name for p in out.iterdir()} - {"curve.png"}  # which takes matplotlib
    assert found == {"config.toml", "log.jsonl", "model.safetensors", "model.state.safetensors", "samples.png", "samples"}
    assert [p.name for p in (out / "samples").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("name", ["samples.png", "config.toml", "samples/epoch_00001.png"])
def test_files_of_the_user_are_not_replaced(tmp_path, table_file, capsys, monkeypatch, name):
    """In a folder that holds no run: refused, until --force says that they may go; others stay in any case."""
    monkeypatch.chdir(tmp_path)
    mine, others = tmp_path / name, [tmp_path / ".own.samples.png", tmp_path / "samples" / ".own.png"]
    (tmp_path / "samples").mkdir()
    for path in (mine, *others):
        path.write_text("lr = 0.01")
    base = ["train", table_file, "--steps", "1", "--quiet", "--out", "."]
    assert main(base) == 2
    assert f"a file that a run would replace, {os.path.basename(name)}; " in capsys.readouterr().err
    assert mine.read_text() == "lr = 0.01" and not (tmp_path / "log.jsonl").exists()
    assert main([*base, "--force"]) == 0
    assert all(path.read_text() == "lr = 0.01" for path in others)


def test_outputs(tmp_path):
    """Pictures while it trains, of the values that would be kept, change no bit."""
    pytest.importorskip("matplotlib")
    one, two = tmp_path / "one", tmp_path / "two"
    base = ["train", "digits", *SMALL, "--epochs", "4", "--log-every", "7"]
    assert main([*base, "--out", str(one)]) == 0
    assert main([*base, "--out", str(two), "--sample-every", "2", "--save-every", "0"]) == 0
    assert model_bytes(one) == model_bytes(two)
    log = records(two)
    assert [r["step"] for r in log if r["event"] == "step"] == list(range(7, 57, 7))
    pictures = sorted((two / "samples").iterdir())
    assert [p.name for p in pictures] == ["epoch_00002.png", "epoch_00004.png"]
    # The last epoch was the best, so its picture is that of the end.
    assert min((r for r in log if r["event"] == "epoch"), key=lambda r: r["valid_loss"])["epoch"] == 4
    assert pictures[1].read_bytes() == (two / "samples.png").read_bytes() != pictures[0].read_bytes()
    assert (two / "curve.png").read_bytes().startswith(b"\x89PNG")


def wait_for_epochs(process, out):
    """Until the log of a training that has just been started tells of some."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not ((out / "log.jsonl").exists() and len(records(out)) > 3):
        assert process.poll() is None
        time.sleep(0.01)


@pytest.mark.parametrize("number, folder", [(signal.SIGINT, "run"), (signal.SIGTERM, "my runs/the 'best' $1"),
                                            (signal.SIGHUP, "--force")])
def test_stopped_from_outside(tmp_path, monkeypatch, hang_up, number, folder):
    """The checkpoint is saved, and the commands to go on with, and to see samples, can be pasted."""
    monkeypatch.chdir(tmp_path)
    command = ["train", "digits", *SMALL, f"--out={folder}"]
    process = subprocess.Popen([sys.executable, "-m", "evenflow", *command, "--epochs", "100000"],
                               stderr=subprocess.PIPE, text=True)
    wait_for_epochs(process, Path(folder))
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.count("\n") == 2
    step = int(err.split(" has step ")[1].split(";")[0])
    resume, sample = (shlex.split(text) for text in re.findall(r": (evenflow .*)", err))
    assert main([*sample[1:2], "--n=4", *sample[2:]]) == 0 and Path(folder, "samples.png").exists()
    assert main([resume[1], "--steps", str(step + 5), "--quiet", *resume[2:]]) == 0
    assert main(["train", "digits", *SMALL, "--steps", str(step + 5), "--out", "whole"]) == 0
    assert model_bytes(Path(folder)) == model_bytes(tmp_path / "whole")


def test_one_process_at_a_time(tmp_path, capsys):
    """Another is told so and touches nothing; the run is free once its process has ended, however that was."""
    out = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-m", "evenflow", "train", "digits", *SMALL, "--epochs", "100000",
                                "--out", str(out)], stderr=subprocess.PIPE, text=True)
    try:
        wait_for_epochs(process, out)
        for command in (["resume", str(out), "--steps", "5"],
                        *(["train", "digits", *SMALL, "--steps", "5", "--out", str(out), option]
                          for option in ("--resume", "--force"))):
            assert main([*command, "--quiet"]) == 2
            err = capsys.readouterr().err
            assert err.count("\n") == 1
            assert f"another process is working on the run in {out}" in err
    finally:
        process.kill()
        process.communicate()
    assert [r["event"] for r in records(out)].count("resume") == 0
    assert main(["resume", str(out), "--steps", "5", "--quiet"]) == 0
