"""Samples that overflow: drawn anew, counted, or refused."""

import numpy as np
import pytest

import evenflow as ef


def stretching(size):
    """A flow whose inverse overflows for some draws, more of them the larger its weights are."""
    flow = ef.CouplingFlow(2, law="exp", net="mlp", hidden=(16,), couplings=4, permutation="none", base="gaussian")
    flow.init(np.random.default_rng(0).standard_normal((500, 2)))
    weights = np.random.default_rng(0)
    for name, value in flow.named_parameters().items():
        if name.startswith("coupling"):
            value[...] = size * weights.standard_normal(value.shape)
    return flow


def overflows(flow, n):
    found = []
    for i in range(n):
        try:
            flow.sample(1, seed=0, first=i, on_nonfinite="raise")
        except ef.NumericError:
            found.append(i)
    return found


def test_rare_samples_that_overflow_are_drawn_anew():
    flow = stretching(0.45)
    bad = overflows(flow, 1000)
    assert 1 < len(bad) < 10
    with pytest.warns(ef.DataWarning, match=f"{len(bad)} of 1,000 "):
        x = flow.sample(1000, seed=0)
    assert np.isfinite(x).all()
    good = min(set(range(1000)) - set(bad))
    assert (x[good] == flow.sample(1, seed=0, first=good)[0]).all()
    with pytest.warns(ef.DataWarning, match="1 of 1 "):  # by its number, whatever n is
        assert (x[bad[0]] == flow.sample(1, seed=0, first=bad[0])[0]).all()
    for refuse in (flow.sample_and_log_prob, lambda n, seed: flow.sample(n, seed=seed, on_nonfinite="raise")):
        with pytest.raises(ef.NumericError):
            refuse(1000, seed=0)


def test_many_samples_that_overflow_are_an_error():
    flow = stretching(0.6)
    assert len(overflows(flow, 300)) > 3
    with pytest.raises(ef.NumericError):
        flow.sample(300, seed=0)


@pytest.mark.filterwarnings("default")
def test_a_file_of_samples_counts_all_of_them(tmp_path, capfd):
    from evenflow.cli import main
    flow = stretching(0.45)
    flow.save(tmp_path / "model.safetensors")
    assert main(["sample", str(tmp_path / "model.safetensors"), "--n", "100000", "--out", str(tmp_path / "x.npy")]) == 0
    assert np.isfinite(np.load(tmp_path / "x.npy")).all()
    told = capfd.readouterr().err
    assert told.count("drawn anew") == 1 and "of 100,000 samples" in told


def test_bounded_couplings_keep_samples_finite():
    """Nets of large weights stand for those that have never been trained where a sample comes to lie."""
    bad = {}
    for coupling in ("affine", "bounded"):
        flow = ef.Glow((8, 8, 1), levels=2, steps=4, hidden=16, coupling=coupling)
        flow.init(ef.data.load("digits").train)
        weights = np.random.default_rng(0)
        for name, value in flow.named_parameters().items():
            if "coupling" in name and name.endswith("weight"):
                value[...] = 0.35 * weights.standard_normal(value.shape)
        bad[coupling] = len(overflows(flow, 100))
    assert bad["affine"] > 10 and bad["bounded"] == 0
