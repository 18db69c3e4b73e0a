"""Base distributions and the loss."""

import math

import torch.nn.functional as F


def base_log_prob(z, kind):
    """log p0(z) (N,) in nats, for z (N, D) and kind "gaussian", "logistic" or "uniform"."""
    if kind == "gaussian":
        return (-0.5 * (z**2 + math.log(2 * math.pi))).sum(1)
    if kind == "logistic":
        return -(F.softplus(z) + F.softplus(-z)).sum(1)
    if kind == "uniform":  # of data in [0, 1]
        return z.new_zeros(len(z))
    raise ValueError(f"[oracle] prior: expected gaussian, logistic or uniform, got {kind}")


def mean_nll(z, logdet, kind):
    """Mean negative log-likelihood of a batch in nats."""
    return -(base_log_prob(z, kind) + logdet).mean()
