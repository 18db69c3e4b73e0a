"""Runs in a folder: what they hold, that they can be repeated, resumed, killed and watched."""

import csv
import json
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import time

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


def test_a_length_that_can_not_be_leaves_everything(tmp_path, table_file, capsys):
    run, other = tmp_path / "run", tmp_path / "other"
    assert main(["train", table_file, "--steps", "2", "--quiet", "--out", str(run)]) == 0
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    for name in ("--steps", "--epochs"):
        assert main(["train", table_file, name, "-3", "--force", "--quiet", "--out", str(run)]) == 2
        assert main(["train", table_file, name, "-3", "--quiet", "--out", str(other)]) == 2
        assert main(["resume", str(run), name, "-3", "--quiet"]) == 2
        assert capsys.readouterr().err.count(f"expected {name[2:]} >= 0, got -3") == 3
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before and not other.exists()


def test_the_length_asked_for_last_is_the_plan(tmp_path, table_file):
    out = tmp_path / "run"
    assert main(["train", table_file, "--steps", "2", "--quiet", "--out", str(out)]) == 0
    assert main(["resume", str(out), "--epochs", "3", "--quiet"]) == 0
    with open(out / "log.jsonl", "a") as log:
        log.write('{"event": "resu')
    plan = Run(str(out)).plan()
    assert (plan.epochs, plan.steps) == (3, None)
    assert main(["resume", str(out), "--quiet"]) == 0
    assert records(out)[-1]["epochs"] == 3


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
    for options, word in ((["--lr", "0.5"], "lr = 0.5 instead of 0.001"), (["--csv"], "csv = True"),
                          (["--hidden", "8"], "hidden = [8] instead of [64, 64]"), (["--beta1", "0.5"], "beta1"),
                          (["--columns", "a"], "columns = ['a'] instead of None")):
        assert main([*again, *options]) == 2
        assert word in capsys.readouterr().err
    assert main(["train", str(elsewhere), *again[2:]]) == 2
    assert "elsewhere.npy" in capsys.readouterr().err


def test_patience_anew(tmp_path, table_file):
    out = tmp_path / "run"
    assert main(["train", table_file, "--couplings", "2", "--lr", "0.3", "--patience", "1", "--epochs", "200",
                 "--quiet", "--out", str(out)]) == 0
    stopped = records(out)[-1]["epochs"]
    assert stopped < 200
    assert main(["resume", str(out), "--quiet"]) == 0
    assert records(out)[-1]["epochs"] == stopped
    assert main(["resume", str(out), "--epochs", str(stopped + 1), "--quiet"]) == 0
    assert records(out)[-1]["epochs"] == stopped + 1


def test_the_same_length_again_leaves_patience(tmp_path, table_file):
    """`train --resume` as a job that is started again and again: the end is that of a run without a stop."""
    whole, part = tmp_path / "whole", tmp_path / "part"
    base = ["train", table_file, "--couplings", "2", "--lr", "0.3", "--patience", "3", "--quiet", "--resume"]
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


def test_a_run_named_like_its_data(tmp_path, monkeypatch):
    """The run's folder is not read as the data set."""
    monkeypatch.chdir(tmp_path)
    assert main(["train", "two-moons", "--steps", "1", "--quiet", "--out", "two-moons"]) == 0
    assert main(["eval", "two-moons"]) == 0
    assert main(["resume", "two-moons", "--steps", "2", "--quiet"]) == 0
    assert main(["train", "two-moons", "--out", "two-moons", "--resume", "--steps", "3", "--quiet"]) == 0


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
            assert f"expected the data that the run was trained on, got others: {file}" in capsys.readouterr().err
        assert main(["eval", out, file]) == 0
    log = tmp_path / "run" / "log.jsonl"
    first, rest = log.read_text().split("\n", 1)
    log.write_text(json.dumps({k: v for k, v in json.loads(first).items() if k != "test"}) + "\n" + rest)
    # A run of before there was a mark of the test part.
    assert main(["eval", out]) == (0 if parts == "two" else 2)
    write(x, test)
    for command in commands:
        assert main(command) == 0


