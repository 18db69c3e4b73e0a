"""A model of what ranks cost: the usual one of an all-reduce, and how much of it the backward pass hides."""

import math

BACKWARD = 2 / 3
"""Of a step's computation: two of its three products."""


def all_reduce_seconds(ranks, size, alpha, bandwidth):
    """Of `size` bytes: 2 ceil(log2 p) alpha + 2 (p - 1) / p size / bandwidth."""
    return 2 * math.ceil(math.log2(ranks)) * alpha + 2 * (ranks - 1) / ranks * size / bandwidth


def not_hidden(sums, compute, parts):
    """Seconds of `sums` left after the pass, when `parts` equal ones are sent as they are complete.

    The last part waits for the end of the pass; all wait for each other where they take longer than the pass.
    """
    backward = BACKWARD * compute
    return max(sums / parts, sums - backward * (1 - 1 / parts))


def efficiency(ranks, compute, size, parts, alpha, bandwidth, little):
    """Of p ranks with the same batch each; `little`: sums of a few numbers in a step, which nothing hides."""
    sums = all_reduce_seconds(ranks, size, alpha, bandwidth)
    rest = not_hidden(sums, compute, parts) + little * all_reduce_seconds(ranks, 8, alpha, bandwidth)
    return compute / (compute + rest)


def batch_factor(wanted, *model):
    """Times the batch, and the computation with it, until the efficiency is `wanted`. None: at no batch."""
    ranks, compute, *rest = model
    low, high = 1.0, 2.0 ** 20
    if efficiency(ranks, high * compute, *rest) < wanted:
        return None
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if efficiency(ranks, middle * compute, *rest) >= wanted else (middle, high)
    return high
