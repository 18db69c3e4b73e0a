"""Ranks with a GPU each: how they find each other, and with an emulated device and NCCL what they compute."""

import contextlib
import json
import os
import pathlib
import random
import shutil
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest

import evenflow as ef
from evenflow import _core, nccl

JOB = pathlib.Path(__file__).with_name("nccl_job.py")
BUILT = os.environ.get("EVENFLOW_EMULATED_BUILT", "")  # a folder of a build with EVENFLOW_TESTS
emulated = pytest.mark.skipif(not BUILT, reason="EVENFLOW_EMULATED_BUILT names no folder")


def free_port():
    """The first of three free ones, none of which a system gives to a connection (Linux: from 32768)."""
    while True:
        port = random.randrange(20000, 32000)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for one in range(port, port + 3):
                stack.enter_context(socket.create_server(("", one)))
            return port


@contextlib.contextmanager
def started(size, *arguments, of_rank=None, **environment):
    """Processes as torchrun starts them; `of_rank` has environments of single ranks."""
    port = free_port()
    jobs = []
    try:
        for rank in range(size):
            jobs.append(subprocess.Popen(
                [sys.executable, JOB, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank),
                     "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), **environment,
                     **(of_rank or {}).get(rank, {})}))
        yield jobs
    finally:
        for process in jobs:
            process.kill()
            process.communicate()


def result_of(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return json.loads(out) if out else None


def job(*arguments, **more):
    """What each rank prints."""
    with started(*arguments, **more) as jobs:
        return [result_of(process) for process in jobs]


LIBRARIES = {"EVENFLOW_CUDA_LIBRARY": f"{BUILT}/libevenflow_emulated.so",
             "EVENFLOW_NCCL_LIBRARY": f"{BUILT}/libfake_nccl.so"}


def emulated_job(size, *arguments, **more):
    return job(size, *arguments, **{**LIBRARIES, **more})


def test_local_rank():
    machines = ["a", "b", "a", "a", "b"]
    assert [nccl.local_rank(rank, lambda name: machines) for rank in range(5)] == [0, 0, 1, 2, 1]


GOOD = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.mark.parametrize("wrong, text", [
    ({"RANK": ""}, "[torchrun] expected RANK, as torchrun sets it, got none"),
    ({"RANK": "2"}, "[torchrun] expected 0 <= RANK <= 1, got '2'"),
    ({"WORLD_SIZE": "two"}, "[torchrun] expected 1 <= WORLD_SIZE <= 1048576, got 'two'"),
    ({"LOCAL_RANK": "-1"}, "[torchrun] expected 0 <= LOCAL_RANK <= 1, got '-1'"),
    ({"MASTER_PORT": "65536"}, "[torchrun] expected 1 <= MASTER_PORT <= 65535, got '65536'"),
    ({"MASTER_ADDR": ""}, "[torchrun] expected MASTER_ADDR, as torchrun sets it, got none"),
])
def test_wrong_variables(wrong, text):
    with pytest.raises(ef.ConfigError) as error:
        nccl.TorchrunComm(environment={**GOOD, **wrong})
    assert str(error.value) == text


def together(size, work, absent=()):
    """Results, or errors, of work(store) in ranks that are threads."""
    pytest.importorskip("torch", reason="torchrun's store is torch's")
    port, results = free_port(), [None] * size

    def run(rank):
        try:
            results[rank] = work(nccl.Store(f"job {port}", "localhost", port, rank, size))
        except ef.Error as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size) if rank not in absent]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


@pytest.mark.parametrize("size", [1, 2, 5])
def test_ranks_collect(size):
    def work(store):
        return [store.collect(f"{word} of {store._rank}") for word in ("one", "two")]

    assert together(size, work) == [[[f"{word} of {rank}" for rank in range(size)] for word in ("one", "two")]] * size


