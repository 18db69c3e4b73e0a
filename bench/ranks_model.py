"""A model of what ranks cost: the usual one of an all-reduce, and how much of it the backward pass hides."""

import math

BACKWARD = 2 / 3
"""Of a step's computation: two of its three products."""
LITTLE = 2
"""Sums of a few numbers in a step: losses and whether all have one, and whether to stop."""


def all_reduce_seconds(ranks, size, alpha, bandwidth):
    """Of `size` bytes: 2 ceil(log2 p) alpha + 2 (p - 1) / p size / bandwidth."""
    return 2 * math.ceil(math.log2(ranks)) * alpha + 2 * (ranks - 1) / ranks * size / bandwidth


def not_hidden(sums, compute, last):
    """Seconds of `sums` left after the pass, when parts are sent as they are complete.

    last: the share of the last part, which waits for the end of the pass. All wait for each other where they take
    longer than the pass.
    """
    return max(sums * last, sums - BACKWARD * compute * (1 - last))


def waiting(ranks, compute, size, last, alpha, bandwidth, little):
    """Seconds of a step that sums cost; `little` sums of a few numbers are not hidden."""
    sums = all_reduce_seconds(ranks, size, alpha, bandwidth)
    return not_hidden(sums, compute, last) + little * all_reduce_seconds(ranks, 8, alpha, bandwidth)


def efficiency(ranks, compute, *rest):
    """Of p ranks with the same batch each."""
    return compute / (compute + waiting(ranks, compute, *rest))


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
