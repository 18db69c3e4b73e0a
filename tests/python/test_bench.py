"""The scripts of bench/, on tiny models, and what they make of other programs' output."""

import importlib
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import evenflow as ef


pytestmark = pytest.mark.slow
BENCH = pathlib.Path(__file__).parents[2] / "bench"


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