def test_a_rank_that_does_not_come(monkeypatch):
    monkeypatch.setattr(nccl, "JOIN_SECONDS", 2.0)
    results = together(3, lambda store: store.collect(0), absent=(2,))
    assert all(isinstance(result, ef.RanksError) for result in results[:2])
    assert "expected all 3 ranks within 2 s" in str(results[0])
    results = together(2, lambda store: store.collect(0), absent=(0,))
    assert "rank 1 can't reach the store at localhost:" in str(results[1])


def test_notes():
    def work(store):
        store.note(store._rank, 1 - store._rank, 7)
        store.collect(None)
        found = store.has_note(1 - store._rank, 7), store.has_note(1 - store._rank, 1)
        store.take_note(1 - store._rank, 7)
        again = store.has_note(1 - store._rank, 7)
        store.collect(None)
        return found, again

    assert together(2, work) == [((True, False), False)] * 2


@pytest.mark.parametrize("size", [1, 3])
def test_a_communicator_over_any_collective(size):
    pytest.importorskip("mpi4py", reason="Ranks needs mpi4py")
    result = job(size, "collect", "fake")[0]
    assert result == {"collected": [{"rank": r} for r in range(size)],
                      "sum": [size * (size + 1) / 2] * 3,
                      "gathered": [float(i) for r in range(size) for i in range(r + 1)]}


def test_a_rank_that_stalls_is_missed():
    pytest.importorskip("mpi4py", reason="Ranks needs mpi4py")
    with started(3, "stall", "fake", "everyone") as jobs:
        assert [result_of(jobs[rank]) for rank in (0, 2)] == [{"missing": [1]}] * 2


def test_torchrun(tmp_path):
    pytest.importorskip("torch.distributed.run", reason="needs torch")
    pytest.importorskip("mpi4py", reason="Ranks needs mpi4py")
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
                           "--master-port", str(free_port()), JOB, "collect", "fake"],
                          check=True, capture_output=True, text=True, timeout=120)
    assert json.loads(done.stdout)["sum"] == [3.0] * 3


def test_what_is_missing():
    with pytest.raises(ef.ConfigError, match="expected device cuda for sums over GPUs, got cpu"):
        _core.collective_id("cpu")
    with pytest.raises(ef.ConfigError, match="expected an id of 128 bytes, got 1"):
        _core.Collective("cpu", b"1", 0, 1)
    with pytest.raises(ef.ConfigError, match="expected 0 <= rank < size, got rank 2 and size 2"):
        _core.Collective("cpu", bytes(128), 2, 2)
    results = job(2, "collect", "everyone", EVENFLOW_CUDA_LIBRARY="/none.so")
    assert all("DeviceError" in r["error"] and "/none.so" in r["error"] and r["on_all"] for r in results)


@pytest.mark.skipif("EVENFLOW_CUDA_BUILT" not in os.environ, reason="EVENFLOW_CUDA_BUILT names no backend")
def test_the_backend_without_nccl():
    done = subprocess.run([sys.executable, "-c", "from evenflow import _core; _core.collective_id('cuda')"],
                          env={**os.environ, "EVENFLOW_CUDA_LIBRARY": os.environ["EVENFLOW_CUDA_BUILT"],
                               "EVENFLOW_NCCL_LIBRARY": "libc.so.6"}, capture_output=True, text=True)
    assert "DeviceError: [nccl] expected ncclGetVersion in libc.so.6, got a library without it" in done.stderr


@emulated
@pytest.mark.parametrize("size", [1, 2, 3])
def test_training(size):
    pytest.importorskip("mpi4py", reason="Ranks needs mpi4py")
    alone = job(1, "alone")[0]["losses"]
    np.testing.assert_allclose(emulated_job(size, "train")[0]["losses"], alone, rtol=1e-9)


@emulated
@pytest.mark.parametrize("launcher", [["mpiexec", "-n", "2", sys.executable],
                                      ["torchrun", "--nproc-per-node", "2"]], ids=lambda words: words[0])
