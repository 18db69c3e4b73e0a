"""Glow and Real NVP as a careful torch user writes them: channels last, one module a layer. For timing only."""

import math

import torch
from torch import nn
from torch.nn import functional as F


class Step(nn.Module):
    """ActNorm, LU-parametrised 1x1 convolution, affine coupling."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.bias, self.logs = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(channels))
        order, lower, upper = torch.linalg.lu(torch.linalg.qr(torch.randn(channels, channels))[0])
        self.lower, self.upper = nn.Parameter(lower.tril(-1)), nn.Parameter(upper.triu(1))
        self.diagonal = nn.Parameter(upper.diagonal().abs().log())
        self.register_buffer("order", order)
        self.register_buffer("sign", upper.diagonal().sign())
        self.net = nn.Sequential(nn.Conv2d(channels // 2, width, 3, padding=1), nn.ReLU(inplace=True),
                                 nn.Conv2d(width, width, 1), nn.ReLU(inplace=True),
                                 nn.Conv2d(width, channels, 3, padding=1))
        nn.init.zeros_(self.net[4].weight)
        nn.init.zeros_(self.net[4].bias)

    def weight(self):
        eye = torch.eye(len(self.sign))
        return self.order @ (self.lower.tril(-1) + eye) @ (
            self.upper.triu(1) + torch.diag(self.sign * self.diagonal.exp()))

    def forward(self, x):
        pixels = x.shape[2] * x.shape[3]
        x = (x + self.bias[:, None, None]) * self.logs.exp()[:, None, None]
        x = F.conv2d(x, self.weight()[:, :, None, None])
        x1, x2 = x.chunk(2, 1)
        shift, raw = self.net(x1).chunk(2, 1)
        logs = F.logsigmoid(raw + 2)
        logdet = pixels * (self.logs.sum() + self.diagonal.sum()) + logs.sum((1, 2, 3))
        return torch.cat([x1, (x2 + shift) * logs.exp()], 1), logdet

    def inverse(self, z):
        z1, z2 = z.chunk(2, 1)
        shift, raw = self.net(z1).chunk(2, 1)
        x = torch.cat([z1, z2 / torch.sigmoid(raw + 2) - shift], 1)
        x = F.conv2d(x, torch.inverse(self.weight().double()).float()[:, :, None, None])
        return x / self.logs.exp()[:, None, None] - self.bias[:, None, None]


class Glow(nn.Module):
    def __init__(self, channels: int, levels: int, steps: int, width: int):
        super().__init__()
        self.levels, self.splits = nn.ModuleList(), nn.ModuleList()
        for level in range(levels):
            channels *= 4
            self.levels.append(nn.ModuleList([Step(channels, width) for _ in range(steps)]))
            if level + 1 < levels:
                channels //= 2
                self.splits.append(nn.Conv2d(channels, 2 * channels, 3, padding=1))
                nn.init.zeros_(self.splits[-1].weight)
                nn.init.zeros_(self.splits[-1].bias)
        self.channels = channels

    def log_prob(self, x):
        total = 0
        for level, steps in enumerate(self.levels):
            x = F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last)
            for step in steps:
                x, logdet = step(x)
                total = total + logdet
            if level < len(self.splits):
                x, z = x.chunk(2, 1)
                mean, logs = self.splits[level](x).chunk(2, 1)
                total = total - (0.5 * (math.log(2 * math.pi) + ((z - mean) * (-logs).exp()) ** 2) + logs).sum((1, 2, 3))
        return total - 0.5 * (math.log(2 * math.pi) + x**2).sum((1, 2, 3))

    @torch.no_grad()
    def sample(self, n: int, size: int):
        side = size >> len(self.levels)
        x = torch.randn(n, self.channels, side, side).contiguous(memory_format=torch.channels_last)
        for level in reversed(range(len(self.levels))):
            if level < len(self.splits):
                mean, logs = self.splits[level](x).chunk(2, 1)
                x = torch.cat([x, mean + logs.exp() * torch.randn_like(mean)], 1)
            for step in reversed(self.levels[level]):
                x = step.inverse(x)
            x = F.pixel_shuffle(x, 2)
        return x


class RealNVP(nn.Module):
    """Couplings on alternating halves of a table's columns, log-scales bounded by 2."""

    def __init__(self, dims: int, couplings: int, hidden: tuple):
        super().__init__()
        self.dims, self.half = dims, (dims + 1) // 2
        sizes = [(self.half, dims - self.half), (dims - self.half, self.half)]
        self.nets = nn.ModuleList()
        for i in range(couplings):
            n_in, n_out = sizes[i % 2]
            widths = [n_in, *hidden]
            layers = [m for a, b in zip(widths, widths[1:]) for m in (nn.Linear(a, b), nn.ReLU())]
            self.nets.append(nn.Sequential(*layers, nn.Linear(widths[-1], 2 * n_out)))

    def log_prob(self, x):
        parts, logdet = [x[:, :self.half], x[:, self.half:]], 0
        for i, net in enumerate(self.nets):
            keep, change = i % 2, 1 - i % 2
            shift, raw = net(parts[keep]).chunk(2, 1)
            logs = 2 * torch.tanh(raw / 2)
            parts[change] = parts[change] * logs.exp() + shift
            logdet = logdet + logs.sum(1)
        z = torch.cat(parts, 1)
        return logdet - 0.5 * (z**2).sum(1) - 0.5 * self.dims * math.log(2 * math.pi)

    @torch.no_grad()
    def sample(self, n: int):
        z = torch.randn(n, self.dims)
        parts = [z[:, :self.half], z[:, self.half:]]
        for i in reversed(range(len(self.nets))):
            keep, change = i % 2, 1 - i % 2
            shift, raw = self.nets[i](parts[keep]).chunk(2, 1)
            parts[change] = (parts[change] - shift) * torch.exp(-2 * torch.tanh(raw / 2))
        return torch.cat(parts, 1)
