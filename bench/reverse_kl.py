"""Reverse KL with spline couplings in float32: does every training end, and is its last gradient right?

    python bench/reverse_kl.py [--seeds 10] [--steps 3000]

Targets are a ring in two dimensions and a mixture of two Gaussians in five. Afterwards the gradient of the last loss is
compared with differences of the same loss in float64, along the gradient and along random directions.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

import evenflow as ef

BATCH = 256
Target = Callable[[np.ndarray], "tuple[np.ndarray, np.ndarray]"]


def ring(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log q(x) = -8 (|x| - 2)^2 and its gradient."""
    r = np.linalg.norm(x, axis=1, keepdims=True)
    return -8 * (r[:, 0] - 2) ** 2, -16 * (r - 2) * x / r


def two_modes(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two Gaussians of deviation 0.4 with centres at +-1.5 in every coordinate, of weights 1 and 2."""
    centres = np.array([-1.5, 1.5])[:, None] * np.ones(x.shape[1])
    away = x[:, None] - centres
    logs = -0.5 * (away**2).sum(axis=2) / 0.16 + np.log([1.0, 2.0])
    top = logs.max(axis=1)
    log_q = top + np.log(np.exp(logs - top[:, None]).sum(axis=1))
    shares = np.exp(logs - log_q[:, None])
    return log_q, -(shares[:, :, None] * away).sum(axis=1) / 0.16


TARGETS: dict[str, tuple[int, Target]] = {"ring": (2, ring), "two modes": (5, two_modes)}


def loss_of(flow: ef.Flow, target: Target, z: np.ndarray, gradient: bool = False) -> float:
    """Mean of -log q(x) - logdet for x = inverse(z)."""
    x, logdet = flow.inverse(z)
    log_q, slope = target(np.asarray(x, np.float64))
    if gradient:
        flow.zero_grad()
        flow.inverse_backward(x, -slope / len(x), np.full(len(x), -1 / len(x)), z=z)
    return float(np.mean(-log_q - logdet))


def error_of_gradient(flow: ef.Flow, target: Target, z: np.ndarray, rng: np.random.Generator) -> float:
    """The largest error of a directional derivative, relative to the gradient's norm."""
    loss_of(flow, target, z, gradient=True)
    gradient = flow.grads.astype(np.float64)
    exact = double_of(flow)
    start, norm, step = exact.params.copy(), np.linalg.norm(gradient), 1e-6
    directions = [gradient / norm]
    for _ in range(3):
        random = rng.standard_normal(len(start)) * np.abs(gradient)
        directions.append(random / np.linalg.norm(random))
    worst = 0.0
    for direction in directions:
        sides = []
        for sign in (1, -1):
            exact.params[:] = start + sign * step * direction
            sides.append(loss_of(exact, target, z.astype(np.float64)))
        worst = max(worst, abs((sides[0] - sides[1]) / (2 * step) - gradient @ direction) / norm)
    return worst


def double_of(flow: ef.Flow) -> ef.Flow:
    """The flow with the same values in float64."""
    exact = make(flow.dims, 0, "float64")
    for name, value in flow.named_parameters().items():
        exact.named_parameters()[name][...] = value
    return exact


def make(dims: int, seed: int, dtype: str = "float32") -> ef.Flow:
    flow = ef.CouplingFlow(dims, law="spline", bins=8, couplings=8, hidden=(64, 64), preprocess="none", seed=seed,
                           dtype=dtype)
    flow.init(np.random.default_rng(seed).standard_normal((256, dims)))
    return flow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=3000)
    arguments = parser.parse_args()
    for name, (dims, target) in TARGETS.items():
        for seed in range(arguments.seeds):
            flow, begin = make(dims, seed), time.perf_counter()
            optimizer = ef.Adam(flow, lr=1e-3)
            for step in range(arguments.steps):
                loss_of(flow, target, flow.base_sample(BATCH, seed=seed * 10**6 + step), gradient=True)
                ef.clip_grad_norm(flow, 10.0)
                optimizer.step()
            z = flow.base_sample(BATCH, seed=10**9)
            loss = loss_of(flow, target, z)
            error = error_of_gradient(flow, target, z, np.random.default_rng(seed))
            print(f"{name}, seed {seed}: loss {loss:.3f}, error of the gradient {error:.1e}, "
                  f"{time.perf_counter() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
