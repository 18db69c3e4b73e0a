"""Real NVP (Dinh, Sohl-Dickstein, Bengio 2016): the official code's image model, and couplings on tables."""

import torch

from . import layers
from .nets import BATCH_NORM_EPS, ResNet, beside, mlp, residual_net, standardised
from .scope import Chain, Scope


def checkerboard(x, parity):
    """(H, W, 1): 1 where (i + j) % 2 == parity."""
    h, w = x.shape[1:3]
    total = torch.arange(h)[:, None] + torch.arange(w)[None, :]
    return (total % 2 == parity).to(x.dtype)[..., None]


def masked_norm(x, scope, mask):
    """Batch norm of the pixels with mask 0; moments include the zeros put at the others."""
    c = x.shape[-1]
    free = 1 - mask
    mean, var = scope.moments(x * free, c)
    log_std = 0.5 * torch.log(var + BATCH_NORM_EPS)
    y = x * mask + (x - mean) * torch.exp(-log_std) * free
    return y, -free.sum() * log_std.sum()


def norm(x, scope):
    """Batch norm of all of x (N, ..., C), as an invertible layer."""
    mean, var = scope.moments(x, x.shape[-1])
    log_std = 0.5 * torch.log(var + BATCH_NORM_EPS)
    return (x - mean) * torch.exp(-log_std), -layers.pixels(x) * log_std.sum()


def change(x, r, context, scope, config, width, affine, mask=None):
    """The law (x + t) exp(s), with t and s from r and the context; s is 0 if not affine. Returns (y, s)."""
    c = x.shape[-1]
    h = ResNet(scope, config, width, 2 * c if affine else c, mask)(beside(r, context))
    if not affine:
        return x + h, torch.zeros_like(x)
    s = scope("gain", 1) * torch.tanh(h[..., c:])
    if not config["batch_norm"]:
        s = s + scope("offset", 1)
    return (x + h[..., :c]) * torch.exp(s), s


def checkerboard_coupling(x, scope, config, context, width, affine, mask):
    """Pixels with mask 1 pass and condition the others."""
    y, s = change(x, x * mask, context, scope, config, width, affine, mask)
    return x * mask + y * (1 - mask), layers.per_sample(s * (1 - mask))


def halves(x):
    """The longer first half and the rest."""
    keep = (x.shape[-1] + 1) // 2
    return x[..., :keep], x[..., keep:]


def channel_coupling(x, scope, config, context, width, affine, second):
    """`second`: the second half of the channels changes, else the first."""
    x1, x2 = halves(x)
    if second:
        y, s = change(x2, x1, context, scope, config, width, affine)
        return torch.cat([x1, y], -1), layers.per_sample(s)
    y, s = change(x1, x2, context, scope, config, width, affine)
    return torch.cat([y, x2], -1), layers.per_sample(s)


def channel_norm(x, scope, second):
    """`norm` of the half that a channel coupling changed."""
    x1, x2 = halves(x)
    if second:
        y, logdet = norm(x2, scope)
        return torch.cat([x1, y], -1), logdet
    y, logdet = norm(x1, scope)
    return torch.cat([y, x2], -1), logdet


def checkerboard_group(chain, scope, config, context, width, count):
    for k in range(count):
        mask = checkerboard(chain.x, k % 2)
        affine = config["coupling"] == "affine" or k >= 2
        chain.apply(checkerboard_coupling, scope / f"checkerboard{k}", config, context, width, affine, mask)
        if config["batch_norm"]:
            chain.apply(masked_norm, scope / f"checkerboard_norm{k}", mask)


def channel_group(chain, scope, config, context, width):
    for k in range(3):
        second = k != 1
        affine = config["coupling"] == "affine" or k == 2
        chain.apply(channel_coupling, scope / f"channel{k}", config, context, width, affine, second)
        if config["batch_norm"]:
            chain.apply(channel_norm, scope / f"channel_norm{k}", second)


def image_forward(params, x, config, given=None, training=True, batch_stats=None):
    """x: (N, H, W, C) in levels 0 ... 2^bits. Returns (z (N, D), logdet (N,)).

    batch_stats: a dict that gets the batch's moments in training, by the names of the running ones.
    """
    root = Scope(params, training, batch_stats)
    context = standardised(given, root / "context", config)
    chain = Chain(x)
    chain.apply(layers.rescale, 0.0, 2.0 ** config["bits"])
    chain.apply(layers.logit)
    for i in range(config["levels"]):
        scope = root / f"scale{i}"
        channels = chain.x.shape[-1]
        width = config["base_dim"] * (2**i if config["recursion"] < 4 else 1)
        if i + 1 == config["levels"]:
            checkerboard_group(chain, scope, config, context, width, 4)
            break
        checkerboard_group(chain, scope, config, context, width, 3)
        chain.apply(layers.squeeze)
        channel_group(chain, scope, config, context, 2 * width)
        chain.apply(layers.unsqueeze)
        chain.apply(layers.squeeze_diagonal)
        if config["recursion"] > 1:
            chain.factor_out(2 * channels if config["recursion"] == 2 else channels)
    return chain.result()


