"""The nets inside couplings. Convolution weights are (ky, kx, c_in, c_out), dense ones (in, out)."""

import torch
import torch.nn.functional as F

BATCH_NORM_EPS = 1e-4


def conv(x, weight, padding=None):
    """Cross-correlation of x (N, H, W, C) with stride 1, zero-padded to the same size by default."""
    padding = weight.shape[0] // 2 if padding is None else padding
    y = F.conv2d(x.permute(0, 3, 1, 2), weight.permute(3, 2, 0, 1), padding=padding)
    return y.permute(0, 2, 3, 1)


ACTIVATIONS = {"relu": torch.relu, "leaky_relu": F.leaky_relu, "tanh": torch.tanh, "silu": F.silu, "elu": F.elu}


def dense(x, scope, out):
    return x @ scope("weight", x.shape[-1], out) + scope("bias", out)


def mlp(x, scope, hidden, out, activation="relu"):
    """Dense net with a linear output, the same at every pixel."""
    for i, width in enumerate(hidden):
        x = ACTIVATIONS[activation](dense(x, scope / f"dense{i}", width))
    return dense(x, scope / f"dense{len(hidden)}", out)


def residual_net(x, scope, hidden, out, activation, context):
    """Pre-activation blocks of two dense layers, and a gate by the last `context` columns of x."""
    act = ACTIVATIONS[activation]
    h = dense(x, scope / "dense_in", hidden[0])
    for b, width in enumerate(hidden):
        block = scope / f"block{b}"
        t = dense(act(dense(act(h), block / "dense0", width)), block / "dense1", width)
        if context:
            t = t * torch.sigmoid(dense(x[..., -context:], block / "gate", width))
        h = h + t
    return dense(h, scope / "dense_out", out)


def standardised(context, scope, config):
    """The context as nets see it, by the moments that initialisation found; None: there is none."""
    count = config.get("context", 0)
    return (context - scope("mean", count)) / scope("std", count) if count else None


def beside(x, context):
    """x (N, ..., c), and behind it at every pixel the context (N, C), unless that is None."""
    if context is None:
        return x
    everywhere = context.reshape(len(x), *[1] * (x.dim() - 2), -1).expand(*x.shape[:-1], -1)
    return torch.cat([x, everywhere], -1)


def with_edge(x):
    """Pads by one pixel: zeros, and a last channel that is 1 on the frame, 0 inside (Glow, official code)."""
    frame = F.pad(x.new_zeros(*x.shape[:-1], 1), (0, 0, 1, 1, 1, 1), value=1.0)
    return torch.cat([F.pad(x, (0, 0, 1, 1, 1, 1)), frame], -1)


def glow_conv(x, scope, kernel, out):
    """(conv + bias) exp(3 logs), the edge channel included for 3x3."""
    c = x.shape[-1]
    if kernel == 3:
        x, c = with_edge(x), c + 1
    y = conv(x, scope("weight", kernel, kernel, c, out), padding=0)
    return (y + scope("bias", out)) * torch.exp(3 * scope("logs", out))


def glow_net(x, scope, width, out):
    x = torch.relu(glow_conv(x, scope / "conv1", 3, width))
    x = torch.relu(glow_conv(x, scope / "conv2", 1, width))
    return glow_conv(x, scope / "conv3", 3, out)


def batch_norm(x, scope):
    """Normalises every channel over all pixels, then adds a learned beta; no gain."""
    c = x.shape[-1]
    mean, var = scope.moments(x, c)
    return (x - mean) / torch.sqrt(var + BATCH_NORM_EPS) + scope("beta", c)


def norm_conv(x, scope, kernel, out, *, weight_norm, magnitude, bias):
    """A convolution whose weight is v / ||v|| per output, times a learned magnitude if asked."""
    shape = (kernel, kernel, x.shape[-1], out)
    if weight_norm:
        v = scope("v", *shape)
        weight = v / torch.sqrt((v**2).sum((0, 1, 2)))
        if magnitude:
            weight = weight * scope("magnitude", out)
    else:
        weight = scope("weight", *shape)
    y = conv(x, weight)
    return y + scope("bias", out) if bias else y


class ResNet:
    """Real NVP's net, from the conditioning values r (N, H, W, C) to `out` channels.

    settings: the model's config. mask: (H, W, 1), 1 where a checkerboard conditions; None for channel
    couplings.
    """

    def __init__(self, scope, settings, width, out, mask=None):
        self.scope, self.width, self.out, self.mask = scope, width, out, mask
        self.use_batch_norm, self.weight_norm = settings["batch_norm"], settings["weight_norm"]
        self.blocks, self.bottleneck, self.skip = (
            settings["residual_blocks"], settings["bottleneck"], settings["skip"])
        self.context = settings.get("context", 0)

    def __call__(self, r):
        x = self.features(r)
        if self.blocks == 0:
            return self.plain(x)
        x = self.conv(x, "h_in", 3, magnitude=False)
        total = self.conv(x, "skip_in", 1) if self.skip else None
        for b in range(self.blocks):
            x = x + self.block(x, f"block{b}")
            if self.skip:
                total = total + self.conv(x, f"skip{b}", 1)
        x = self.norm_relu(total if self.skip else x, "bn_out")
        return self.conv(x, "out", 1, out=self.out)

    def features(self, r):
        """Concatenated ReLU, and the mask as one more channel."""
        if self.use_batch_norm:
            own = r.shape[-1] - self.context  # the context behind is standardised already
            r = torch.cat([batch_norm(r[..., :own], self.scope / "bn_in"), r[..., own:]], -1)
            if self.mask is not None:
                r = 2 * r
        parts = [r, -r]
        if self.mask is not None:
            parts.append(self.mask.expand(*r.shape[:-1], 1))
        return torch.relu(torch.cat(parts, -1))

    def plain(self, x):
        if self.bottleneck:
            x = self.norm_relu(self.inner_conv(x, "h0", 1), "bn_mid")
            x = self.norm_relu(self.inner_conv(x, "h1", 3), "bn_out")
            return self.conv(x, "out", 1, out=self.out)
        x = self.norm_relu(self.inner_conv(x, "h0", 3), "bn_out")
        return self.conv(x, "out", 3, out=self.out)

    def block(self, x, name):
        kernels = [1, 3, 1] if self.bottleneck else [3, 3]
        for i, kernel in enumerate(kernels):
            x = self.norm_relu(x, f"{name}.bn{i}")
            conv = self.conv if i == len(kernels) - 1 else self.inner_conv
            x = conv(x, f"{name}.conv{i}", kernel)
        return x

    def norm_relu(self, x, name):
        return torch.relu(batch_norm(x, self.scope / name) if self.use_batch_norm else x)

    def conv(self, x, name, kernel, out=None, magnitude=True, bias=True):
        return norm_conv(x, self.scope / name, kernel, self.width if out is None else out,
                         weight_norm=self.weight_norm, magnitude=magnitude, bias=bias)

    def inner_conv(self, x, name, kernel):
        """A convolution that a batch norm may follow: neither bias nor magnitude would matter then."""
        return self.conv(x, name, kernel, magnitude=False, bias=not self.use_batch_norm)
