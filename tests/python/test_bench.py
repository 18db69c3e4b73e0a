"""What the scripts of bench/ make of other programs' output."""

import argparse
import contextlib
import importlib
import json
import os
import pathlib
import subprocess
import sys
import time
import types

import pytest

BUILT = os.environ.get("EVENFLOW_EMULATED_BUILT", "")  # a folder of a build with EVENFLOW_TESTS
BENCH = pathlib.Path(__file__).parents[2] / "bench"
HEAD = ('"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size",'
        '"Device","CC","Section Name","Metric Name","Metric Unit","Metric Value"')
PRODUCT = "void evenflow::cuda::run_body<evenflow::device::Product<evenflow::Bf16, (int)128>>(T1)"
PASSED = "5 passed, 2 skipped, 700 deselected in 63.10s (0:01:03)"
FILL = "void at::native::fill<float>(float *, int)"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module("gpu")


def lines(gpu, launch, kernel, values, time_unit="ns"):
    """Of ncu --csv --print-units base: a launch's three metrics."""
    units = (time_unit, "%", "%")
    return [f'"{launch}","77","python","127.0.0.1","{kernel}","1","13","(256, 1, 1)","(64, 1, 1)","0","9.0",'
            f'"Command line profiler metrics","{name}","{unit if value != "n/a" else ""}","{value}"'
            for name, unit, value in zip((gpu.TIME, *gpu.PERCENTS.values()), units, values)]


def test_kernels_of_ncu(gpu, capsys):
    text = "\n".join(["==PROF== Connected to process 77 (/usr/bin/python3.12)",
                      '==PROF== Profiling "run_body" - 0: 0%....50%....100% - 3 passes', HEAD,
                      *lines(gpu, 0, FILL, ("2,000", "80.5", "n/a")),
                      *lines(gpu, 1, PRODUCT, ("1,000,000", "10", "60")),
                      *lines(gpu, 2, PRODUCT, ("3,000,000.00", "20", "40")),
                      *lines(gpu, 3, FILL, ("n/a", "n/a", "n/a")),
                      "==PROF== Disconnected from process 77"])
    product, fill = gpu.kernels(text)
    assert product == {"kernel": "Product<Bf16, (int)128>", "launches": 2, "ms": pytest.approx(4),
                       "memory": pytest.approx(17.5), "tensor_cores": pytest.approx(45)}
    assert fill == {"kernel": "void fill<float>(float *, int)", "launches": 1, "ms": pytest.approx(0.002),
                    "memory": pytest.approx(80.5), "tensor_cores": None}
    gpu.show([product, fill])
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 3 and table[1].split()[:4] == ["4.000", "100.0", "%", "2"]
    assert "17.5 %  45.0 %" in table[1] and "80.5 %       -" in table[2]


def test_kernels_in_another_unit(gpu):
    with pytest.raises(ValueError, match="expected times in ns, got us"):
        gpu.kernels("\n".join([HEAD, *lines(gpu, 0, FILL, ("2", "80", "0"), "us")]))


