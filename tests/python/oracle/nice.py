"""NICE (Dinh, Krueger, Bengio 2014)."""

import torch

from . import layers
from .nets import mlp
from .scope import Chain, Scope


def coupling(x, scope, hidden):
    """Second half += net(first half); the first half is the longer one."""
    keep = (x.shape[-1] + 1) // 2
    x1, x2 = x[..., :keep], x[..., keep:]
    return torch.cat([x1, x2 + mlp(x1, scope, hidden, x2.shape[-1])], -1), x.new_tensor(0.0)


def forward(params, x, config, given=None, training=True):
    """x: (N, H, W, C) in levels 0 ... 2^bits, or a table (N, D). Returns (z (N, D), logdet (N,))."""
    scope = Scope(params)
    chain = Chain(x)
    if x.dim() == 4:
        chain.apply(layers.rescale, 0.0, 2.0 ** config["bits"])
        chain.x = chain.x.flatten(1)
    if config.get("bounds"):
        chain.apply(layers.unbound, config["bounds"])
    if config["preprocess"] != "none":
        chain.apply(layers.preprocess, scope / "preprocess", config["preprocess"])
    if config["permutation"] != "none":
        chain.apply(layers.permute, scope / "order", config["permutation"])
    for i in range(config["couplings"]):
        chain.apply(coupling, scope / f"coupling{i}", config["hidden"])
        chain.apply(layers.permute, scope / f"reverse{i}", "reverse")
    chain.apply(layers.scaling, scope / "scaling")
    return chain.result()
