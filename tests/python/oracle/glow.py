"""Glow (Kingma, Dhariwal 2018), as its official code has it."""

import torch
import torch.nn.functional as F

from . import layers
from .nets import beside, conv, glow_conv, glow_net, standardised, with_edge
from .prior import mean_nll
from .scope import Chain, Scope


def coupling(x, scope, config, context):
    c = x.shape[-1]
    x1, x2 = x[..., : c // 2], x[..., c // 2 :]
    seen = beside(x1, context)
    if config["coupling"] == "additive":
        return torch.cat([x1, x2 + glow_net(seen, scope, config["hidden"], c // 2)], -1), x.new_tensor(0.0)
    h = glow_net(seen, scope, config["hidden"], c)
    shift, r = h[..., 0::2], h[..., 1::2]
    if config["coupling"] == "bounded":
        return bounded(x1, x2, shift, r)
    y2 = (x2 + shift) * torch.sigmoid(r + 2)
    return torch.cat([x1, y2], -1), layers.per_sample(F.logsigmoid(r + 2))


def bounded(x1, x2, shift, r):
    log = 2 * torch.tanh(r / 2)
    return torch.cat([x1, x2 * torch.exp(log) + shift], -1), layers.per_sample(log)


def permutation(x, scope, kind):
    if kind == "lu":
        return layers.lu_conv1x1(x, scope)
    if kind == "plain":
        return layers.plain_conv1x1(x, scope)
    return layers.permute(x, scope, kind)


def split_prior(x, scope, config):
    """Standardises the second half by a Gaussian whose mean and log-scale depend on the first."""
    c = x.shape[-1]
    x1, x2 = x[..., : c // 2], x[..., c // 2 :]
    h = glow_conv(x1, scope / "conv", 3, c)
    mean, logs = h[..., 0::2], h[..., 1::2]
    if config["coupling"] == "bounded":
        return bounded(x1, x2, mean, logs)
    return torch.cat([x1, (x2 - mean) * torch.exp(-logs)], -1), -layers.per_sample(logs)


def top_prior(x, scope, config, labels):
    """Standardises by a Gaussian that depends on the place relative to the border and on the class."""
    c = x.shape[-1]
    h = x.new_zeros(*x.shape[:-1], 2 * c)
    if config["learn_top"]:
        edge = with_edge(x[..., :0])
        weight = scope("weight", 3, 3, 2 * c).unsqueeze(2)
        h = h + (conv(edge, weight, padding=0) + scope("bias", 2 * c)) * torch.exp(3 * scope("logs", 2 * c))
    if config["classes"]:
        one_hot = F.one_hot(labels.long(), config["classes"]).to(x.dtype)
        by_class = one_hot @ scope("class_weight", config["classes"], 2 * c) + scope("class_bias", 2 * c)
        h = h + (by_class * torch.exp(3 * scope("class_logs", 2 * c)))[:, None, None, :]
    mean, logs = h[..., :c], h[..., c:]
    return (x - mean) * torch.exp(-logs), -layers.per_sample(logs)


def class_logits(x, scope, classes):
    """The class head on the top latents: mean over pixels, then a linear map with output scale."""
    logits = x.mean((1, 2)) @ scope("weight", x.shape[-1], classes) + scope("bias", classes)
    return logits * torch.exp(3 * scope("logs", classes))


def run(params, x, config, given):
    """Returns (z, logdet, input of the top prior)."""
    scope = Scope(params)
    context = standardised(given, scope / "context", config)
    chain = Chain(x)
    levels = 2.0 ** config["bits"]
    chain.apply(layers.rescale, levels / 2, levels)
    for i in range(config["levels"]):
        level = scope / f"level{i}"
        chain.apply(layers.squeeze)
        for k in range(config["steps"]):
            step = level / f"step{k}"
            chain.apply(layers.actnorm, step / "actnorm")
            chain.apply(permutation, step / "permutation", config["permutation"])
            chain.apply(coupling, step / "coupling", config, context)
        if i + 1 < config["levels"]:
            chain.apply(split_prior, level / "split", config)
            chain.factor_out(chain.x.shape[-1] // 2)
    top = chain.x
    chain.apply(top_prior, scope / "top", config, given)
    return (*chain.result(), top)


def forward(params, x, config, given=None, training=True):
    """x: (N, H, W, C) in levels 0 ... 2^bits. Returns (z (N, D), logdet (N,))."""
    return run(params, x, config, given)[:2]


def loss(params, x, config, given=None):
    """Returns (nll, class_nll): batch means in nats, the second 0 without a class head."""
    z, logdet, top = run(params, x, config, given)
    nll = mean_nll(z, logdet, "gaussian")
    if not (config["classes"] and config["class_weight"]):
        return nll, x.new_tensor(0.0)
    logits = class_logits(top, Scope(params) / "class_head", config["classes"])
    return nll, F.cross_entropy(logits, given.long())
