"""Named parameters, and the chain that a model is."""

import torch


class RandomParams(dict):
    """Parameters that are drawn when a model first asks for them: running a model once lists its tensors."""

    def __init__(self, seed, scale=0.2):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)
        self.scale = scale

    def draw(self, name, shape):
        if name in self:
            return self[name]
        leaf = name.rpartition(".")[2]
        noise = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        if leaf == "permutation":
            value = torch.randperm(shape[0], generator=self.generator).to(torch.float64)
        elif leaf == "sign":
            value = torch.sign(noise)
        elif leaf in ("var", "std"):
            value = 0.5 + noise.abs()
        elif leaf in ("v", "matrix"):
            value = noise
        else:
            value = self.scale * noise
        self[name] = value
        return value


class Scope:
    """A place in the tree of names: (Scope(params) / "top")("weight", 3, 4) is top.weight, of that shape.

    In training, batch normalisation uses the moments of the batch and notes them in `batch_stats`, if given.
    """

    def __init__(self, params, training=True, batch_stats=None, prefix=""):
        self.params, self.training, self.batch_stats, self.prefix = params, training, batch_stats, prefix

    def __truediv__(self, name):
        return Scope(self.params, self.training, self.batch_stats, f"{self.prefix}{name}.")

    def __call__(self, name, *shape):
        full = self.prefix + name
        if isinstance(self.params, RandomParams):
            return self.params.draw(full, shape)
        value = self.params[full]
        if tuple(value.shape) != shape:
            raise ValueError(f"[oracle] {full}: expected shape {shape}, got {tuple(value.shape)}")
        return value

    def moments(self, x, channels):
        """(mean, biased variance) over all axes but the last: the batch's in training, else the running."""
        mean, var = self("mean", channels), self("var", channels)
        if not self.training:
            return mean, var
        axes = tuple(range(x.dim() - 1))
        mean, var = x.mean(axes), x.var(axes, correction=0)
        if self.batch_stats is not None:
            self.batch_stats[self.prefix + "mean"] = mean.detach()
            self.batch_stats[self.prefix + "var"] = var.detach()
        return mean, var


class Chain:
    """x on its way from data to latent, the log-det so far, and the latents that left on the way."""

    def __init__(self, x):
        self.x = x
        self.logdet = x.new_zeros(len(x))
        self.factored = []

    def apply(self, layer, *args):
        self.x, logdet = layer(self.x, *args)
        self.logdet = self.logdet + logdet

    def factor_out(self, keep):
        self.factored.append(self.x[..., keep:])
        self.x = self.x[..., :keep]

    def result(self):
        return torch.cat([piece.flatten(1) for piece in self.factored + [self.x]], 1), self.logdet