def tool(path, text):
    """In the place of a program of CUDA's toolkit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_stage_of_ncu(gpu, tmp_path, monkeypatch):
    """One step, as it runs without ncu; what fails says why, and keeps what was written before."""
    (tmp_path / "log").write_text("\n".join([HEAD, *lines(gpu, 0, FILL, ("2000", "80", "0"))]))
    refused = "==ERROR== ERR_NVGPUCTRPERM - no permission"
    (tmp_path / "metrics").write_text("Device NVIDIA H100\n" + "\n".join(
        f"{name.split('.')[0]}  Counter  %  of something" for name in (gpu.TIME, gpu.PERCENTS["memory"])))

    def stage(text):
        ncu = tool(tmp_path / "ncu", f'if [ "$1" = --query-metrics ]; then cat {tmp_path}/metrics; exit; fi\n'
                   'while [ "$1" != --log-file ]; do echo "$1" >> ' + f"{tmp_path}/given; shift; done"
                   f'\n{text}')
        monkeypatch.setattr(gpu, "find_tool", lambda name: ncu)
        outcomes = {}
        gpu.profile(argparse.Namespace(limit=60.0, card="a card"), tmp_path, outcomes, ["a", "step"])
        return outcomes["kernels"]

    assert stage(f'cp {tmp_path}/log "$2"') == "ok"
    given = " ".join((tmp_path / "given").read_text().split())
    assert given.startswith("--profile-from-start off --clock-control none --cache-control none --metrics "
                            f"{gpu.TIME},{gpu.PERCENTS['memory']} --csv")
    (tmp_path / "metrics").write_text("==ERROR== no device")
    assert gpu.known_metrics(tmp_path / "ncu") == [gpu.TIME, *gpu.PERCENTS.values()]
    assert stage(f'echo "{refused}\n{refused}" > "$2"; exit 9') == f"exit status 9; {refused}"
    assert stage(f'echo "{refused}" > "$2"') == f"expected ncu to see kernels, got none; {refused}"
    assert stage("exit 1") == "exit status 1"
    assert json.loads((tmp_path / "kernels.json").read_text())["kernels"][0]["launches"] == 1


def test_one_step_for_a_profiler(gpu, monkeypatch):
    """The second, which is no graph yet; ncu is told of nothing else."""
    worker, told, status = importlib.import_module("worker"), [], 0

    def driver(name):
        return types.SimpleNamespace(cuProfilerStart=lambda: told.append("start") or status,
                                     cuProfilerStop=lambda: told.append("stop") or status)

    monkeypatch.setattr(worker.ctypes, "CDLL", driver)
    work = worker.Work.__new__(worker.Work)
    work.calls, work._on_gpu = {"step": lambda: told.append("step")}, True
    work.profile()
    assert told == ["step", "start", "step", "stop"]
    status = 201
    with pytest.raises(RuntimeError, match="expected cuProfilerStart to give 0, got 201"):
        work.profile()


def test_tools(gpu, tmp_path, monkeypatch):
    """The newest Nsight Compute that has it, where nothing else does."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(gpu, "NSIGHT", f"{tmp_path}/nsight-compute/*/")
    assert gpu.find_tool("a-tool") is None
    for version in ("2024.9.1", "2025.2.0", "2025.10.0"):
        tool(tmp_path / "nsight-compute" / version / "a-tool", "")
    (tmp_path / "nsight-compute" / "2026.1.0").mkdir()
    assert gpu.find_tool("a-tool") == f"{tmp_path}/nsight-compute/2025.10.0/a-tool"
    on_path = tool(tmp_path / "bin" / "a-tool", "")
    assert gpu.find_tool("a-tool") == on_path


def test_what_is_sanitized(gpu, tmp_path, monkeypatch):
    """Files without a test for a device are not read; memcheck alone looks at the order of streams."""
    files = {pathlib.Path(path).name for path in gpu.device_tests()}
    assert {"test_device.py", "test_device_arrays.py", "test_nccl.py"} <= files
    assert not files & {"conftest.py", "test_bench.py", "test_ptx.py"}
    sanitizer = tool(tmp_path / "sanitizer", f'echo "$@" > {tmp_path}/"$2"; echo "{PASSED}"')
    monkeypatch.setattr(gpu, "find_tool", lambda name: sanitizer)
    options = argparse.Namespace(smoke=False, stages=["memcheck", "racecheck"], limit=60.0, card="a card")
    assert gpu.check(options, tmp_path) == {"memcheck": "ok", "racecheck": "ok"}
    more = {stage: "--track-stream-ordered-races all" in (tmp_path / stage).read_text() for stage in options.stages}
    assert more == {"memcheck": True, "racecheck": False}


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


def test_failures_of_our_calls(gpu, tmp_path):
    """A peer may fail."""
    good = {"median_ms": {"step": 1.0}, "errors": {}, "peak_mb": {"step": 600.0}}
    for name, ours in (("one", good), ("two", {**good, "errors": {"sample": "no"}}), ("three", {"error": "gone"}),
                       ("four", {**good, "peak_mb": {"step": 600.0, "step_rebuilding": None}})):
        libraries = {"evenflow": ours, "torch": {"missing": "no torch"}}
        (tmp_path / f"{name}.json").write_text(json.dumps({"libraries": libraries}))
    assert gpu.our_failures(tmp_path, ["one", "two", "three", "four"]) == {
        "two, evenflow": "{'sample': 'no'}", "three, evenflow": "{'error': 'gone'}",
        "four, evenflow": "expected memory in MB, got {'step': 600.0, 'step_rebuilding': None}"}


def test_best_steps(gpu, tmp_path, capsys):
    """A peer's best batch counts against ours; none is the best before one that compiles has a step."""
    def work(batch, **steps):
        entries = {library.replace("_", "-"): {"median_ms": {"step": ms}} for library, ms in steps.items()}
        return {"sizes": {"batch": batch}, "libraries": {**entries, "normflows": {"error": "no memory"}}}

    parts = {"gpu_glow256_4": work(4, evenflow=2.0, torch=8.0, torch_compile=4.0),
             "gpu_glow256_16": work(16, evenflow=4.0, evenflow_bf16=2.0, torch=8.0),
             "gpu_glow_16": work(16, torch_compile=1.0, torch_graph=0.5), "table": work(1, evenflow=1.0, peak=0.1)}
    ours = {"evenflow": {"median_ms": {}, "peak_mb": {"step": 900.0, "step_rebuilding": None}, "state_mb": 600.0}}
    parts["gpu_glow_depth_4"] = {"sizes": {"batch": 64}, "libraries": ours}
    for name, part in parts.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(part))
    said = gpu.report.merge(tmp_path)
    small, large, peers, table = (said["steps"][name] for name in list(parts)[:4])
    assert small["ours"]["per_s"] == 2000 and small["peer"]["per_s"] == 1000 and small["ratio"] == 2
    assert large == {"ours": {"library": "evenflow-bf16", "work": "gpu_glow256_16", "per_s": 8000},
                     "peer": "no compiled peer"}
    assert peers["ours"] is None and peers["peer"]["library"] == "torch-graph" and "ratio" not in peers
    assert table["peer"] == "no compiled peer"
    most = said["steps_at_any_batch"]
    assert most["ours"]["work"] == "gpu_glow256_16" and most["peer"]["library"] == "torch"
    assert most["ratio"] == 4
    assert said["memory_mb"]["gpu_glow_depth_4"] == {"evenflow": {"step": {"peak": 900, "besides_state": 300}}}
    gpu.report.show_merged(said)
    shown = capsys.readouterr().out
    assert "best at any batch, gpu_glow256: a second, ours 8000 (evenflow-bf16, gpu_glow256_16)" in shown
    assert "gpu_glow_16: a second, ours none" in shown
    assert "step: 900 MB, 300 besides parameters, gradients and moments" in shown


def test_memory_of_a_gpu(gpu, tmp_path, monkeypatch):
    """What the card has lost since the process began; None, and no error, where nobody tells."""
    worker = importlib.import_module("worker")
    smi = tmp_path / "nvidia-smi"

    def tells(text):
        smi.write_text(f"#!/bin/sh\necho '{text}'\n")
        smi.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    tells("1000")
    memory = worker.Memory("cuda")
    tells("3000")
    assert memory.taken() == pytest.approx(2000 * 1.048576)
    tells("[N/A]")
    assert memory.taken() is None
    timings = {"step_rebuilding": {"ms": 1.0, "peak_mb": 1200.0}, "step": {"ms": 1.0, "peak_mb": 9800.0}}
    assert worker.collected({}, timings)["peak_mb"] == {"step_rebuilding": 1200.0, "step": 9800.0}

def test_kernels_on_a_gpu(gpu, tmp_path, monkeypatch):
    """The C++ tests compare the device that their environment names."""
    tests, seen = tmp_path / "device_tests", tmp_path / "seen"
    summary = "[doctest] test cases:   3 |   3 passed | 0 failed | 40 skipped"
    tests.write_text(f'#!/bin/sh\necho "$1 $EVENFLOW_TEST_DEVICE $EVENFLOW_CUDA_LIBRARY" > {seen}; echo "{summary}"\n')
    tests.chmod(0o700)
    package = tmp_path / "evenflow_cuda"
    package.mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("EVENFLOW_CUDA_LIBRARY", raising=False)
    options = argparse.Namespace(smoke=False, stages=["kernels"], limit=60.0, card="a card")
    monkeypatch.delenv("EVENFLOW_DEVICE_TESTS", raising=False)
    assert gpu.check(options, tmp_path)["kernels"].startswith("expected EVENFLOW_DEVICE_TESTS to name device_tests")
    monkeypatch.setenv("EVENFLOW_DEVICE_TESTS", str(tests))
    for file, library in ((None, ""), ("libevenflow_cuda.so", str(package / "libevenflow_cuda.so"))):
        if file:
            (package / file).touch()
        assert gpu.check(options, tmp_path) == {"kernels": "ok"}
        assert seen.read_text() == f"--test-suite=any device cuda {library}\n"
    assert json.loads((tmp_path / "check_kernels.json").read_text())["counts"] == {
        "passed": 3, "failed": 0, "skipped": 40}
    monkeypatch.setenv("EVENFLOW_CUDA_LIBRARY", "another")
    gpu.check(options, tmp_path)
    assert seen.read_text() == "--test-suite=any device cuda another\n"


@pytest.mark.parametrize("lines, counts", [
    ("[doctest] test cases: 0 | 0 passed | 0 failed | 43 skipped", {"passed": 0, "failed": 0, "skipped": 43}),
    ("7 skipped, 9 deselected in 0.31s", {"skipped": 7, "deselected": 9}),
    ("no tests ran in 0.01s", {}), ("", {}),
    (f"{PASSED}\n========= ERROR SUMMARY: 0 errors", {"passed": 5, "skipped": 2, "deselected": 700})])
def test_tests_that_did_not_run(gpu, lines, counts):
    """Are no success, though their program's status is."""
    outcomes = {}
    assert gpu.tests_run(outcomes, "tests", "echo", lines) == counts
    assert outcomes["tests"] == ("ok" if counts.get("passed") else f"expected tests to run, got {counts or 'none'}")


def test_stages(gpu, tmp_path, monkeypatch):
    """Each has a limit, and its outcome a file when it ends; what it started ends with it."""
    def stage(text, limit=60.0):
        outcomes = {}
        assert gpu.run(outcomes, "one", "sh", "-c", text, limit=limit) == (outcomes["one"] == "ok")
        return outcomes["one"]

    assert stage("exit 0") == "ok" and stage("exit 3") == "exit status 3"
    started = tmp_path / "started"
    assert stage(f"sleep 100 & echo $! > {started}; wait", 3) == "expected to end within 3 s, did not"
    end = time.monotonic() + 10
    while runs(int(started.read_text())) and time.monotonic() < end:
        time.sleep(0.01)
    assert not runs(int(started.read_text()))
    monkeypatch.setattr(gpu, "find_tool", lambda name: None)
    options = argparse.Namespace(smoke=False, stages=["racecheck"], limit=1.0, card="a card")
    expected = {"racecheck": 'expected compute-sanitizer, got none; pip install "cuda-toolkit[sanitizer]"'}
    assert gpu.check(options, tmp_path) == expected
    assert json.loads((tmp_path / "check_racecheck.json").read_text())["outcome"] == expected["racecheck"]
    (tmp_path / "training.json").write_text('{"curve": [1]}')
    (tmp_path / "kernels.json").write_text('{"kernels": [')
    gpu.check(options, tmp_path)
    parts = json.loads((tmp_path / "summary.json").read_text())["parts"]
    assert parts["check_racecheck"]["outcome"] == expected["racecheck"] and parts["training"] == {"curve": [1]}
    assert parts["kernels"]["error"].startswith("expected JSON, got")


def test_a_gpu_that_torch_cannot_use(gpu, tmp_path, monkeypatch):
    """Its name is nvidia-smi's, and times have no percents beside them."""
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu.machine.gpu_name() == "unknown GPU"
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho NVIDIA H100 80GB HBM3\n")
    smi.chmod(0o755)
    assert gpu.machine.gpu_name() == "NVIDIA H100 80GB HBM3"
    smi.write_text("#!/bin/sh\necho 1980, 1980, 2619, 512.10, 700.00, 41\n")
    assert gpu.machine.gpu_state() == {"clocks.sm": "1980", "clocks.max.sm": "1980", "clocks.mem": "2619",
                                       "power.draw": "512.10", "power.limit": "700.00", "temperature.gpu": "41"}
    smi.unlink()
    assert gpu.machine.gpu_state() is None
    measured = importlib.import_module("run").peaks(argparse.Namespace(device="cuda"))
    result = {"sizes": gpu.WORKS_ON_GPUS["gpu_glow_16"].sizes, "ms": {"step": 2.0}, "errors": {}}
    first, libraries = gpu.report.summarise("gpu_glow_16", [{"evenflow": result}], measured)
    assert first == "evenflow" and measured == []
    assert libraries["evenflow"]["median_ms"] == {"step": 2.0} and libraries["evenflow"]["percent_of_peak"] == {}


def run(tmp_path, *options, libraries="evenflow"):
    script = pathlib.Path(__file__).parents[2] / "bench" / "run.py"
    done = subprocess.run([sys.executable, script, "--smoke", "--works", "nice", "--rounds", "2", "--threads", "1",
                           "--libraries", libraries, "--out", tmp_path, *options],
                          check=True, capture_output=True, text=True, timeout=300)
    return json.loads((tmp_path / "nice.json").read_text()), done.stdout


def test_calls_in_turns(tmp_path):
    result, table = run(tmp_path)
    ours = result["libraries"]["evenflow"]
    assert ours["ratio"] == {"step": 1, "log_prob": 1, "sample": 1} and ours["errors"] == {}
    assert list(ours["peak_mb"]) == ["step"] and ours["peak_mb"]["step"] > 1
    assert [set(r["evenflow"]["ms"]) for r in result["rounds"]] == [{"step", "log_prob", "sample"}] * 2
    assert all(ms > 0 for r in result["rounds"] for ms in r["evenflow"]["ms"].values())
    assert "step" in table and "evenflow" in table


def test_limits_in_turns(tmp_path):
    result, table = run(tmp_path, libraries="evenflow,peak,products")
    for name in ("peak", "products"):
        found = result["libraries"][name]
        assert found["errors"] == {} and set(found["ratio"]) == {"step", "log_prob", "sample"}
        assert all(ms > 0 for ms in found["median_ms"].values()) and found["peak_mb"] is None
    assert "products" in table


def test_what_limits_add_up(gpu, monkeypatch):
    """Operations at the peak; products of each pass, and an optimiser's seven arrays."""
    limits, works = importlib.import_module("limits"), importlib.import_module("works")
    library = types.SimpleNamespace(conv_seconds=lambda *product: 2e-3 if product[0] else 1e-3,
                                    update_gbs=lambda threads: 50.0)
    with pytest.raises(ValueError, match="expected device cpu, got cuda"):
        limits.build("peak", "nice", works.WORKS["nice"].sizes, 2, "cuda")
    monkeypatch.setattr(limits.native, "library", lambda: library)
    monkeypatch.setattr(limits, "peak", lambda threads, kind: {"float32": 100.0, "bfloat16": 250.0}[kind])
    for model, sizes, count, weights in (
            ("nice", works.WORKS["nice"].sizes, 4 * 6, 4 * (2 * 392 * 1000 + 4 * 1000 * 1000)),
            ("glow", works.SMALL_GLOW, 2 * 4 * 2 + 1, None)):
        calls = {name: limits.build(name, model, sizes, 2, "cpu") for name in ("peak", "peak-bf16", "products")}
        for call, needed in works.operations(model, sizes).items():
            assert limits.own_ms(calls["peak"][call], 0) == pytest.approx(1e-8 * needed)
            assert limits.own_ms(calls["peak-bf16"][call], 0) == pytest.approx(4e-9 * needed)
        assert limits.own_ms(calls["products"]["log_prob"], 0) == pytest.approx(count)
        if weights:
            assert limits.own_ms(calls["products"]["step"], 0) == pytest.approx(5 * count + 28e-6 * weights / 50)


def test_results_so_far(gpu, monkeypatch):
    """On a GPU after each call of each library, evenflow's first in every round."""
    run = importlib.import_module("run")

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

    work, kept = "gpu_glow_depth_4", []
    monkeypatch.setattr(run, "Worker", Measured)
    monkeypatch.setattr(run, "peaks", lambda a: [])
    options = argparse.Namespace(device="cuda", rounds=2, quick=False, smoke=False, threads=1, libraries=None, calls=None)
    last = run.run_work(options, work, lambda result: kept.append(json.loads(json.dumps(result))))
    assert kept[-1] == last and kept[0]["libraries"]["torch"] == {"error": "not measured yet"}
    found = [[sum(len(r[library]["ms"]) for library in r if r[library]) for r in result["rounds"]] for result in kept]
    assert found == [[1], [2], [3], [4], [4, 1], [4, 2], [4, 3], [4, 4]]
    assert [list(kept[i]["rounds"][0]["evenflow"]["ms"]) for i in (0, 1)] == [
        ["step_rebuilding"], ["step_rebuilding", "step"]]
    assert last["libraries"]["torch"]["ratio"] == {"step_rebuilding": 1.0, "step": 1.0}
    one = argparse.Namespace(**{**vars(options), "calls": "step,sample"})
    assert list(run.run_work(one, work, kept.append)["libraries"]["torch"]["median_ms"]) == ["step"]
    none = argparse.Namespace(**{**vars(options), "libraries": "jax"})
    assert run.run_work(none, work, kept.append)["libraries"] == {}


@pytest.fixture
def peers(gpu):
    pytest.importorskip("torch")
    return importlib.import_module("peers_torch")


def small_glow(peers):
    """Not the identity, and its batch."""
    import torch
    torch.manual_seed(0)
    model = peers.Glow(16, 2, 2, 8).to(memory_format=torch.channels_last)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn_like(p))
    return model, torch.rand(4, 3, 16, 16) - 0.5


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_compiled_blocks(peers):
    """Train, score and sample as the same model without; a program a level and pass, not a step."""
    import torch
    from torch._dynamo.testing import CompileCounter
    programs, found = CompileCounter(), []
    for compiled in (False, True):
        model, x = small_glow(peers)
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


def test_recorded_steps(peers, monkeypatch):
    """Recorded once, after steps that are not, without gradients, and replayed by every call."""
    import torch
    events, model = [], torch.nn.Linear(2, 1)
    with pytest.raises(ValueError, match=r"\[torch-graph\] expected device cuda, got cpu"):
        peers.build("torch-graph", "nice", {}, 1, "cpu")

    class Stream(contextlib.nullcontext):
        def wait_stream(self, other):
            pass

    @contextlib.contextmanager
    def recording(graph):
        events.append(("record", model.weight.grad))
        yield

    def log_prob(x):
        events.append("step")
        return model(x)[:, 0]

    monkeypatch.setattr(torch.optim, "Adam", lambda parameters, capturable, **_: torch.optim.SGD(parameters, lr=0.1)
                        if capturable else None)
    for name, fake in (("Stream", Stream), ("current_stream", Stream), ("stream", lambda stream: stream),
                       ("graph", recording),
                       ("CUDAGraph", lambda: types.SimpleNamespace(replay=lambda: events.append("replay")))):
        monkeypatch.setattr(torch.cuda, name, fake)
    calls = peers.calls(model, log_prob, None, torch.ones(3, 2), graphs=True)
    calls["step"]()
    calls["step"]()
    assert events == ["step"] * 3 + [("record", None), "step", "replay", "replay"]


@pytest.mark.filterwarnings("ignore:torch.lu is deprecated")
def test_norms_of_normflows(peers, monkeypatch):
    """Ask nothing of a GPU, whose place the device without memory takes; a Glow's nets are channels last."""
    pytest.importorskip("normflows")
    import torch
    import works
    flows, made = importlib.import_module("peers_flows"), []
    monkeypatch.setattr(flows.peers_torch, "calls", lambda net, *_: made.append(net))
    monkeypatch.setattr(flows.peers_torch, "prepare", lambda *_: None)
    flows.build("normflows", "glow", works.SMALL_GLOW, 1, "meta")
    net = made[0]
    flags = {name: flag for name, flag in net.named_buffers() if name.endswith("data_dep_init_done")}
    assert len(flags) >= works.SMALL_GLOW["levels"] * works.SMALL_GLOW["steps"]
    assert all(flag.device.type == "cpu" and flag for flag in flags.values())
    assert {p.device.type for p in net.parameters()} == {"meta"}
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in net.parameters() if p.ndim == 4)


def test_status_of_a_worker():
    """1 without a model; what it printed says why."""
    script = pathlib.Path(__file__).parents[2] / "bench" / "worker.py"
    for size, status in (("2", 0), ("-1", 1)):
        done = subprocess.run([sys.executable, script, "nice", "evenflow", "--smoke", "--threads", "1", "--seconds",
                               "0", "--calls", "step", "--set", f"couplings={size}"],
                              capture_output=True, text=True, timeout=300)
        assert done.returncode == status, done.stderr
        assert ("error" in json.loads(done.stdout)) == bool(status)


def runs(process):
    try:
        return pathlib.Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_no_worker_outlives_a_killed_run():
    script = pathlib.Path(__file__).parents[2] / "bench" / "worker.py"
    start = ("import subprocess, sys; worker = subprocess.Popen(sys.argv[1:], stdin=0, stdout=subprocess.PIPE); "
             "worker.stdout.readline(); print(worker.pid, flush=True); worker.wait()")
    command = [sys.executable, "-c", start, sys.executable, script, "nice", "evenflow", "--smoke", "--turns"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        worker = int(run.stdout.readline())
        assert runs(worker)
        run.kill()
        end = time.monotonic() + 10  # its input stays open
        while runs(worker) and time.monotonic() < end:
            time.sleep(0.01)
        assert not runs(worker)


def test_a_library_whose_process_dies(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no such thing >&2\nexit 3\n")
    python.chmod(0o755)
    result, table = run(tmp_path, "--python", str(python))
    assert result["libraries"] == {"evenflow": {"error": "exit status 3: no such thing"}}
    assert "error: exit status 3: no such thing" in table


def test_a_library_that_does_not_answer(tmp_path):
    python = tmp_path / "python"
    for script, error in (("sleep 100 & sleep 100", "expected an answer within 0.5 s, got none"),
                          ("echo no memory >&2; kill -9 $$", "exit status -9: no memory")):
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
        result, _ = run(tmp_path, "--python", str(python), "--limit", "0.5")
        assert result["libraries"] == {"evenflow": {"error": error}}
