"""Invertible layers, data -> latent: each takes x (N, ..., C) and gives (y, logdet (N,))."""

import math

import torch
import torch.nn.functional as F


def per_sample(x):
    """Sum over everything but the batch."""
    return x.flatten(1).sum(1)


def pixels(x):
    """Pixels of one sample; 1 for a table."""
    return x[0, ..., 0].numel()


def rescale(x, offset, width):
    return (x - offset) / width, x.new_tensor(-x[0].numel() * math.log(width))


def logit(x, c=0.9):
    """u on [0, 1] -> logit((1 + c (2u - 1)) / 2) (Real NVP 4.1, in the official code's form)."""
    p = (1 + c * (2 * x - 1)) / 2
    y = torch.log(p) - torch.log(1 - p)
    return y, per_sample(F.softplus(y) + F.softplus(-y) + math.log(c))


def unbound(x, bounds):
    """log(x - low) - log(high - x) by column, without the logarithm of an end that is None."""
    y, logdet = x.clone(), x.new_zeros(x.shape[0])
    for c, (low, high) in enumerate(bounds):
        if low is not None and high is not None:
            y[:, c] = torch.logit((x[:, c] - low) / (high - low))
            logdet = logdet + math.log(high - low) - torch.log((x[:, c] - low) * (high - x[:, c]))
        elif low is not None:
            y[:, c] = torch.log(x[:, c] - low)
            logdet = logdet - y[:, c]
        elif high is not None:
            y[:, c] = -torch.log(high - x[:, c])
            logdet = logdet + y[:, c]
    return y, logdet


def standardize(x, scope):
    c = x.shape[-1]
    std = scope("std", c)
    return (x - scope("mean", c)) / std, -torch.log(std).sum()


def whiten(x, scope):
    c = x.shape[-1]
    matrix = scope("matrix", c, c)
    return (x - scope("mean", c)) @ matrix, torch.linalg.slogdet(matrix).logabsdet


def preprocess(x, scope, kind):
    """kind: "standardize", "zca" or "whiten"."""
    return standardize(x, scope) if kind == "standardize" else whiten(x, scope)


def share(raw, low, high):
    """Edges of bins (K + 1, ...) on [low, high] from raw sizes (K, ...), of which each has a thousandth at least."""
    sizes = 1e-3 + (1 - 1e-3 * len(raw)) * torch.softmax(raw, 0)
    edges = low + (high - low) * torch.cumsum(sizes, 0)
    return torch.cat([torch.full_like(raw[:1], low), edges[:-1], torch.full_like(raw[:1], high)])


def spline(x, h, low, high, free):
    """A rational-quadratic spline (Durkan et al. 2019) by numbers h (3 K -+ 1, ...) that broadcast to x.

    free: h has the slopes at both ends too, which are 1 otherwise. Outside of [low, high] it is the identity.
    """
    bins = (len(h) - 1 if free else len(h) + 1) // 3
    h = h + torch.zeros_like(x)
    xs, ys = share(h[:bins], low, high), share(h[bins:2 * bins], low, high)
    slopes = 1e-3 + torch.nn.functional.softplus(h[2 * bins:])
    if not free:
        slopes = torch.cat([torch.ones_like(x)[None], slopes, torch.ones_like(x)[None]])
    inside = (x >= low) & (x <= high)
    within = x.clamp(low, high)
    k = (within >= xs[1:-1]).sum(0, keepdim=True)
    x0, x1, y0, y1, d0, d1 = (a.gather(0, k + i)[0] for a in (xs, ys, slopes) for i in (0, 1))
    t, s = (within - x0) / (x1 - x0), (y1 - y0) / (x1 - x0)
    u = t * (1 - t)
    below = s + (d0 + d1 - 2 * s) * u
    y = y0 + (y1 - y0) * (s * t**2 + d0 * u) / below
    log = torch.log(s**2 * (d1 * t**2 + 2 * s * u + d0 * (1 - t) ** 2) / below**2)
    return torch.where(inside, y, x), torch.where(inside, log, torch.zeros_like(x))


def actnorm(x, scope):
    """(x + b) exp(3 l) per channel (Glow 3.1, official code)."""
    c = x.shape[-1]
    logs = 3 * scope("logs", c)
    return (x + scope("bias", c)) * torch.exp(logs), pixels(x) * logs.sum()


def scaling(x, scope):
    logs = scope("logs", x.shape[-1])
    return x * torch.exp(logs), pixels(x) * logs.sum()


def lu_conv1x1(x, scope):
    """z = x P (L + I) (U + diag(sign exp(logs))) per pixel (Glow 3.2)."""
    c = x.shape[-1]
    permutation, logs = scope("permutation", c).long(), scope("logs", c)
    eye = torch.eye(c, dtype=x.dtype)
    lower = torch.tril(scope("lower", c, c), -1) + eye
    upper = torch.triu(scope("upper", c, c), 1) + torch.diag(scope("sign", c) * torch.exp(logs))
    return x @ (eye[permutation] @ lower @ upper), pixels(x) * logs.sum()


def plain_conv1x1(x, scope):
    c = x.shape[-1]
    weight = scope("weight", c, c)
    return x @ weight, pixels(x) * torch.linalg.slogdet(weight).logabsdet


def permute(x, scope, kind):
    """Reorders channels: "reverse", "tile" (0, 2, ..., 1, 3, ...) or "shuffle" (drawn at construction)."""
    c = x.shape[-1]
    if kind == "reverse":
        order = torch.arange(c - 1, -1, -1)
    elif kind == "tile":
        order = torch.cat([torch.arange(0, c, 2), torch.arange(1, c, 2)])
    else:
        order = scope("permutation", c).long()
    return x[..., order], x.new_tensor(0.0)


def squeeze(x):
    """2x2 blocks to channels, out channel = 4 c + 2 dy + dx."""
    n, h, w, c = x.shape
    blocks = x.reshape(n, h // 2, 2, w // 2, 2, c)
    return blocks.permute(0, 1, 3, 5, 2, 4).reshape(n, h // 2, w // 2, 4 * c), x.new_tensor(0.0)


def unsqueeze(x):
    """The inverse of `squeeze`."""
    n, h, w, c = x.shape
    blocks = x.reshape(n, h, w, c // 4, 2, 2)
    return blocks.permute(0, 1, 4, 2, 5, 3).reshape(n, 2 * h, 2 * w, c // 4), x.new_tensor(0.0)


def squeeze_diagonal(x):
    """2x2 blocks to channels: all channels of position (0, 0), then of (1, 1), (0, 1) and (1, 0)."""
    corners = [x[:, 0::2, 0::2], x[:, 1::2, 1::2], x[:, 0::2, 1::2], x[:, 1::2, 0::2]]
    return torch.cat(corners, -1), x.new_tensor(0.0)