def table_coupling(x, scope, config, context, changed):
    """changed: (D,) bool. The net's outputs are the law's first number of each changed column, then the second."""
    x1, x2 = beside(x[:, ~changed], context), x[:, changed]
    c = x2.shape[1]
    numbers, law = law_of(config)
    if not x1.shape[1]:
        h = scope("numbers", numbers, c)
    elif config.get("net") == "residual":
        h = residual_net(x1, scope, config["hidden"], numbers * c, config.get("activation", "relu"),
                         config.get("context", 0))
    else:
        h = mlp(x1, scope, config["hidden"], numbers * c, config.get("activation", "relu"))
    y = x.clone()
    y[:, changed], log = law(x2, h.reshape(-1, numbers, c).transpose(0, 1))
    return y, log.sum(1)


def unconditional(x, scope, config, changed):
    """The law of the columns that a coupling passes, by numbers that are parameters."""
    numbers, law = law_of(config)
    y = x.clone()
    h = scope("numbers", numbers, int((~changed).sum()))
    y[:, ~changed], log = law(x[:, ~changed], h[:, None])
    return y, log.sum(1)


def affine(x, h):
    """h: two numbers a value. y = x exp(s) + t with s = 2 tanh(r / 2). Returns (y, log slope)."""
    s = 2 * torch.tanh(h[1] / 2)
    return x * torch.exp(s) + h[0], s + torch.zeros_like(x)


def additive(x, h):
    return x + h[0], torch.zeros_like(x)


def sigmoid(x, h):
    scale = torch.sigmoid(h[1] + 2) + 1e-3
    return x * scale + h[0], torch.log(scale) + torch.zeros_like(x)


def exp(x, h):
    return (x + h[0]) * torch.exp(h[1]), h[1] + torch.zeros_like(x)


def glow(x, h):
    return (x + h[0]) * torch.sigmoid(h[1] + 2), torch.nn.functional.logsigmoid(h[1] + 2) + torch.zeros_like(x)


def softplus(x, h):
    scale = (torch.nn.functional.softplus(h[1]) + 1e-3).clamp(max=3.0)
    return x * scale + h[0], torch.log(scale) + torch.zeros_like(x)


LAWS = {"affine": (2, affine), "additive": (1, additive), "sigmoid": (2, sigmoid), "softplus": (2, softplus),
        "exp": (2, exp), "glow": (2, glow)}


def law_of(config):
    """How many numbers a value has, and (x, numbers) -> (y, log slope)."""
    if config["law"] == "spline" and config["base"] == "uniform":
        return 3 * config["bins"] + 1, lambda x, h: layers.spline(x, h, 0.0, 1.0, free=True)
    if config["law"] == "spline":
        bound = config["bound"]
        return 3 * config["bins"] - 1, lambda x, h: layers.spline(x, h, -bound, bound, free=False)
    return LAWS[config["law"]]


def table_norm(x, scope, changed):
    """Batch norm of the columns that the coupling changed."""
    y = x.clone()
    y[:, changed], logdet = norm(x[:, changed], scope)
    return y, logdet


def table_mask(dims, kind, i):
    """(D,) bool, the columns that coupling i changes: second half, odd or of a bit for even i, else the rest."""
    if dims == 1:
        return torch.tensor([True])
    if not isinstance(kind, str):
        return torch.tensor(kind[i])
    column = torch.arange(dims)
    bits = max(1, (dims - 1).bit_length())
    later = {"halves": column >= (dims + 1) // 2, "odd-even": column % 2 == 1,
             "log2": column >> i // 2 % bits & 1 == 1}[kind]
    return later if i % 2 == 0 else ~later


def mix_columns(chain, scope, kind, i):
    """What a setting `permutation` does in front of coupling i."""
    if chain.x.shape[1] == 1:
        return
    if kind == "lu-shuffle":
        chain.apply(layers.permute, scope / f"shuffle{i}", "shuffle")
    if kind in ("lu", "lu-shuffle"):
        chain.apply(layers.lu_conv1x1, scope / f"permutation{i}")
    elif kind != "none":
        chain.apply(layers.permute, scope / f"permutation{i}", kind)


def table_forward(params, x, config, given=None, training=True, batch_stats=None):
    """x: (N, D). Returns (z (N, D), logdet (N,)); batch_stats as in `image_forward`."""
    scope = Scope(params, training, batch_stats)
    context = standardised(given, scope / "context", config)
    chain = Chain(x)
    if config.get("bounds"):
        chain.apply(layers.unbound, config["bounds"])
    if config["preprocess"] != "none":
        chain.apply(layers.preprocess, scope / "preprocess", config["preprocess"])
    for i in range(config["couplings"]):
        if i > 0:
            mix_columns(chain, scope, config["permutation"], i)
        changed = table_mask(x.shape[1], config["mask"], i)
        chain.apply(table_coupling, scope / f"coupling{i}", config, context, changed)
        if config.get("unconditional") and not changed.all():
            chain.apply(unconditional, scope / f"unconditional{i}", config, changed)
        if config["batch_norm"]:
            chain.apply(table_norm, scope / f"batch_norm{i}", changed)
        if config["actnorm"]:
            chain.apply(layers.actnorm, scope / f"actnorm{i}")
    if config.get("mix_last"):
        mix_columns(chain, scope, config["permutation"], config["couplings"])
    return chain.result()
