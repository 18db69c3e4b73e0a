"""The command line: what it writes, prints and returns."""

import errno
import gzip
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import evenflow as ef
from evenflow import plot
from evenflow.cli import main

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


def test_train_writes_a_run(run):
    pytest.importorskip("matplotlib")
    assert {p.name for p in run.iterdir()} == {"config.toml", "log.jsonl", "model.safetensors",
                                               "model.state.safetensors", "samples.png", "curve.png"}
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [r["event"] for r in log] == ["start", "epoch", "epoch", "end"]
    assert log[0]["training"]["batch_size"] == 100 and log[-1]["n"] == 297
    flow, digits = ef.load(run / "model.safetensors"), ef.data.load("digits")
    assert flow.config["bits"] == 4 and flow.config["steps"] == 1
    assert log[-1]["bits_per_dim"] == pytest.approx(flow.bits_per_dim(digits.test).mean(), rel=1e-12)
    with pytest.importorskip("PIL.Image").open(run / "samples.png") as picture:
        assert picture.size == (10 * 36 - 4, 10 * 36 - 4)


def test_eval(run, tmp_path, capsys):
    assert main(["eval", str(run), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    digits = ef.data.load("digits")
    bits = ef.load(run / "model.safetensors").bits_per_dim(digits.test)
    assert result["bits_per_dim"] == pytest.approx(bits.mean(), rel=1e-12)
    error = bits.std(ddof=1) / np.sqrt(297)
    assert result["bits_per_dim_error"] == pytest.approx(error)
    assert result["nll_nats_error"] == pytest.approx(64 * np.log(2) * error)
    assert main(["eval", str(run)]) == 0
    assert f"{result['bits_per_dim']:.4f}" in capsys.readouterr().out
    np.save(tmp_path / "x.npy", digits.test[:50])
    assert main(["eval", str(run / "model.safetensors"), str(tmp_path / "x.npy"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 50
    np.save(tmp_path / "x.npy", digits.test[:1])  # which tells nothing of the spread
    assert main(["eval", str(run), str(tmp_path / "x.npy"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["nll_nats_error"] is None and result["bits_per_dim_error"] is None
    assert main(["eval", str(run), str(tmp_path / "x.npy")]) == 0
    assert capsys.readouterr().out == f"{result['bits_per_dim']:.4f} bits/dim on 1 samples\n"


def test_sample(run, tmp_path, capsys):
    out = tmp_path / "s.npy"
    options = ["--n", "5", "--seed", "3", "--temperature", "0.5", "--out", str(out)]
    assert main(["sample", str(run), *options]) == 0
    assert np.array_equal(np.load(out), ef.load(run / "model.safetensors").sample(5, 0.5, seed=3))
    assert capsys.readouterr().out.strip() == str(out)
    assert main(["sample", str(run), "--n", "5", "--out", str(tmp_path / "s.png")]) == 0
    assert main(["sample", str(run), "--out", str(tmp_path / "s.gif")]) == 2
    assert ".png or .npy" in capsys.readouterr().err
    assert main(["sample", str(run), "--label", "3", "--out", str(out)]) == 2
    assert "no label" in capsys.readouterr().err


def test_info_and_verify(run, capsys):
    assert main(["info", str(run), "--json", "--tensors"]) == 0
    result = json.loads(capsys.readouterr().out)
    flow = ef.load(run / "model.safetensors")
    assert result["config"] == flow.config and result["parameters"] == flow.num_params
    assert list(result["tensors"]) == list(flow.named_parameters())
    assert main(["info", str(run)]) == 0
    assert "Glow" in capsys.readouterr().out
    assert main(["verify", str(run), "--json", "--seed", "3"]) == 0
    result, digits = json.loads(capsys.readouterr().out), ef.data.load("digits")
    assert result["ok"] is True
    assert result["round_trip_z"] == flow.verify(digits.test, seed=3).round_trip_z
    assert result["round_trip_z"] != flow.verify(digits.test).round_trip_z


def test_matmul_precision(run, tmp_path, capsys):
    """An option of each command, for that command alone; a run's config file repeats it."""
    try:
        for options, wanted in (["--matmul-precision", "high"], "high"), ([], "highest"):
            assert main(["info", str(run), "--json", *options]) == 0
            assert json.loads(capsys.readouterr().out)["matmul_precision"] == wanted
        one, two = tmp_path / "one", tmp_path / "two"
        assert main(["train", "digits", *SMALL, "--steps", "1", "--matmul-precision", "high",
                     "--out", str(one)]) == 0
        assert main(["train", "--config", str(one / "config.toml"), "--out", str(two), "--quiet"]) == 0
        for folder in (run, one, two):
            start = json.loads((folder / "log.jsonl").read_text().splitlines()[0])
            assert start["matmul_precision"] == ("highest" if folder is run else "high")
    finally:
        ef.set_matmul_precision("highest")


def test_resume_equals_one_run(tmp_path, capsys):
    folders = [str(tmp_path / name) for name in ("whole", "part")]
    base = ["train", "digits", *SMALL, "--seed", "4"]
    assert main([*base, "--steps", "40", "--out", folders[0]]) == 0
    assert main([*base, "--steps", "17", "--out", folders[1]]) == 0
    assert main(["resume", folders[1], "--steps", "40", "--quiet"]) == 0
    whole, part = (ef.load(os.path.join(f, "model.safetensors")) for f in folders)
    assert np.array_equal(whole.params, part.params)
    assert main([*base, "--steps", "40", "--out", folders[1]]) == 2
    assert "run in it" in capsys.readouterr().err
    assert main([*base, "--steps", "45", "--out", folders[1], "--resume"]) == 0
    assert main([*base, "--steps", "1", "--out", folders[1], "--force"]) == 0


def test_resume_removes_what_dead_processes_left(tmp_path):
    out = tmp_path / "run"
    assert main(["train", "digits", *SMALL, "--steps", "2", "--out", str(out)]) == 0
    dead = [out / name for name in (".evenflow-999999999-0.tmp", ".999999999.log.jsonl", ".99999999999999.config.toml")]
    living = out / f".evenflow-{os.getppid()}-0.tmp"
    for path in (*dead, living):
        path.write_text("half")
    assert main(["resume", str(out), "--steps", "3", "--quiet"]) == 0
    assert living.exists() and not any(path.exists() for path in dead)


@pytest.mark.parametrize("name, options", [("samples", ["--sample-every", "1"]), ("tensorboard", ["--tensorboard"])])
def test_a_file_where_a_folder_of_a_run_would_be(tmp_path, capsys, name, options):
    if name == "tensorboard":
        pytest.importorskip("tensorboardX")
    pytest.importorskip("PIL")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).touch()
    assert main(["train", "digits", *SMALL, "--epochs", "1", "--out", str(tmp_path / "run"), *options]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"evenflow: error: [train] expected to write {tmp_path / 'run' / name}, got: [Errno ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("call", ["add_scalar", "flush", "close"])
def test_events_that_can_not_be_written(tmp_path, capsys, monkeypatch, call):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pytest.importorskip("tensorboardX").SummaryWriter, call, full)
    out = tmp_path / "run"
    assert main(["train", "digits", *SMALL, "--epochs", "1", "--tensorboard", "--out", str(out)]) == 2
    assert capsys.readouterr().err == (f"evenflow: error: [train] expected to write {out / 'tensorboard'}, "
                                       "got: [Errno 28] No space left on device\n")


def test_a_leftover_that_can_not_be_removed(tmp_path):
    """As a link to a folder, which is no folder to remove: it stays."""
    out = tmp_path / "run"
    assert main(["train", "digits", *SMALL, "--steps", "2", "--out", str(out)]) == 0
    (out / ".999999999.new").symlink_to(tmp_path)
    assert main(["resume", str(out), "--steps", "3", "--quiet"]) == 0
    assert (out / ".999999999.new").is_symlink()


def test_resume_rewinds_the_table(tmp_path):
    """Of a run that was killed after its last epoch, with nothing to do after its last checkpoint."""
    out = tmp_path / "run"
    assert main(["train", "digits", *SMALL, "--epochs", "2", "--csv", "--out", str(out)]) == 0
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert main(["resume", str(out), "--epochs", "4", "--quiet"]) == 0
    for path in (out / name for name in ("model.safetensors", "model.state.safetensors", "log.jsonl")):
        path.write_bytes(before[path])
    assert main(["resume", str(out), "--quiet"]) == 0
    assert (out / "history.csv").read_bytes() == before[out / "history.csv"]


@pytest.mark.parametrize("line", ["5", "[]", "null", '"resume"', '["resume"]', '{"event": "epoch", "step": null}'])
def test_resume_drops_lines_that_are_no_records(tmp_path, line):
    out = tmp_path / "run"
    assert main(["train", "digits", *SMALL, "--steps", "2", "--out", str(out)]) == 0
    with open(out / "log.jsonl", "a") as log:
        log.write(line + "\n")
    assert main(["resume", str(out), "--steps", "3", "--quiet"]) == 0
    lines = (out / "log.jsonl").read_text().splitlines()
    assert line not in lines and json.loads(lines[-1])["steps"] == 3


def test_the_largest_seed(csv, tmp_path):
    """The validation data are split by the next one."""
    assert main(["train", str(csv), "--label", "kind", "--steps", "1", "--quiet", "--seed", str(2**63 - 1), "--out",
                 str(tmp_path / "run")]) == 0
    assert main(["eval", str(tmp_path / "run")]) == 0


def test_table(csv, tmp_path, capsys):
    out = str(tmp_path / "run")
    assert main(["train", str(csv), "--label", "kind", "--epochs", "2", "--hidden", "8", "8",
                 "--couplings", "2", "--out", out, "--json", "--quiet"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["n"] == 30 and "bits_per_dim" not in result
    assert main(["eval", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nll_nats"] == result["nll_nats"]
    assert main(["train", str(csv), "--columns", "b", "a", "--epochs", "1", "--model", "nice",
                 "--hidden", "8", "--out", out, "--force", "--quiet"]) == 0
    assert ef.load(os.path.join(out, "model.safetensors")).shape == (2,)


def test_conditional(tmp_path, capsys):
    out = str(tmp_path / "run")
    assert main(["train", "digits", *SMALL, "--epochs", "1", "--conditional", "--out", out]) == 0
    assert main(["sample", out, "--n", "4", "--label", "7", "--out", str(tmp_path / "s.png")]) == 0
    capsys.readouterr()
    assert main(["sample", out, "--label", "ten", "--out", str(tmp_path / "s.png")]) == 2
    assert "out of 0, 1, 2" in capsys.readouterr().err
    assert main(["eval", out]) == 0


def test_pictures(tmp_path, monkeypatch):
    pytest.importorskip("PIL")
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)
    canvas = plot.grid(images, columns=3, scale=1)
    assert canvas.shape == (9, 20, 3)
    assert np.array_equal(canvas[5:9, 7:13], images[4]) and not canvas[5:, 14:].any()
    with pytest.raises(TypeError, match="float32"):
        plot.save_grid(images.astype(np.float32), tmp_path / "x.png")
    with pytest.raises(ef.ShapeError, match=r"1 to 4 channels .*, got 5; an array \(.npy\) takes any"):
        plot.save_grid(images[..., [0, 1, 2, 0, 1]], tmp_path / "x.png")
    with pytest.raises(ef.IoError, match="nowhere"):
        plot.save_grid(images, tmp_path / "nowhere" / "x.png")
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ef.MissingExtra, match=r'pip install "evenflow\[cli\]"'):
        plot.save_grid(images, tmp_path / "x.png")


@pytest.mark.parametrize("data, out", [("history.csv", "."), ("link.csv", "."), ("history.csv", "s/.."),
                                       ("curve.png/x.npy", "."), ("s/samples", "s"), ("s/samples", "link")])
def test_force_does_not_replace_the_data(tmp_path, monkeypatch, capsys, data, out):
    """Though they have the names of a run's files; nor is it suggested."""
    pictures = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    table = np.random.default_rng(0).standard_normal((300, 3))
    np.savetxt("history.csv", table, delimiter=",")
    os.symlink("history.csv", "link.csv")
    os.mkdir("curve.png")
    np.save("curve.png/x.npy", table)
    os.makedirs("s/samples")
    os.symlink("s", "link")
    for i in range(30):
        pictures.fromarray(np.full((8, 8, 3), 8 * i, np.uint8)).save(f"s/samples/epoch_{i:05d}.png")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for options in (["--force"], []):
        assert main(["train", data, "--steps", "1", "--quiet", "--out", out, *options]) == 2
        said = capsys.readouterr().err
        assert "data that --force would not replace" in said or "--out outside of the folder of pictures" in said
        assert "with --force" not in said
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_learning_curve(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    history = [{"step": 1, "loss": 3.0, "valid_loss": 3.5}, {"step": 2, "loss": 2.0, "valid_loss": None}]
    plot.learning_curve(history, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    plot.learning_curve([{"step": 4, "skipped": 4}], tmp_path / "none.png")  # every step failed; no warning
    assert (tmp_path / "none.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ef.MissingExtra, match=r'pip install "evenflow\[plot\]"'):
        plot.learning_curve(history, tmp_path / "curve.png")


def test_images_of_five_channels_have_a_curve_only(tmp_path, capsys, images):
    pytest.importorskip("matplotlib")
    np.save(tmp_path / "x.npy", images[0][..., [0, 1, 0, 1, 0]])
    out = tmp_path / "run"
    assert main(["train", str(tmp_path / "x.npy"), *SMALL, "--epochs", "2", "--sample-every", "1",
                 "--out", str(out)]) == 0
    assert [path.name for path in out.rglob("*.png")] == ["curve.png"] and not (out / "samples").exists()
    assert capsys.readouterr().out.count("no picture: [save_grid] expected 1 to 4 channels") == 1


def test_without_pillow_only_the_picture_is_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # which can't be had without Pillow
    out = tmp_path / "run"
    assert main(["train", "digits", *SMALL, "--epochs", "1", "--out", str(out)]) == 0
    assert 'pip install "evenflow[cli]"' in capsys.readouterr().out
    assert (out / "model.safetensors").exists() and not (out / "samples.png").exists()


@pytest.mark.parametrize("arguments, word", [
    (["train"], "DATA"),
    (["train", "nowhere.npy"], "does not exist"),
    (["train", "digits", "--model", "realnvp", "--depth", "3"], "options that realnvp has, got --depth\n"),
    (["train", "CSV", "--label", "kind", "--conditional"], "options that realnvp has, got --conditional\n"),
    (["train", "digits", "--coupling", "spline"], "affine"),
    (["train", "digits", "--lr", "-1"], "lr"),
    (["train", "digits", "--out", ""], "a folder, got an empty name"),
    (["resume", ""], "a folder, got an empty name"),
    (["train", "digits", "--levels", "4"], "8"),
    (["train", "digits", "--hidden", "8", "8"], "one number"),
    (["train", "digits", "--valid", "1"], "fraction"),
    (["train", "digits", "--valid", "0", "--patience", "3"], "valid data with patience"),
    (["train", "CSV", "--columns", "a", "b", "--valid", "0"], "a test part with valid=0"),
    (["train", "CSV"], "column 'kind'"),
    (["train", "CSV", "--columns", "a", "b", "--sample-every", "2"], "images with --sample-every, got a table"),
    (["train", "CSV", "--columns", "a", "c"], "out of a, b, kind"),
    (["train", "CSV", "--label", "class"], "out of a, b, kind"),
    (["train", "CSV", "--label", "kind", "--model", "glow"], "realnvp or nice"),
    (["train", "CSV", "--columns", "a", "b", "--conditional"], "labels"),
    (["eval", "nowhere"], "nowhere"),
    (["resume", "nowhere"], "nowhere"),
    (["info", "CSV"], "t.csv"),
    (["train", "digits", "--device", "tpu"], "tpu"),
])
def test_bad_input(arguments, word, csv, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert main([str(csv) if a == "CSV" else a for a in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("evenflow: error: [") and word in captured.err and captured.out == ""
    assert sorted(tmp_path.iterdir()) == before


@pytest.fixture
def bad_files(tmp_path, monkeypatch):
    """The working folder, with a file of each kind that can't be trained on."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("mixed", "a,b\n1,2\n3,x\n"), ("nan", "a,b\n1,nan\n"), ("empty-cell", "a,b\n1,\n"),
                       ("ragged", "a,b\n1,2\n3\n"), ("constant", "a,b\n" + "1,2\n3,2\n" * 9)):
        (tmp_path / f"{name}.csv").write_text(text)
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
    np.savez("labels.npz", x=images, labels=np.arange(19))
    np.savez("halves.npz", x=images, labels=np.arange(20) / 2)
    Path("cut.npz").write_bytes(Path("labels.npz").read_bytes()[:-500])
    Path("cut.csv.gz").write_bytes(gzip.compress(Path("mixed.csv").read_bytes())[:-9])
    Path("cut.tar.gz").write_bytes(gzip.compress(bytes(20000))[:-9])
    for name in ("sizes", "corrupt", "nothing"):
        Path(name).mkdir()
    Path("file").touch()
    Path("sizes/log.jsonl").write_text("[" * 100000)
    return images


@pytest.mark.parametrize("arguments, word", [
    (["train", "mixed.csv"], "mixed.csv: expected a number in line 3, column 'b', got 'x'"),
    (["train", "nan.csv"], "nan.csv: expected a finite number in line 2, column 'b'"),
    (["train", "empty-cell.csv"], "empty-cell.csv: expected a number in line 2, column 'b', got ''"),
    (["train", "ragged.csv"], "ragged.csv: expected 2 cells in line 3, got 1"),
    (["train", "labels.npz"], "labels.npz: expected whole numbers (20,) as labels, got int64 (19,)"),
    (["train", "halves.npz"], "halves.npz: expected whole numbers (20,) as labels, got float64 (20,)"),
    (["train", "cut.npz"], "cut.npz: expected a .npz file"),
    (["train", "cut.csv.gz"], "cut.csv.gz: expected a table"),
    (["train", "cut.tar.gz"], "cut.tar.gz: expected a"),
    (["train", "nothing"], "nothing: expected pictures"),
    (["train", "file"], "expected a name ending in"),
    (["train", "digits", "--preset", "glow-cifar"], "got 'glow-cifar'; nearest: glow-cifar10"),
    (["train", "digits", "--size", "16"], "size and crop with a folder"),
    (["sample", "RUN", "--out", "file/s.png"], "expected to write file/s.png"),
    (["sample", "RUN", "--out", "file/s"], "expected to make the folder file/s"),
    (["score", "RUN", "--out", "file/s.csv"], "expected to write file/s.csv"),
    (["encode", "RUN", "--out", "file/z.npz"], "expected to write file/z.npz"),
    (["eval", "RUN", "ragged.csv"], "ragged.csv: expected 2 cells"),
    (["eval", "RUN", "file"], "expected a name ending in"),
    (["eval", "file"], "file"),
    (["resume", "file"], "file"),
    (["resume", "sizes"], "expected a run in sizes"),
    (["sample", "RUN", "--label", "1" * 5000], "[label] expected a label out of "),
    (["info", "no\nfile"], "no\\nfile"),
    (["info", "RUN", "--device", "\udcff"], "[load] expected device cpu or cuda, got '\\udcff'\n"),
])
def test_bad_files(arguments, word, bad_files, run, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert main([str(run) if a == "RUN" else a for a in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("evenflow: error: [") and word in captured.err and captured.out == ""
    assert captured.err.count("\n") == 1 and sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("folder, word", [
    ("sizes", "7.png: expected 8 x 8 pixels like sizes/00.png, got 9 x 8"),
    ("corrupt", "5.png: expected a picture, got: image file is truncated")])
def test_bad_pictures(folder, word, bad_files, capsys):
    Image = pytest.importorskip("PIL.Image")
    for i, image in enumerate(bad_files[:10]):
        Image.fromarray(image).save(Path(folder) / f"{i:02d}.png")
    Image.fromarray(np.zeros((9, 8, 3), np.uint8)).save("sizes/07.png")
    whole = Path(folder, "05.png").read_bytes()
    Path("corrupt/05.png").write_bytes(whole[:len(whole) // 2])
    assert main(["train", folder]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("evenflow: error: [data]") and word in captured.err
    assert captured.err.count("\n") == 1 and not Path("runs").exists()


def test_a_constant_column_is_1(bad_files, capsys):
    assert main(["train", "constant.csv"]) == 1
    assert "varying column" in capsys.readouterr().err and not Path("runs").exists()


@pytest.mark.parametrize("arguments", [[], ["fly"], ["eval"], ["train", "digits", "--epochs", "x"]])
def test_usage(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2 and "usage" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "resume", "eval", "sample", "info", "verify"])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as exit:
        main([command, "--help"])
    assert exit.value.code == 0 and f"example:\n  evenflow {command}" in capsys.readouterr().out


@pytest.mark.parametrize("shell, code, word", [
    ("> /dev/full", 2, "evenflow: error: [output] expected to write the result, got: [Errno 28] No space"),
    (">&-", 0, ""), ("", 141, "")])
@pytest.mark.parametrize("arguments", [["train", "--help"], ["--version"]])
def test_help_that_can_not_be_written(arguments, shell, code, word):
    """Has the exit codes of results, also where Python keeps what it prints until its end."""
    command = shlex.join([sys.executable, "-m", "evenflow", *arguments])
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    reader, pipe = os.pipe()
    os.close(reader)
    process = subprocess.run(["bash", "-c", f"{command} {shell}"], env=env, stdout=pipe, stderr=subprocess.PIPE,
                             text=True, timeout=120)
    os.close(pipe)
    assert process.returncode == code
    assert process.stderr.startswith(word) and process.stderr.count("\n") == (word != "")


def test_numeric_failure_is_1(tmp_path, capsys):
    x = np.random.default_rng(0).standard_normal((100, 2))
    x[37, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    assert main(["train", str(tmp_path / "x.npy"), "--out", str(tmp_path / "run"), "--quiet"]) == 1
    assert "x.npy: expected finite values, got nan in row 37, column 1" in capsys.readouterr().err


def test_output_that_nobody_reads(run):
    """As in `evenflow info RUN | head -n 0`: no traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as output:
        process = subprocess.run([sys.executable, "-m", "evenflow", "info", str(run)], stdout=output,
                                 stderr=subprocess.PIPE, text=True, timeout=120)
    assert process.returncode == 141 and process.stderr == ""


@pytest.mark.parametrize("shell", ["2> /dev/full", "2>&-", "2>&1 > out.txt | head -n 0; exit ${PIPESTATUS[0]}"])
def test_progress_that_can_not_be_written(tmp_path, shell):
    """Ends no training."""
    options = ["--epochs", "400", "--batch-size", "1500", "--out", "run"]
    command = [sys.executable, "-m", "evenflow", "train", "digits", *SMALL[:-1], *options]
    process = subprocess.run(["bash", "-c", f"{shlex.join(command)} {shell}"], cwd=tmp_path, timeout=120)
    assert process.returncode == 0
    log = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["event"] == "end" and json.loads(log[-1])["epochs"] == 400


@pytest.mark.parametrize("shell, code, word", [
    ("> /dev/full", 2, "evenflow: error: [output] expected to write the result, got: [Errno 28] No space"),
    (">&-", 0, ""), ("> /dev/full 2>&1", 2, ""), (">&- 2>&-", 0, "")])
def test_output_that_can_not_be_written(run, shell, code, word):
    command = shlex.join([sys.executable, "-m", "evenflow", "info", str(run), "--tensors"])
    process = subprocess.run(["bash", "-c", f"{command} {shell}"], stderr=subprocess.PIPE, text=True, timeout=120)
    assert process.returncode == code
    assert process.stderr.startswith(word) and process.stderr.count("\n") == (word != "")


def test_small_data_are_trained_on_for_long_enough(tmp_path, capsys):
    """Without --epochs or --steps: until the validation data get no better; with them: as long as they say."""
    x = np.random.default_rng(0).standard_normal((60, 2))
    np.save(tmp_path / "x.npy", x)
    base = ["train", str(tmp_path / "x.npy"), "--hidden", "8", "--couplings", "2", "--quiet", "--lr", "0.05"]
    assert main([*base, "--out", str(tmp_path / "default"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert 20 < result["epochs"] < 4000
    assert main([*base, "--out", str(tmp_path / "asked"), "--epochs", str(result["epochs"] + 5)]) == 0
    assert "stopped" not in capsys.readouterr().out
    asked = json.loads((tmp_path / "asked" / "log.jsonl").read_text().splitlines()[-1])
    assert asked["epochs"] == result["epochs"] + 5
    assert main([*base, "--out", str(tmp_path / "default"), "--force"]) == 0
    assert f"stopped after epoch {result['epochs']}: the last 20 were not better" in capsys.readouterr().out


def test_all_training_data(tmp_path, capsys):
    """--valid 0: nothing is held out, the last parameters are kept, and the test part is what it was."""
    rng = np.random.default_rng(0)
    train, test = rng.standard_normal((60, 2)), rng.standard_normal((7, 2))
    np.savez(tmp_path / "x.npz", train=train, test=test)
    out, alone = tmp_path / "run", tmp_path / "alone"
    base = ["train", str(tmp_path / "x.npz"), "--hidden", "8", "--couplings", "2", "--batch-size", "20",
            "--valid", "0"]
    assert main([*base, "--out", str(out), "--epochs", "2", "--csv", "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 7
    assert main(["resume", str(out), "--epochs", "4", "--quiet"]) == 0
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    epochs = [r for r in log if r["event"] == "epoch"]
    assert [r["step"] for r in epochs] == [3, 6, 9, 12] and not any("valid_loss" in r for r in epochs)
    flow = ef.load(out / "model.safetensors")
    assert log[-1]["nll_nats"] == pytest.approx(-flow.log_prob(test.astype(np.float32)).mean(), rel=1e-6)
    assert main([*base, "--out", str(alone), "--epochs", "4", "--quiet"]) == 0
    assert np.array_equal(ef.load(alone / "model.safetensors").params, flow.params)
    # Without a length: the least number of steps, since nothing says when to stop.
    assert main([*base, "--out", str(tmp_path / "default"), "--quiet"]) == 0
    assert "stopped" not in capsys.readouterr().out


def test_test_part_without_labels(tmp_path, capsys):
    """A model of classes could not be tested after its training: said before."""
    x = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 1), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", train=x, test=x, train_labels=np.arange(30) % 3)
    assert main(["train", str(tmp_path / "x.npz"), "--conditional", "--out", str(tmp_path / "run")]) == 2
    assert "labels of the test part with --conditional" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("folder", ["run", "my runs/the 'best' $1", "-run", "--force"])
def test_the_command_to_go_on_with_can_be_pasted(tmp_path, monkeypatch, capsys, folder):
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("evenflow.cli.train.Progress.__call__", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        assert main(["train", "digits", *SMALL, "--steps", "9", f"--out={folder}"]) == 130
    said = capsys.readouterr().err
    assert f"{folder} has step 1; " in said
    assert main(shlex.split(said.split("go on with: ")[1])[1:]) == 0
    assert ef.load(os.path.join(folder, "model.safetensors")).initialized


@pytest.mark.parametrize("out", [None, "a/b/run", "a/b/run/"])
def test_no_folder_is_left_of_a_run_that_could_not_begin(tmp_path, monkeypatch, out):
    """Nor those above it that were made for it; others stay, empty or not."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    monkeypatch.setattr("evenflow.checkpoint.save", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert main(["train", "digits", *SMALL, "--steps", "5", *([] if out is None else ["--out", out])]) == 130
    assert list(tmp_path.rglob("*")) == [tmp_path / "a"]


@pytest.mark.parametrize("number, code", [("SIGTERM", 130), ("SIGHUP", 129)])
def test_interrupt_within_an_import(tmp_path, monkeypatch, capsys, hang_up, number, code):
    """Where Python before 3.12 makes a RuntimeError of any exception."""
    (tmp_path / "tensorboardX.py").write_text(
        "import os, signal\n"
        "class Name:\n"
        f"    def __set_name__(self, *_): os.kill(os.getpid(), signal.{number})\n"
        "class Owner: name = Name()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorboardX", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["train", "digits", "--tensorboard", "--out", str(tmp_path / "run")]) == code
    assert capsys.readouterr().err == "evenflow: interrupted\n" and not (tmp_path / "run").exists()
    assert signal.getsignal(signal.SIGTERM) is before
    sys.modules.pop("tensorboardX", None)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_interrupt_and_resume(tmp_path):
    """Ctrl-C in the middle of a real process: exit code 130, the state is saved, the run goes on."""
    out = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-m", "evenflow", "train", "digits", *SMALL,
                                "--epochs", "100000", "--out", str(out)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (out / "log.jsonl").exists() or \
            (out / "log.jsonl").read_text().count("epoch\"") < 3:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "evenflow resume" in err and "Traceback" not in err
    done = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    epochs = max(r["epoch"] for r in done if r["event"] == "epoch") + 2
    assert main(["resume", str(out), "--epochs", str(epochs), "--quiet"]) == 0
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [r["epoch"] for r in log if r["event"] == "epoch"] == list(range(1, epochs + 1))
