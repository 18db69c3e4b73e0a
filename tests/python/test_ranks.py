"""Several ranks, with a real MPI, against one process."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from raised import raises

pytest.importorskip("mpi4py", reason="needs mpi4py")
MPIEXEC = shutil.which("mpiexec", path=os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"])
pytestmark = pytest.mark.skipif(MPIEXEC is None, reason="needs mpiexec")

JOB = pathlib.Path(__file__).with_name("ranks_job.py")
MODELS = ("nice", "realnvp", "table", "glow")


def run(ranks, *command, check=True, **options):
    return subprocess.run([MPIEXEC, "-n", str(ranks), sys.executable, *map(str, command)], check=check,
                          text=True, capture_output=True, timeout=300, **options)


def long_job(ranks, folder, *more, **environment):
    """A training that goes on until something happens to it, after its first steps."""
    command = [MPIEXEC, "-n", str(ranks), sys.executable, "-m", "evenflow", "train", "digits", "--depth", "1",
               "--hidden", "8", "--epochs", "1000", "--out", "run", *more]
    job = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                           env={**os.environ, **environment})
    log = folder / "run" / "log.jsonl"
    while not (log.exists() and len(log.read_text().splitlines()) > 2):
        assert job.poll() is None and time.sleep(0.1) is None
    return job, log


def job(ranks, model, steps=100, **more):
    return json.loads(run(ranks, JOB, json.dumps({"model": model, "steps": steps, **more})).stdout)


def close(a, b, tolerance):
    a, b = np.array(a, float), np.array(b, float)
    assert a.shape == b.shape and len(a)
    assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


@pytest.fixture(scope="module")
def alone():
    return {model: job(1, model) for model in MODELS}


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("model", MODELS)
def test_ranks_take_the_steps_of_one_process(alone, model, ranks):
    together = job(ranks, model)
    close(together["losses"], alone[model]["losses"], 1e-10)
    close(together["valid"], alone[model]["valid"], 1e-10)
    assert together["same"]


def test_float32_differs_by_the_order_of_sums(alone):
    together = job(4, "glow", steps=20, dtype="float32")
    close(together["losses"], job(1, "glow", steps=20, dtype="float32")["losses"], 1e-4)
    assert together["same"]


@pytest.mark.any_device
@pytest.mark.parametrize("model, settings", [("wide", {}), ("table", {"accumulate": 2}), ("glow", {"average": 0.9})])
def test_ranks_on_a_device(model, settings, gpu):
    """Their gradients are there, and MPI adds them up."""
    here = job(1, model, 6, settings=settings)
    there = job(2, model, 6, settings=settings, device=gpu)
    for numbers in ("losses", "valid", "params"):
        close(there[numbers], here[numbers], 1e-7)
    assert there["same"]


@pytest.mark.parametrize("model, settings", [("glow", {}), ("table", {"accumulate": 2})])
def test_weighted_rows(alone, model, settings):
    one, three = (job(n, model, 20, settings=settings, weighted=True) for n in (1, 3))
    for numbers in ("losses", "valid", "epochs"):
        close(three[numbers], one[numbers], 1e-10)
    assert three["same"] and abs(three["losses"][3] / alone[model]["losses"][3] - 1) > 1e-3


@pytest.mark.parametrize("model", ["glow", "table"])
def test_pieces_of_a_batch(model):
    settings = {"accumulate": 3, "average": 0.9}
    one, two = (job(n, model, 20, settings=settings)["losses"] for n in (1, 2))
    close(two, one, 1e-10)


def test_batches_smaller_than_the_ranks():
    """208 samples: the last batch has three."""
    settings = {"batch_size": 41}
    one, four = (job(n, "glow", 12, settings=settings)["losses"] for n in (1, 4))
    close(four, one, 1e-10)
    assert "batches of at least 4 samples for batch norm" in job(4, "table", 2, settings=settings)["error"]


@pytest.mark.parametrize("ranks", [1, 4])
def test_resume_on_another_number_of_ranks(alone, tmp_path, ranks):
    path = str(tmp_path / "model.safetensors")
    first = job(2, "realnvp", 57, checkpoint=path)
    rest = job(ranks, "realnvp", 100, checkpoint=path, resume=True)
    close(first["losses"] + rest["losses"], alone["realnvp"]["losses"], 1e-10)
    assert sorted(os.listdir(tmp_path)) == ["model.safetensors", "model.state.safetensors"]


def test_data_in_a_file(tmp_path):
    """Each rank reads its own rows only, and none at all of a last batch of two."""
    x = np.random.default_rng(0).standard_normal((202, 3))
    np.save(tmp_path / "x.npy", x)
    script = """if True:
        import json, sys, numpy as np, evenflow as ef
        from mpi4py import MPI
        ef._border.rows.RESIDENT_BYTES = 0
        x = np.load(sys.argv[1], mmap_mode="r")
        flow = ef.CouplingFlow(3, couplings=2, hidden=(8,), seed=0, dtype="float64", threads=1)
        losses = []
        flow.fit(x, valid=x, batch_size=50, epochs=2, settings=ef.Settings(comm=MPI.COMM_WORLD), seed=0,
                 callback=lambda r: losses.append(r["loss" if r["event"] == "step" else "valid_loss"]))
        if MPI.COMM_WORLD.Get_rank() == 0:
            print(json.dumps(losses))
    """
    one, four = (json.loads(run(n, "-c", script, tmp_path / "x.npy").stdout) for n in (1, 4))
    close(four, one, 1e-12)


@pytest.mark.parametrize("name, usual, odd", [("lr", 0.001, 0.5), ("seed", 0, 1), ("accumulate", 1, 3)])
def test_other_settings_on_a_rank_are_refused(name, usual, odd):
    error = job(3, "glow", 1, odd_rank=2, odd_settings={name: odd})["error"]
    assert error == (f"ConfigError: [fit] expected the same {name} on every rank, got {usual} on rank 0 and "
                     f"{odd} on rank 2")


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("value", [np.nan, 1e30])
def test_a_failed_step_fails_on_every_rank(ranks, value, tmp_path):
    """The bad sample belongs to one rank; data in files are checked batch by batch, densities in the pass."""
    data = np.random.default_rng(0).standard_normal((100, 3)).astype(np.float32)
    data[7] = value
    np.save(tmp_path / "x.npy", data)
    script = """if True:
        import sys, numpy as np, evenflow as ef
        from mpi4py import MPI
        flow = ef.CouplingFlow(3, couplings=2, hidden=(300, 300), law="affine", base="gaussian", seed=0)
        ef._border.rows.RESIDENT_BYTES = 0
        data = np.load(sys.argv[1], mmap_mode="r")
        flow.init(data[20:])
        skipped = []
        flow.fit(data, valid=None, batch_size=20, epochs=1, settings=ef.Settings(on_nonfinite="skip", comm=MPI.COMM_WORLD),
                 callback=lambda r: skipped.append("skipped" in r) if r["event"] == "step" else None)
        counts = MPI.COMM_WORLD.gather([sum(skipped), len(skipped)])
        if counts is not None:
            print(counts)
    """
    done = run(ranks, "-c", script, tmp_path / "x.npy")
    assert json.loads(done.stdout) == [[1, 5]] * ranks


def test_command_line(tmp_path):
    command = ["-m", "evenflow", "train", "digits", "--depth", "1", "--hidden", "8", "--dtype", "float64"]
    done = run(2, *command, "--steps", "30", "--out", "two", cwd=tmp_path)
    assert done.stdout.count("held-out ") == 1
    assert not [name for name in os.listdir(tmp_path / "two") if name.startswith(".")]
    log = [json.loads(line) for line in (tmp_path / "two" / "log.jsonl").read_text().splitlines()]
    assert [r["event"] for r in log].count("start") == [r["event"] for r in log].count("end") == 1
    run(1, *command, "--steps", "30", "--out", "one", cwd=tmp_path)
    end = json.loads((tmp_path / "one" / "log.jsonl").read_text().splitlines()[-1])
    close([log[-1]["bits_per_dim"]], [end["bits_per_dim"]], 1e-10)
    again = run(2, *command, "--steps", "30", "--out", "two", cwd=tmp_path, check=False)
    assert again.returncode != 0
    assert again.stderr.count("already has a run") == 1
    more = run(2, "-m", "evenflow", "resume", "two", "--steps", "40", cwd=tmp_path)
    assert more.stdout.count("held-out ") == 1


def test_a_file_of_settings_that_one_machine_lacks(tmp_path):
    """Under MPICH the other ranks waited in MPI's start."""
    (tmp_path / "here.toml").write_text("steps = 1")
    command = [sys.executable, "-m", "evenflow", "train", "digits", "--config"]
    done = subprocess.run([MPIEXEC, "-n", "1", *command, "here.toml", ":", "-n", "1", *command, "there.toml"],
                          capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("evenflow:") == 1
    assert "evenflow: error: [config] there.toml can't be read as TOML:" in done.stderr


@pytest.mark.parametrize("rank, number", [(0, signal.SIGSEGV), (1, signal.SIGKILL)])
def test_a_rank_that_dies_ends_the_job(tmp_path, rank, number):
    """Whatever the moment: the checkpoint is whole and the training goes on from it."""
    job, log = long_job(2, tmp_path, "--save-every", "0")
    os.kill(process_of(rank, log), number)
    job.communicate(timeout=60)
    assert job.returncode != 0
    none_left(tmp_path)
    step = json.loads(log.read_text().splitlines()[-1])["step"]
    done = run(2, "-m", "evenflow", "resume", "run", "--steps", str(step + 100), cwd=tmp_path)
    assert done.stdout.count("held-out ") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ranks_stop_together(tmp_path, number):
    """After a step, when the launcher is asked to."""
    job, _ = long_job(2, tmp_path)
    job.send_signal(number)
    _, told = job.communicate(timeout=30)
    assert job.returncode == 130
    step = re.search(r"evenflow: stopped; run has step (\d+); go on with: evenflow resume run\n", told)
    assert step is not None and told.count("evenflow: stopped") == 1
    none_left(tmp_path)
    done = run(2, "-m", "evenflow", "resume", "run", "--steps", str(int(step[1]) + 20), cwd=tmp_path)
    assert done.stdout.count("held-out ") == 1


def process_of(rank, log):
    return int(json.loads(log.read_text().splitlines()[1])["ranks"][rank].split(":")[1])


def none_left(folder):
    """Processes of a job that ran in a folder, which may take a moment to end."""
    deadline = time.monotonic() + 20
    while any(map(_runs_in(folder), filter(str.isdigit, os.listdir("/proc")))):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _runs_in(folder):
    def runs(pid):
        try:
            return os.readlink(f"/proc/{pid}/cwd") == str(folder)
        except OSError:
            return False
    return runs


def test_without_mpi4py(tmp_path):
    (tmp_path / "mpi4py.py").write_text("raise ImportError('No module named mpi4py')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-m", "evenflow", "train", "digits", "--out", tmp_path / "run"],
                          capture_output=True, text=True, env={**os.environ, "PMI_SIZE": "2", "PYTHONPATH": path})
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert 'expected mpi4py to be installed (pip install "evenflow[mpi]")' in done.stderr


def test_a_wrong_communicator():
    import evenflow as ef
    with raises(TypeError, argument="comm"):
        ef.NICE(4).fit(np.zeros((4, 4)), settings=ef.Settings(comm=3))
