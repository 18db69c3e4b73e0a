"""Spline couplings of tables, through the public surface."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import evenflow as ef
from plain import plain_table


def one_spline(bins: int, bound: float, numbers: np.ndarray) -> ef.CouplingFlow:
    """A flow whose second column is a spline with these numbers (3 bins - 1), whatever the first column is."""
    flow = plain_table(2, law="spline", bins=bins, bound=bound, couplings=1, hidden=(), preprocess="none",
                           dtype="float64")
    flow.init(np.zeros((1, 2)))
    for name, values in flow.named_parameters().items():
        if name.endswith("bias"):
            values[:] = numbers
        elif name.endswith("weight"):
            values[:] = 0
    return flow


@pytest.mark.parametrize("bins, bound", [(2, 1.0), (8, 4.0), (10, 3.0)])
def test_a_spline_is_that_of_nflows(bins: int, bound: float) -> None:
    torch = pytest.importorskip("torch")
    splines = pytest.importorskip("nflows.transforms.splines")
    rng = np.random.default_rng(bins)
    for _ in range(10):  # bounds are some ten times what was measured
        numbers = rng.uniform(-5, 5, size=3 * bins - 1)
        x = np.concatenate([rng.uniform(-1.2 * bound, 1.2 * bound, size=400), [-bound, bound, 0.0]])
        flow = one_spline(bins, bound, numbers)
        table = np.stack([np.zeros_like(x), x], axis=1)
        z, logdet = flow.forward(table)

        theirs = torch.tensor(numbers, requires_grad=True)
        there = torch.tensor(x, requires_grad=True)
        rows = theirs.expand(len(x), -1)
        parts = dict(unnormalized_widths=rows[:, :bins], unnormalized_heights=rows[:, bins:2 * bins],
                     unnormalized_derivatives=rows[:, 2 * bins:], tails="linear", tail_bound=bound)
        y, log = splines.unconstrained_rational_quadratic_spline(there, **parts)
        assert np.abs(z[:, 1] - y.detach().numpy()).max() < 5e-12
        assert np.abs(logdet - log.detach().numpy()).max() < 1e-10

        back, inverse_logdet = flow.inverse(np.stack([np.zeros_like(x), x], axis=1))
        y_back, _ = splines.unconstrained_rational_quadratic_spline(there, **parts, inverse=True)
        assert np.abs(back[:, 1] - y_back.detach().numpy()).max() < 5e-12
        # nflows' inverse loses digits of the log-slope where it subtracts nearly equal numbers; its forward does not.
        _, log_back = splines.unconstrained_rational_quadratic_spline(torch.tensor(back[:, 1]), **parts)
        assert np.abs(inverse_logdet + log_back.detach().numpy()).max() < 5e-11

        dy, dlog = rng.normal(size=len(x)), rng.normal(size=len(x))
        (y * torch.tensor(dy) + log * torch.tensor(dlog)).sum().backward()
        flow.zero_grad()
        _, dx = flow.backward(z, np.stack([np.zeros_like(dy), dy], axis=1), dlog)
        grads = {name: values for name, values in flow.named_grads().items() if name.endswith("bias")}
        inside = np.abs(np.abs(x) - bound) > 1e-9  # derivatives jump at the ends
        scale = max(1.0, np.abs(there.grad.numpy()).max())
        assert np.abs(dx[inside, 1] - there.grad.numpy()[inside]).max() / scale < 1e-10
        ours = np.concatenate([values.ravel() for values in grads.values()])
        assert np.abs(ours - theirs.grad.numpy()).max() / max(1.0, np.abs(ours).max()) < 2e-10


def test_a_density_of_splines_integrates_to_one() -> None:
    flow = plain_table(2, law="spline", bins=5, couplings=4, hidden=(16,), preprocess="none", dtype="float64",
                      seed=1)
    rng = np.random.default_rng(0)
    flow.init(rng.normal(size=(10, 2)))
    flow.params[:] += 0.1 * rng.normal(size=flow.params.shape)
    edge, n = 9.0, 1200
    at = (np.arange(n) + 0.5) / n * 2 * edge - edge
    grid = np.stack(np.meshgrid(at, at, indexing="ij"), axis=-1).reshape(-1, 2)
    total = np.exp(flow.log_prob(grid)).sum() * (2 * edge / n) ** 2
    assert total == pytest.approx(1, abs=1e-5)


def test_bits_do_not_depend_on_threads() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5000, 5)).astype(np.float32)
    results = []
    for threads in (1, 2):
        flow = plain_table(5, law="spline", couplings=4, hidden=(32,), threads=threads)
        flow.init(x)
        optimizer = ef.Adam(flow, lr=1e-3)
        for _ in range(5):
            flow.train_step(x, optimizer)
        results.append((flow.params.copy(), np.asarray(flow.log_prob(x)), flow.sample(500, seed=1)))
    for one, two in zip(*results):
        assert one.tobytes() == two.tobytes()


def test_training_fits_what_an_affine_coupling_can_not() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 2)) * 0.2 + rng.choice([-1.0, 1.0], size=(4000, 2))
    scores = {}
    for law in ("affine", "spline"):
        flow = plain_table(2, law=law, couplings=4, hidden=(32, 32))
        flow.fit(x[:3000].astype(np.float32), epochs=30, batch_size=250)
        scores[law] = float(np.mean(flow.log_prob(x[3000:].astype(np.float32))))
    assert scores["spline"] > scores["affine"] + 0.02
    truth = 2 * (-0.5 * np.log(2 * np.pi * np.e * 0.04) - np.log(2))
    assert scores["spline"] > truth - 0.1


def test_settings_of_splines() -> None:
    flow = plain_table(3, law="spline", bins=12, bound=5)
    assert flow.config["bins"] == 12 and flow.config["bound"] == 5
    assert "bins" not in plain_table(3).config
    with pytest.raises(ef.ConfigError, match="bins is a setting of law='spline', and law is 'affine'"):
        plain_table(3, bins=4)
    for wrong in (dict(bins=0), dict(bins=65), dict(bound=0), dict(bound=-1), dict(bound=np.inf)):
        with pytest.raises(ef.ConfigError, match=next(iter(wrong))):
            plain_table(3, law="spline", **wrong)


@pytest.mark.parametrize("tails", ["linear", None])
def test_unconditional_splines_are_those_of_nflows(tails: str | None) -> None:
    torch = pytest.importorskip("torch")
    coupling = pytest.importorskip("nflows.transforms.coupling")
    bins, bound = 5, 3.0
    box: dict[str, Any] = dict(bound=bound) if tails else dict(base="uniform")
    flow = plain_table(4, law="spline", bins=bins, unconditional=True, couplings=1, hidden=(), preprocess="none",
                           mask="odd-even", dtype="float64", **box)
    rng = np.random.default_rng(0)
    x = rng.uniform(-1.2 * bound, 1.2 * bound, size=(300, 4)) if tails else rng.uniform(size=(300, 4))
    flow.init(x)
    flow.params[:] = rng.normal(size=flow.params.shape)
    values = {name: torch.tensor(np.array(view)) for name, view in flow.named_parameters().items()}

    class Net(torch.nn.Module):
        """Ours has a value's numbers apart, theirs side by side."""

        def forward(self, seen: torch.Tensor, context: object = None) -> torch.Tensor:
            h = seen @ values["coupling0.dense0.weight"].reshape(2, -1) + values["coupling0.dense0.bias"]
            return h.reshape(len(seen), -1, 2).transpose(1, 2).reshape(len(seen), -1)

    with pytest.warns(UserWarning, match="not scaled down"):
        theirs = coupling.PiecewiseRationalQuadraticCouplingTransform(
            [-1, 1, -1, 1], lambda *_: Net(), num_bins=bins, tails=tails, tail_bound=bound,
            apply_unconditional_transform=True).double()
        own = theirs.unconditional_transform
        numbers = values["unconditional0.numbers"].T  # (2, 3 bins -+ 1)
        for name, part in (("widths", numbers[:, :bins]), ("heights", numbers[:, bins:2 * bins]),
                           ("derivatives", numbers[:, 2 * bins:])):
            getattr(own, f"unnormalized_{name}").data = part.clone()
        y, log = theirs(torch.tensor(x))
        back, _ = theirs.inverse(torch.tensor(x))
    z, logdet = flow.forward(x)
    assert np.abs(z - y.detach().numpy()).max() < 1e-11
    assert np.abs(logdet - log.detach().numpy()).max() < 1e-10
    assert np.abs(flow.inverse(x)[0] - back.detach().numpy()).max() < 1e-9
