"""The examples in docstrings of the names that people use most run."""

import doctest
import importlib

import numpy as np
import pytest

import evenflow as ef

NAMES = ["evenflow.CouplingFlow", "evenflow.Glow", "evenflow.RealNVP", "evenflow.NICE", "evenflow.load",
         *(f"evenflow.Flow.{name}" for name in ("fit", "log_prob", "sample", "sample_and_log_prob", "forward", "inverse",
                                                "log_prob_and_grad", "train_step", "save", "verify", "importance")),
         "evenflow.Adam", "evenflow.calibration", "evenflow.score.p_values", "evenflow.verify.Report",
         *(f"evenflow.latent.{name}" for name in ("reconstruct", "interpolate", "attribute")),
         "evenflow.inpaint.inpaint", "evenflow.importance.ImportanceSamples",
         "evenflow.plot.grid", "evenflow.plot.save_grid", "evenflow.plot.marginals", "evenflow.sklearn.FlowDensity", "evenflow.torch.FlowModule"]

NEEDED = {"evenflow.torch": ["torch"], "evenflow.sklearn": ["sklearn"], "evenflow.plot": ["PIL", "matplotlib"]}


@pytest.mark.parametrize("name", NAMES)
def test_example_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module, _, path = name.partition(".Flow.") if ".Flow." in name else name.rpartition(".")
    for package in NEEDED.get(module, ()):
        pytest.importorskip(package)
    found = importlib.import_module(module)
    for part in name.removeprefix(f"{module}.").split("."):
        found = getattr(found, part)
    names = {"np": np, "ef": ef, name.rpartition(".")[2]: found}
    examples = doctest.DocTestParser().get_doctest(found.__doc__, names, name, None, None)
    said = []
    result = doctest.DocTestRunner().run(examples, out=said.append)
    assert result.attempted and not result.failed, "".join(said)
    assert "See Also" in found.__doc__
