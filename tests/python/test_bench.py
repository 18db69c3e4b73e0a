"""The scripts of bench/, on tiny models, and what they make of other programs' output."""

import argparse
import importlib
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

import evenflow as ef

BUILT = os.environ.get("EVENFLOW_EMULATED_BUILT", "")  # a folder of a build with EVENFLOW_TESTS
BENCH = pathlib.Path(__file__).parents[2] / "bench"
HEAD = ('"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size",'
        '"Device","CC","Section Name","Metric Name","Metric Unit","Metric Value"')
PRODUCT = "void evenflow::cuda::run_body<evenflow::device::Product<evenflow::Bf16, (int)128>>(T1)"
FILL = "void at::native::fill<float>(float *, int)"
PASSED = "5 passed, 2 skipped, 700 deselected in 63.10s (0:01:03)"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module("gpu")


def program(path, text):
    """In the place of another one."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def worker_command(*options):
    return [sys.executable, BENCH / "worker.py", *options, "--smoke", "--threads", "1", "--seconds", "0"]


def run(tmp_path, *options):
    done = subprocess.run([sys.executable, BENCH / "run.py", "--smoke", "--works", "nice", "--rounds", "2", "--threads",
                           "1", "--libraries", "evenflow", "--out", tmp_path, *options],
                          check=True, capture_output=True, text=True, timeout=300)
    return json.loads((tmp_path / "nice.json").read_text()), done.stdout


def test_calls_in_turns(tmp_path):
    result, table = run(tmp_path)
    ours = result["libraries"]["evenflow"]
    assert ours["ratio"] == {"step": 1, "log_prob": 1, "sample": 1} and ours["errors"] == {}
    assert list(ours["peak_mb"]) == ["step"] and ours["peak_mb"]["step"] > ours["state_mb"] > 0
    assert [set(r["evenflow"]["ms"]) for r in result["rounds"]] == [{"step", "log_prob", "sample"}] * 2
    assert all(ms > 0 for r in result["rounds"] for ms in r["evenflow"]["ms"].values())
    assert "step" in table and "evenflow" in table


def test_a_library_that_fails(tmp_path):
    for script, error in (("echo no such thing >&2; exit 3", "exit status 3: no such thing"),
                          ("sleep 100 & sleep 100", "expected an answer within 0.5 s, got none")):
        python = program(tmp_path / "python", script)
        result, table = run(tmp_path, "--python", python, "--limit", "0.5")
        assert result["libraries"] == {"evenflow": {"error": error}} and f"error: {error}" in table


def test_worker():
    """Other programs ask for timings in turns by this interface, too."""
    for work, library in (("glow", "evenflow-bf16"), ("table", "evenflow"), ("table_wide", "evenflow-bf16")):
        done = subprocess.run([*worker_command(work, library), "--turns"], input="step 0\nsample 0\n", check=True,
                              capture_output=True, text=True, timeout=300)
        head, step, sample = map(json.loads, done.stdout.splitlines())
        assert {"step", "log_prob", "sample"} <= set(head["calls"]) and head["sizes"]
        assert step["ms"] > 0 and step["peak_mb"] > 0 and set(sample) == {"ms"}
    done = subprocess.run([*worker_command("nice", "evenflow"), "--set", "couplings=-1"], capture_output=True,
                          text=True, timeout=300)
    assert done.returncode == 1 and "error" in json.loads(done.stdout)


def test_sweep(tmp_path):
    """A second run measures nothing again, and draws what peers were measured."""
    def sweep(*options):
        return subprocess.run([sys.executable, BENCH / "sweep.py", "--cells", "1", "--seed", "31", "--libraries",
                               "evenflow", "--rounds", "1", "--seconds", "0", "--threads", "1", "--out", tmp_path,
                               *options], check=True, capture_output=True, text=True, timeout=300).stdout

    first, second = sweep(), sweep()
    assert "== cell 1 of 1" in first and first.endswith(second) and "1 of 1 cells measured" in second
    kept = json.loads((tmp_path / "sweep.json").read_text())
    libraries = kept["cells"][0]["libraries"]
    libraries["evenflow"]["percent_of_peak"] = {"step": 80}
    libraries["jax"] = {"ratio": {"step": 1.5}, "errors": {"log_prob": "no such thing"}}
    (tmp_path / "sweep.json").write_text(json.dumps(kept))
    table = sweep("--show")
    assert "1.50 jax" in table and "failed: jax: log_prob: no such thing" in table and "1 of 1 cells reach" in table
    assert (tmp_path / "sweep.png").stat().st_size > 0


@pytest.mark.parametrize("net", ["mlp", "residual"])
@pytest.mark.parametrize("law", ["affine", "additive", "spline"])
def test_torch_has_our_density(law, net, monkeypatch):
    """With our weights: both time the same model."""
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(BENCH)
    dims = 2 if law == "spline" else 5  # of more columns our splines' numbers have another order
    sizes = dict(law=law, net=net, context=3, couplings=4, hidden=(7, 7), bins=8, bound=4.0)
    flow = ef.CouplingFlow(dims, **sizes, permutation="none", base="gaussian", preprocess="none")
    peer = importlib.import_module("peers_torch").CouplingFlow({**sizes, "dims": dims})
    rng = np.random.default_rng(0)
    x, context = (rng.standard_normal((50, n), dtype=np.float32) for n in (dims, 3))
    flow.init(x, context=context)
    weights = [value for name, value in flow.named_parameters().items() if name.startswith("coupling")]
    with torch.no_grad():
        for ours, theirs in zip(weights, peer.parameters(), strict=True):
            ours[...] = 0.3 * rng.standard_normal(ours.shape)
            theirs.copy_(torch.tensor(ours.T))
        peer.context = torch.tensor((context - context.mean(0)) / context.std(0))
        expected = peer.log_prob(torch.tensor(x)).numpy()
    np.testing.assert_allclose(flow.log_prob(x, context=context), expected, rtol=1e-4)


def runs(process):
    try:
        return pathlib.Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def ends(process):
    end = time.monotonic() + 10
    while runs(process) and time.monotonic() < end:
        time.sleep(0.01)
    return not runs(process)


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_no_worker_outlives_a_killed_run():
    start = ("import subprocess, sys; worker = subprocess.Popen(sys.argv[1:], stdin=0, stdout=subprocess.PIPE); "
             "worker.stdout.readline(); print(worker.pid, flush=True); worker.wait()")
    command = [sys.executable, "-c", start, *worker_command("nice", "evenflow"), "--turns"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        assert runs(worker)
        parent.kill()
        assert ends(worker)  # though its input stays open


def test_results_so_far(gpu, monkeypatch):
    """On a GPU after each call of each library, evenflow's first in every round."""
    run_py, work, kept = importlib.import_module("run"), "gpu_glow_depth_4", []

    class Measured:
        def __init__(self, a, work, library, threads):
            self.ms = {}

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def time(self, call):
            self.ms[call] = 2.0

        def result(self):
            return {"sizes": gpu.WORKS_ON_GPUS[work].sizes, "ms": dict(self.ms), "errors": {}}

    monkeypatch.setattr(run_py, "Worker", Measured)
    monkeypatch.setattr(run_py, "peaks", lambda a: [])
    a = argparse.Namespace(device="cuda", rounds=2, quick=False, smoke=False, threads=1, libraries=None, calls=None)
    last = run_py.run_work(a, work, lambda result: kept.append(json.loads(json.dumps(result))))
    assert kept[-1] == last and kept[0]["libraries"]["torch"] == {"error": "not measured yet"}
    found = [[sum(len(r[library]["ms"]) for library in r if r[library]) for r in result["rounds"]] for result in kept]
    assert found == [[1], [2], [3], [4], [4, 1], [4, 2], [4, 3], [4, 4]]
    assert last["libraries"]["torch"]["ratio"] == {"step_rebuilding": 1.0, "step": 1.0}
    one = argparse.Namespace(**{**vars(a), "calls": "step,sample"})
    assert list(run_py.run_work(one, work, kept.append)["libraries"]["torch"]["median_ms"]) == ["step"]