def test_a_run_whose_mark_has_labels(tmp_path, capsys):
    """As the first runs' had of the test part, for models that are not given them."""
    rng, out = np.random.default_rng(0), str(tmp_path / "run")
    np.savez(tmp_path / "x.npz", x=rng.standard_normal((80, 2)))
    assert main(["train", str(tmp_path / "x.npz"), "--steps", "2", "--quiet", "--out", out]) == 0
    log = tmp_path / "run" / "log.jsonl"
    first, rest = log.read_text().split("\n", 1)
    record = json.loads(first)
    for more, code in (("; int32 (8,) 0123abcd", 0), ("; float64 (8,) 0123abcd", 2), ("0", 2)):
        log.write_text(json.dumps({**record, "test": record["test"] + more}) + "\n" + rest)
        assert main(["eval", out]) == code


def test_numbers_as_names(tmp_path, capsys):
    """Columns of another Parquet file are taken by name, whatever the names."""
    pandas, _ = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    rng = np.random.default_rng(0)
    table = pandas.DataFrame({"2019": rng.standard_normal(200), "2020": 50 + 9 * rng.standard_normal(200)})
    table.to_parquet(tmp_path / "a.parquet")
    table[["2020", "2019"]].to_parquet(tmp_path / "b.parquet")
    out = str(tmp_path / "run")
    assert main(["train", str(tmp_path / "a.parquet"), "--steps", "3", "--quiet", "--out", out]) == 0
    capsys.readouterr()
    results = []
    for name in ("a", "b"):
        assert main(["eval", out, str(tmp_path / f"{name}.parquet")]) == 0
        results.append(capsys.readouterr().out)
    assert results[0] == results[1]


