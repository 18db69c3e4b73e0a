"""flow.verify: sound models pass, broken ones do not."""

import numpy as np
import pytest

import evenflow as ef
from evenflow.density import Density


def test_verify(images, table, model, table_model):
    for flow, x in ((model, images[0]), (table_model, table)):
        before = {k: v.copy() for k, v in flow.named_parameters().items()}
        report = flow.verify(x)
        assert report.ok and not report.failures and str(report).startswith("ok"), str(report)
        assert report.probed and 0 <= report.resolution < 1e-4
        assert all(np.array_equal(v, before[k]) for k, v in flow.named_parameters().items())


@pytest.mark.parametrize("make, shape, settings", [
    (ef.CouplingFlow, 3, dict(couplings=4, hidden=(16, 16))), (ef.NICE, 3, dict(hidden=(16, 16))),
    (ef.NICE, (4, 4, 2), dict(hidden=(16, 16))), (ef.Glow, (4, 4, 2), dict(levels=1, steps=2, hidden=8))])
def test_verify_of_bfloat16_nets(images, table, make, shape, settings):
    """Against an exact copy they are off by their rounding, which untrained nets hardly show."""
    x = table if shape == 3 else images[0]
    flow = make(shape, conditioner_dtype="bfloat16", **settings)
    flow.fit(x, steps=300, batch_size=50, lr=5e-3)
    report = flow.verify(x)
    assert report.ok and "float32, nets of bfloat16" in str(report), str(report)
    assert 1e-6 < report.precision < 5e-2 and report.jacobian < 1e-7 and report.gradient < 1e-4


def test_verify_finds_a_broken_model(table, table_model):
    # A column scale of 1e-30: the inverse still exists on paper, but not in float32.
    table_model.named_parameters()["preprocess.std"][0] = 1e-30
    report = table_model.verify(table)
    assert not report.ok and "FAILED" in str(report)


@pytest.mark.parametrize("tensor, check", [("logdet", "precision"), ("inverse", "round_trip_x")])
def test_verify_finds_a_wrong_tensor(table, real_nvp, tensor, check):
    flow = real_nvp(preprocess="whiten")
    flow.init(table)
    assert flow.verify(table).ok
    flow.named_parameters()[f"preprocess.{tensor}"][...] += 0.1
    failures = flow.verify(table).failures
    assert any(text.startswith(check) for text in failures), failures


@pytest.mark.parametrize("call, check", [("loss_and_grad", "gradient"), ("inverse", "logdet_sum")])
def test_verify_finds_a_wrong_derivative(table, table_model, monkeypatch, call, check):
    right = getattr(Density, call)

    def wrong(flow, *arguments, **given):
        found = right(flow, *arguments, **given)
        if call == "inverse":
            return found[0], 1.1 * found[1]
        flow.grads[:] *= 1.01
        return found

    monkeypatch.setattr(Density, call, wrong)
    failures = table_model.verify(table).failures
    assert len(failures) == 1 and failures[0].startswith(check), failures


def test_verify_probes_a_direction_above_512(images):
    flow = ef.Glow((16, 16, 3), levels=1, steps=1, hidden=4)
    x = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    flow.init(x)
    report = flow.verify(x)
    assert not report.probed and report.ok, str(report)


def test_rounding_of_the_data_is_no_fault_of_the_model():
    """An offset costs the digits of z that x does not have; a column that has hardly any left is told."""
    x = np.random.default_rng(0).standard_normal((1000, 2))
    flow = ef.CouplingFlow(2, dtype="float64")
    flow.init(1e12 + x)
    report = flow.verify(1e12 + x)
    assert report.ok and 1e-6 < report.resolution < 1e-3, report
    flow.named_parameters()["preprocess.std"][...] *= 1e-4
    text = flow.verify(1e12 + x).failures[0]
    assert text.startswith("resolution: expected <= 0.01") and "subtract an offset" in text


def test_what_ends_the_test_is_told_alone():
    x = np.exp(8 * np.abs(np.random.default_rng(0).standard_normal((2000, 2))))
    flow = ef.CouplingFlow(2, dtype="float64")
    flow.init(x)
    report = flow.verify(x[np.argsort(x.sum(1))])
    assert not report.ok and report.failures == [report.error] and "clip or transform their column" in report.error
    assert str(report) == f"FAILED: 16 samples, float64\n  failed: {report.error}"