def test_kernels_of_ncu(gpu, tmp_path, monkeypatch, capsys):
    """Times and percents, by kernel; what fails says why."""
    def launch(number, kernel, values, time_unit="ns"):
        return "\n".join(f'"{number}","77","python","127.0.0.1","{kernel}","1","13","(256, 1, 1)","(64, 1, 1)","0",'
                         f'"9.0","Command line profiler metrics","{name}","{unit}","{value}"' for name, unit, value in
                         zip((gpu.TIME, *gpu.PERCENTS.values()), (time_unit, "%", "%"), values))

    log, metrics, given = (tmp_path / name for name in ("log", "metrics", "given"))
    log.write_text("\n".join(["==PROF== Connected to process 77 (/usr/bin/python3.12)", HEAD,
                              launch(0, FILL, ("2,000", "80.5", "n/a")), launch(1, PRODUCT, ("1,000,000", "10", "60")),
                              launch(2, PRODUCT, ("3,000,000.00", "20", "40")), launch(3, FILL, 3 * ("n/a",))]))
    metrics.write_text("\n".join(f"{name.split('.')[0]}  Counter" for name in (gpu.TIME, gpu.PERCENTS["memory"])))

    def profile(text):
        ncu = program(tmp_path / "ncu", f'if [ "$1" = --query-metrics ]; then cat {metrics}; exit; fi\n'
                      f'while [ "$1" != --log-file ]; do echo "$1" >> {given}; shift; done\n{text}')
        monkeypatch.setattr(gpu, "find_tool", lambda name: ncu)
        return gpu.profile(["a", "step"], 60.0)

    outcome, found = profile(f'cp {log} "$2"')
    assert outcome == "ok" and found["metrics"] == [gpu.TIME, gpu.PERCENTS["memory"]]  # those that this ncu has
    assert f"--cache-control none --metrics {','.join(found['metrics'])}" in " ".join(given.read_text().split())
    assert found["kernels"] == [
        {"kernel": "Product<Bf16, (int)128>", "launches": 2, "ms": pytest.approx(4), "memory": pytest.approx(17.5),
         "tensor_cores": pytest.approx(45)},
        {"kernel": "void fill<float>(float *, int)", "launches": 1, "ms": pytest.approx(0.002),
         "memory": pytest.approx(80.5), "tensor_cores": None}]
    table = capsys.readouterr().out
    assert "17.5 %  45.0 %" in table and "80.5 %       -" in table
    refused = "==ERROR== ERR_NVGPUCTRPERM - no permission"
    assert profile(f'echo "{refused}\n{refused}" > "$2"; exit 9') == (f"exit status 9; {refused}", {})
    assert profile(f'echo "{refused}" > "$2"') == (f"expected ncu to see kernels, got none; {refused}", {})
    with pytest.raises(ValueError, match="expected times in ns, got us"):
        gpu.kernels("\n".join([HEAD, launch(0, FILL, ("2", "80", "0"), "us")]))