def test_other_pictures_as_the_run_has_them(tmp_path, capsys):
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for i in range(20):
            pixels = rng.integers(0, 256, (24, 24), dtype=np.uint8)
            image.fromarray(pixels).save(tmp_path / folder / f"{i:02}.png")
    a, b, out = str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "run")
    crop = ["--crop", "16", "--size", "8"]
    assert main(["train", a, *crop, "--out", str(tmp_path / "a" / "run")]) == 2
    assert "--out outside of the folder of pictures" in capsys.readouterr().err
    assert main(["train", a, *crop, "--levels", "1", "--depth", "1", "--hidden", "4", "--steps", "2", "--quiet",
                 "--out", out]) == 0
    capsys.readouterr()
    flow = ef.load(tmp_path / "run" / "model.safetensors")
    wanted = flow.bits_per_dim(ef.data.load(b, crop=16, size=8).train).mean()
    for options in ([], ["--size", "8"]):
        assert main(["eval", out, b, "--json", *options]) == 0
        assert json.loads(capsys.readouterr().out)["bits_per_dim"] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("options", [
    ["digits", *SMALL, "--epochs", "2", "--conditional", "--flip", "--beta2", "0.9", "--seed", "3"],
    ["digits", "--preset", "glow-cifar10", "--bits", "4", *SMALL, "--steps", "3", "--accumulate", "2"],
    ["digits", "--preset", "glow-cifar10", *SMALL, "--steps", "3", "--optimizer", "sgd", "--momentum", "0.5"],
    ["digits", "--model", "nice", "--couplings", "2", "--hidden", "9", "7", "--steps", "3", "--quiet"],
    ["digits", "--model", "realnvp", "--scales", "1", "--base-dim", "2", "--residual-blocks", "1",
     "--no-batch-norm", "--steps", "2", "--quiet"],
    ["TABLE", "--couplings", "2", "--preprocess", "whiten", "--valid", "0.2", "--steps", "5", "--quiet"],
    ["TABLE", "--model", "nice", "--patience", "3", "--dtype", "float64", "--steps", "5", "--quiet"],
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


def test_config_and_options(tmp_path, capsys):
    path, out = tmp_path / "my.toml", tmp_path / "run"
    path.write_text('data = "digits"\nlevels = 1\ndepth = 1\nhidden = 8\nlr = 1\nsteps = 2\n'
                    'batch_size = 50\n')
    assert main(["train", "--config", str(path), "--lr", "0.01", "--out", str(out), "--quiet"]) == 0
    start = records(out)[0]
    assert start["training"]["lr"] == 0.01 and start["training"]["batch_size"] == 50
    assert start["model"]["hidden"] == 8 and start["steps"] == 2


@pytest.mark.parametrize("text, word", [
    ("batchsize = 3", "got batchsize; nearest: batch_size"),
    ("learning-rate = 0.1", "got learning-rate; nearest:"),
    ("[training]\nlr = 0.1", "got training; nearest:"),
    ("steps = 'many'", "a whole number for steps, got 'many'"),
    ("steps = 1.5", "a whole number for steps, got 1.5"),
    ("lr = true", "a number for lr, got True"),
    ("csv = 1", "true or false for csv, got 1"),
    ("hidden = ['a']", "a whole number for hidden, got 'a'"),
    ("model = 'flow'", "one of glow, nice, realnvp, got 'flow'"),
    ("preset = 'nice-mnits'", "got 'nice-mnits'; nearest: nice-mnist"),
    ("optimizer = 'adagrad'", "'adagrad'"),
    ("log_every = -1", "log_every >= 0"),
    ("lr 0.1", "expected TOML"),
    pytest.param("lr = 1" + "0" * 400, "a number of 64 bits for lr, got a longer one", id="long"),
    pytest.param("hidden = " + "[" * 100000, "expected TOML", id="nested"),
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


def test_presets_command(tmp_path, capsys):
    assert main(["presets"]) == 0
    assert "glow-celeba-hq-256" in capsys.readouterr().out
    assert main(["presets", "nice-mnist"]) == 0
    path, out = tmp_path / "mine.toml", [tmp_path / name for name in ("one", "two")]
    path.write_text(capsys.readouterr().out)
    small = ["--hidden", "8", "--steps", "2", "--quiet"]
    assert main(["train", "digits", "--config", str(path), *small, "--out", str(out[0])]) == 0
    assert main(["train", "digits", "--preset", "nice-mnist", *small, "--out", str(out[1])]) == 0
    assert model_bytes(out[0]) == model_bytes(out[1])
    assert main(["presets", "nice-minst"]) == 2
    assert "nearest: nice-mnist" in capsys.readouterr().err


# A kill -9 while Python, the engine or the disk is at work: the timer is a thread of the process itself.
KILLED = """
import os, signal, sys, threading
from evenflow.cli import main
threading.Timer(float(sys.argv[1]), os.kill, (os.getpid(), signal.SIGKILL)).start()
os._exit(main(sys.argv[2:]))
"""


def test_killed_at_any_moment(tmp_path):
    """20 times kill -9 in one run that saves after every step: the end is that of a run without a stop."""
    base = ["train", "digits", *SMALL, "--steps", "300", "--save-every", "0", "--log-every", "10", "--csv"]
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
    assert steps[0] == steps[1] and epochs[0] == epochs[1] and len(epochs[0]) == 21
    left = {p.name for p in part.iterdir()}
    assert left == {p.name for p in whole.iterdir()}


def test_resume_before_the_first_checkpoint(tmp_path):
    whole, part = tmp_path / "whole", tmp_path / "part"
    for folder in (whole, part):
        assert main(["train", "digits", *SMALL, "--steps", "9", "--out", str(folder)]) == 0
    for name in ("model.safetensors", "model.state.safetensors"):
        (part / name).unlink()
    assert main(["resume", str(part), "--quiet"]) == 0
    assert model_bytes(part) == model_bytes(whole)


def test_resume_rewinds_the_log(tmp_path):
    out = tmp_path / "run"
    assert main(["train", "digits", *SMALL, "--epochs", "2", "--out", str(out)]) == 0
    log = out / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines) + '{"event": "epoch", "epoch": 3, "step": 42}\n{"event": "epo')
    assert main(["resume", str(out), "--epochs", "3", "--quiet"]) == 0
    assert [r["epoch"] for r in records(out) if r["event"] == "epoch"] == [1, 2, 3]
    assert records(out)[-1]["steps"] == 3 * 14


def main_on_a_full_disk(arguments, size=1 << 16):
    """Files can't grow beyond that; nor could one that pytest's own output goes to, so it is for this call alone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        return main(arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk(tmp_path, capsys):
    out, wide = tmp_path / "run", ["train", "digits", *SMALL, "--hidden", "64", "--steps", "20"]
    assert main_on_a_full_disk([*wide, "--out", str(out)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("evenflow: error: [") and err.count("\n") == 1 and "model" in err
    assert not out.exists()


def test_disk_that_fills_up(tmp_path, capsys):
    """The checkpoint of before stays, and the run goes on from it."""
    out, whole = tmp_path / "run", tmp_path / "whole"
    assert main(["train", "digits", *SMALL, "--steps", "20", "--out", str(out)]) == 0
    before = model_bytes(out)
    assert main_on_a_full_disk(["resume", str(out), "--steps", "40", "--quiet"], 2000) == 2
    assert capsys.readouterr().err.startswith("evenflow: error: [")
    assert model_bytes(out) == before
    assert main(["resume", str(out), "--steps", "40", "--quiet"]) == 0
    assert main(["train", "digits", *SMALL, "--steps", "40", "--out", str(whole)]) == 0
    assert model_bytes(out) == model_bytes(whole)


def test_no_folder_to_write(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for out in ("file", "file/run"):
        assert main(["train", "digits", *SMALL, "--steps", "1", "--out", str(tmp_path / out)]) == 2
        err = capsys.readouterr().err
        assert str(tmp_path / out) in err and err.count("\n") == 1
    assert os.listdir(tmp_path) == ["file"]


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
        assert err.startswith("evenflow: error: [") and "xff" in err and err.count("\n") == 1
    ef.load(os.path.join(out, "model.safetensors")).save(os.fsencode(out) + b"/copy")
    with pytest.raises(ef.IoError, match="xff"):
        ef.load(os.path.join(out, "nowhere"))


def test_nothing_is_left_of_a_run_that_did_not_begin(tmp_path, capsys):
    x = np.random.default_rng(0).standard_normal((100, 2))
    x[:, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    assert main(["train", str(tmp_path / "x.npy"), "--out", str(tmp_path / "run"), "--quiet"]) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("moment", ["evenflow.train.Trainer._init", "evenflow.checkpoint.save",
                                    "evenflow.runs.evaluate"])
def test_terminated_outside_the_loop(tmp_path, capsys, monkeypatch, moment):
    """While a model is initialised, while the first files are written, while the test data are looked at."""
    def terminate(*_):
        os.kill(os.getpid(), signal.SIGTERM)

    out, before = tmp_path / "run", signal.getsignal(signal.SIGTERM)
    base = ["train", "digits", *SMALL, "--steps", "5", "--out", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr(moment, terminate)
        assert main(base) == 130
    assert signal.getsignal(signal.SIGTERM) is before and capsys.readouterr().err.count("\n") == 1
    assert out.exists() == (moment == "evenflow.runs.evaluate")
    assert main([*base, "--resume"]) == 0
    assert {p.name for p in out.iterdir() if p.name.startswith(".")} == set()
    assert records(out)[-1]["event"] == "end"


def test_force_keeps_the_old_run_until_the_new_one_stands(tmp_path):
    out = tmp_path / "run"
    assert main(["train", "digits", *SMALL, "--steps", "5", "--out", str(out)]) == 0
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    wide = ["--hidden", "64", "--steps", "5", "--out", str(out), "--force"]
    assert main_on_a_full_disk(["train", "digits", *SMALL, *wide]) == 2
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_samples_that_are_not_finite_cost_a_picture_only(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "digits", *SMALL, "--epochs", "2", "--sample-every", "1", "--temperature", "1e38",
                 "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert text.count("expected finite samples at temperature 1e+38 for a picture") == 1
    assert records(out)[-1]["epochs"] == 2 and not (out / "samples.png").exists()
    assert main(["sample", str(out), "--temperature", "1e38", "--out", str(tmp_path / "s.npy")]) == 1
    assert "try a lower temperature" in capsys.readouterr().err and not (tmp_path / "s.npy").exists()


def test_force_removes_the_old_run_and_nothing_else(tmp_path):
    out = tmp_path / "run"
    base = ["train", "digits", *SMALL, "--out", str(out)]
    assert main([*base, "--epochs", "2", "--sample-every", "1", "--csv", "--tensorboard"]) == 0
    (out / "samples" / "mine.txt").write_text("kept")
    assert main([*base, "--steps", "1", "--force"]) == 0
    assert {p.name for p in out.iterdir()} == {"config.toml", "log.jsonl", "model.safetensors",
                                               "model.state.safetensors", "samples.png", "samples"}
    assert [p.name for p in (out / "samples").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("name", ["history.csv", "samples.png", "config.toml", "curve.png", "model.safetensors",
                                  "samples/epoch_00001.png"])
def test_files_of_the_user_are_not_replaced(tmp_path, table_file, capsys, monkeypatch, name):
    """In a folder that holds no run: refused, until --force says that they may go; others stay in any case."""
    monkeypatch.chdir(tmp_path)
    mine, others = tmp_path / name, [tmp_path / ".own.samples.png", tmp_path / "samples" / ".own.png"]
    (tmp_path / "samples").mkdir()
    for path in (mine, *others):
        path.write_text("lr = 0.01")
    base = ["train", table_file, "--config", name if name == "config.toml" else ".own.samples.png", "--steps", "1",
            "--quiet", "--out", "."]
    assert main(base) == 2
    assert f"without the files of a run, got ./{name}; use another --out" in capsys.readouterr().err
    assert mine.read_text() == "lr = 0.01" and not (tmp_path / "log.jsonl").exists()
    assert main([*base, "--force"]) == 0
    assert records(tmp_path)[0]["training"]["lr"] == 0.01
    assert all(path.read_text() == "lr = 0.01" for path in others)


def events(folder):
    """(tag, step, value) of TensorBoard's files: records of a length, its checksum, the event, a checksum."""
    from tensorboardX.proto.event_pb2 import Event
    found = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            size, = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12:12 + size])
            found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
            data = data[16 + size:]
    return found