def test_command_line(launcher, tmp_path):
    program = shutil.which(launcher[0], path=os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"])
    if program is None:
        pytest.skip(f"needs {launcher[0]}")
    command = ["-m", "evenflow", "train", "digits", "--model", "nice", "--hidden", "8", "--couplings", "2",
               "--steps", "3", "--dtype", "float64"]

    def bits(*words):
        subprocess.run(words, cwd=tmp_path, check=True, timeout=120, env={**os.environ, **LIBRARIES})
        return json.loads((tmp_path / words[-1] / "log.jsonl").read_text().splitlines()[-1])["bits_per_dim"]

    together = bits(program, *launcher[1:], *command, "--device", "cuda", "--out", "together")
    assert together == pytest.approx(bits(sys.executable, *command, "--out", "alone"), rel=1e-10)
    refused = subprocess.run([program, *launcher[1:], *command, "--device", "cuda", "--wire-dtype", "bfloat16"],
                             cwd=tmp_path, capture_output=True, text=True, env={**os.environ, **LIBRARIES})
    assert refused.returncode != 0
    assert "[fit] expected no --wire-dtype on GPUs, got bfloat16" in refused.stderr


def test_distributed_without_a_launcher():
    with pytest.raises(ef.ConfigError, match="expected mpiexec and mpi4py, or torchrun and device cuda"):
        ef.distributed()


@pytest.mark.any_device
def test_training_on_gpus(device):
    """With the real ones, where there are any."""
    pytest.importorskip("mpi4py", reason="Ranks needs mpi4py")
    if device == "cpu":
        pytest.skip("computes on the CPU")
    size = int(os.environ.get("EVENFLOW_TEST_RANKS", "1"))
    alone, together = job(1, "alone")[0], job(size, "train")[0]
    assert "losses" in together, together
    np.testing.assert_allclose(together["losses"], alone["losses"], rtol=1e-9)


@emulated
def test_gradients_are_added_up_where_they_are():
    for result in emulated_job(2, "gradient", "everyone"):
        assert result["right"]
        assert result["problems"] == [
            "[nccl] expected the sum before to be done, got another",
            "[nccl] expected the sum before to be done, got another",
            "[nccl] expected values to be a C-contiguous float64 array, got dtype int32",
            "[nccl] expected values with 1 axes, got 2",
            "[nccl] expected a flow on device cuda, got one on cpu"]


@emulated
def test_the_package_of_nccl_is_found(tmp_path):
    (tmp_path / "nvidia" / "nccl" / "lib").mkdir(parents=True)
    (tmp_path / "nvidia" / "__init__.py").touch()  # comes before one that is installed
    shutil.copy(f"{BUILT}/libfake_nccl.so", tmp_path / "nvidia" / "nccl" / "lib" / "libnccl.so.2")
    path = os.pathsep.join([str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    with started(1, "gradient", PYTHONPATH=path,
                 EVENFLOW_CUDA_LIBRARY=f"{BUILT}/libevenflow_emulated.so") as jobs:
        assert result_of(jobs[0])["right"]


@emulated
def test_what_one_rank_lacks_fails_on_all():
    results = emulated_job(3, "gradient", "everyone", of_rank={2: {"LOCAL_RANK": "2"}},
                           EVENFLOW_FAKE_NCCL="id")
    assert [r["error"] for r in results] == [
        "DeviceError: [nccl] expected ncclGetUniqueId of NCCL 2.23.4 to succeed, got unhandled system error"] * 3
    missing = f"{BUILT}/libfake_nccl_incomplete.so"
    results = emulated_job(2, "gradient", "everyone", of_rank={1: {"EVENFLOW_NCCL_LIBRARY": missing}})
    assert [r["error"] for r in results] == [
        f"DeviceError: [nccl] expected ncclAllReduce in {missing}, got a library without it (rank 1)"] * 2
    results = emulated_job(1, "gradient", of_rank={0: {"EVENFLOW_FAKE_NCCL": "sum"}})
    assert "ncclAllReduce of NCCL 2.23.4 to succeed" in results[0]["error"]