def test_checks(gpu, tmp_path, monkeypatch):
    """What runs on which device, and what each stage leaves."""
    files = {pathlib.Path(path).name for path in gpu.device_tests()}
    assert {"test_device.py", "test_device_arrays.py"} <= files
    assert not files & {"conftest.py", "test_bench.py"}
    summary = "[doctest] test cases:   3 |   3 passed | 0 failed | 40 skipped"
    seen = tmp_path / "seen"
    tests = program(tmp_path / "device_tests",
                    f'echo "$1 $EVENFLOW_TEST_DEVICE $EVENFLOW_CUDA_LIBRARY" > {seen}; echo "{summary}"')
    sanitizer = program(tmp_path / "sanitizer", f'echo "$@" > {tmp_path}/"$2"; echo "{PASSED}"')
    monkeypatch.setenv("EVENFLOW_DEVICE_TESTS", tests)
    monkeypatch.setattr(gpu, "find_tool", lambda name: sanitizer)
    monkeypatch.setenv("EVENFLOW_CUDA_LIBRARY", "a.so")
    a = argparse.Namespace(job="check", smoke=False, stages=["kernels", "memcheck", "racecheck"], limit=60.0,
                           out=tmp_path)
    assert gpu.measure(a, "a card") == dict.fromkeys(a.stages, "ok")
    assert seen.read_text() == "--test-suite=any device cuda a.so\n"
    kept = json.loads((tmp_path / "check_kernels.json").read_text())
    assert kept["outcome"] == "ok" and kept["counts"] == {"passed": 3, "failed": 0, "skipped": 40}
    for tool, looks in (("memcheck", True), ("racecheck", False)):  # at the order of streams
        assert ("--track-stream-ordered-races all" in (tmp_path / tool).read_text()) == looks
    monkeypatch.delenv("EVENFLOW_DEVICE_TESTS")
    assert gpu.measure(a, None)["kernels"].startswith("expected EVENFLOW_DEVICE_TESTS to name device_tests")


@pytest.mark.parametrize("lines, counts", [
    ("[doctest] test cases: 0 | 0 passed | 0 failed | 43 skipped", {"passed": 0, "failed": 0, "skipped": 43}),
    ("7 skipped, 9 deselected in 0.31s", {"skipped": 7, "deselected": 9}), ("no tests ran in 0.01s", {}), ("", {}),
    (f"{PASSED}\n========= ERROR SUMMARY: 0 errors", {"passed": 5, "skipped": 2, "deselected": 700})])