def test_outputs(tmp_path):
    pytest.importorskip("tensorboardX")
    out = tmp_path / "run"
    assert main(["train", "digits", *SMALL, "--epochs", "4", "--out", str(out), "--sample-every", "2",
                 "--csv", "--tensorboard", "--log-every", "7"]) == 0
    log = records(out)
    epochs = [r for r in log if r["event"] == "epoch"]
    assert [r["step"] for r in log if r["event"] == "step"] == list(range(7, 57, 7))
    with open(out / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(r["valid_loss"]) for r in rows] == [r["valid_loss"] for r in epochs]
    seen = events(out / "tensorboard")
    assert [v for tag, _, v in seen if tag == "epoch/valid_bits_per_dim"] == pytest.approx(
        [r["valid_bits_per_dim"] for r in epochs])
    assert [step for tag, step, _ in seen if tag == "step/loss"] == list(range(7, 57, 7))
    assert sorted(p.name for p in (out / "samples").iterdir()) == ["epoch_00002.png", "epoch_00004.png"]
    # The last epoch was the best, so its picture is that of the end.
    assert min(epochs, key=lambda r: r["valid_loss"])["epoch"] == 4
    assert (out / "samples" / "epoch_00004.png").read_bytes() == (out / "samples.png").read_bytes()
    assert (out / "samples" / "epoch_00002.png").read_bytes() != (out / "samples.png").read_bytes()
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_pictures_change_no_bit(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    base = ["train", "digits", *SMALL, "--epochs", "3"]
    assert main([*base, "--out", str(one)]) == 0
    watched = ["--sample-every", "1", "--log-every", "1", "--save-every", "0"]
    assert main([*base, "--out", str(two), *watched]) == 0
    assert model_bytes(one) == model_bytes(two)


def test_missing_packages(tmp_path, capsys, monkeypatch):
    """Pictures are left out, with one line each; what was asked for by name is refused before the start."""
    for module in ("matplotlib.figure", "PIL.Image", "tensorboardX"):
        monkeypatch.setitem(sys.modules, module, None)
    out = tmp_path / "run"
    base = ["train", "digits", *SMALL, "--epochs", "3", "--sample-every", "1", "--out", str(out)]
    assert main([*base, "--tensorboard"]) == 2
    assert 'pip install "evenflow[tensorboard]"' in capsys.readouterr().err and not out.exists()
    assert main(base) == 0
    text = capsys.readouterr().out
    assert text.count("evenflow[cli]") == 1 and text.count("evenflow[plot]") == 1
    assert not list(out.glob("**/*.png"))


def test_samples_that_are_not_finite_end_no_training(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "digits", *SMALL, "--epochs", "2", "--sample-every", "1", "--temperature", "1e38",
                 "--out", str(out)]) == 0
    assert capsys.readouterr().out.count("expected finite samples") == 1
    assert records(out)[-1]["event"] == "end" and not list(out.glob("samples*/*.png"))


def test_early_stopping_keeps_the_best(tmp_path, table_file):
    out = tmp_path / "run"
    assert main(["train", table_file, "--couplings", "4", "--lr", "0.1", "--average", "0", "--epochs", "200",
                 "--patience", "3", "--out", str(out), "--quiet"]) == 0
    losses = [r["valid_loss"] for r in records(out) if r["event"] == "epoch"]
    best = int(np.argmin(losses))
    assert len(losses) == best + 4 < 200
    _, part = Run(str(out)).plan().source.load()
    assert -ef.load(out / "model.safetensors").log_prob(part.test).mean() == losses[best]


def wait_for_epochs(process, out):
    """Until the log of a training that has just been started tells of some."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not ((out / "log.jsonl").exists() and len(records(out)) > 3):
        assert process.poll() is None
        time.sleep(0.01)


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGHUP, 129)])
def test_stopped_from_outside(tmp_path, hang_up, number, code):
    out, whole = tmp_path / "run", tmp_path / "whole"
    process = subprocess.Popen([sys.executable, "-m", "evenflow", "train", "digits", *SMALL, "--epochs",
                                "100000", "--out", str(out)], stderr=subprocess.PIPE, text=True)
    wait_for_epochs(process, out)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code and err.count("\n") == 1
    step = int(err.split(" has step ")[1].split(";")[0])
    assert main(["resume", str(out), "--steps", str(step + 5), "--quiet"]) == 0
    assert main(["train", "digits", *SMALL, "--steps", str(step + 5), "--out", str(whole)]) == 0
    assert model_bytes(out) == model_bytes(whole)


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
            assert f"expected a run that no other process works on, got {out}, where one does" in err
    finally:
        process.kill()
        process.communicate()
    assert [r["event"] for r in records(out)].count("resume") == 0
    assert main(["resume", str(out), "--steps", "5", "--quiet"]) == 0