def test_tests_that_did_not_run(gpu, lines, counts):
    """Are no success, though their program's status is."""
    expected = "ok" if counts.get("passed") else f"expected tests to run, got {counts or 'none'}"
    assert gpu.run_tests(["echo", lines]) == (expected, {"counts": counts})


def test_limit_of_a_stage(gpu, tmp_path):
    """What it started ends with it."""
    assert gpu.run(["sh", "-c", "echo one; exit 3"]) == ("exit status 3", ["one"])
    started = tmp_path / "started"
    outcome, _ = gpu.run(["sh", "-c", f"sleep 100 & echo $! > {started}; wait"], limit=3)
    assert outcome == "expected to end within 3 s, did not" and ends(int(started.read_text()))


def test_what_a_gpu_tells(gpu, tmp_path, monkeypatch):
    """From nvidia-smi; None, and no error, where nobody tells."""
    worker, smi = importlib.import_module("worker"), tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert gpu.machine.gpu_name() == "unknown GPU" and gpu.machine.gpu_state() is None
    program(smi, "echo 1980, 1980, 2619, 512.10, 700.00, 41")
    assert gpu.machine.gpu_state()["power.draw"] == "512.10"
    program(smi, "echo 1000")
    memory = worker.Memory("cuda")
    program(smi, "echo 3000")
    assert memory.taken() == pytest.approx(2000 * 1.048576)
    program(smi, "echo '[N/A]'")
    assert memory.taken() is None


def test_failures_of_our_calls(gpu, tmp_path):
    """A peer may fail."""
    good = {"median_ms": {"step": 1.0}, "errors": {}, "peak_mb": {"step": 600.0}}
    for name, ours in (("one", good), ("two", {**good, "errors": {"sample": "no"}}), ("three", {"error": "gone"}),
                       ("four", {**good, "peak_mb": {"step": None}})):
        libraries = {"evenflow": ours, "torch": {"missing": "no torch"}}
        (tmp_path / f"{name}.json").write_text(json.dumps({"libraries": libraries}))
    assert gpu.our_failures(tmp_path, ["one", "two", "three", "four"]) == {
        "two, evenflow": "{'sample': 'no'}", "three, evenflow": "{'error': 'gone'}",
        "four, evenflow": "expected memory in MB, got {'step': None}"}


def test_peers_that_compile_are_last(gpu):
    """In every work: what stops a run while they do keeps the others' results."""
    for work in gpu.WORKS_ON_GPUS.values():
        compiled = [library.startswith("torch-compile") for library in work.libraries]
        assert compiled == sorted(compiled) and work.libraries[0].startswith("evenflow")


@pytest.mark.skipif(not BUILT, reason="EVENFLOW_EMULATED_BUILT names no folder")
def test_our_arrays_on_a_gpu():
    """Stay there, as peers' do."""
    text = f"""
import sys
sys.path.insert(0, {str(BENCH)!r})
import evenflow as ef, ours, works
work = works.WORKS_ON_GPUS["gpu_table_64"]
calls = ours.build("evenflow-high", work.model, {{**work.sizes, **work.smoke}}, 1, "cuda")
calls["step"]()
for call, rows in (("log_prob", 16), ("log_prob_1", 1), ("sample", 16)):
    result = calls[call]()
    assert isinstance(result, ef.DeviceArray) and len(result) == rows, result
assert ef.matmul_precision() == "high"
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=300,
                          env={**os.environ, "EVENFLOW_CUDA_LIBRARY": f"{BUILT}/libevenflow_emulated.so"})
    assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_compiled_blocks(gpu):
    """Train, score and sample as the same model without; a program a level and pass, not a step."""
    torch = pytest.importorskip("torch")
    from torch._dynamo.testing import CompileCounter
    peers, programs, found = importlib.import_module("peers_torch"), CompileCounter(), []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = peers.Glow(16, 2, 2, 8).to(memory_format=torch.channels_last)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.02 * torch.randn_like(p))  # no identity
        x = torch.rand(4, 3, 16, 16) - 0.5
        with torch._dynamo.config.patch(recompile_limit=torch._dynamo.config.recompile_limit):  # which it changes
            if compiled:
                peers.compile_blocks(model, dynamic=False, backend=programs)
            calls = peers.calls(model, model.log_prob, model.sample, x)
            for _ in range(2):
                calls["step"]()
            torch.manual_seed(1)
            with torch.inference_mode():
                found.append([model.log_prob(x), model.sample(4), *model.parameters()])
    assert programs.frame_count == 2 * 3 + 1  # levels, in step, log_prob and sample; the first input has no gradient
    for eager, other in zip(*found):
        torch.testing.assert_close(other, eager)
