"""The works as a careful torch user writes them: channels last, one module a layer. For timing only."""

import contextlib
import functools
import math
import types

import torch
from torch import nn
from torch.nn import functional as F

LOG_2PI = math.log(2 * math.pi)


def versions(library):
    return {"torch": torch.__version__}


def glow_net(n_in: int, n_out: int, width: int) -> nn.Sequential:
    """A Glow coupling's net. It has no norms between its convolutions, ours has: less work."""
    net = nn.Sequential(nn.Conv2d(n_in, width, 3, padding=1), nn.ReLU(inplace=True),
                        nn.Conv2d(width, width, 1), nn.ReLU(inplace=True),
                        nn.Conv2d(width, n_out, 3, padding=1))
    nn.init.zeros_(net[4].weight)
    nn.init.zeros_(net[4].bias)
    return net


def mlp(n_in: int, n_out: int, hidden: tuple) -> nn.Sequential:
    widths = [n_in, *hidden]
    layers = [m for a, b in zip(widths, widths[1:]) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(widths[-1], n_out))


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
        self.net = glow_net(channels // 2, channels, width)

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
        # inverse() reads back whether there is one: a wait each, and no CUDA graph can be recorded.
        inverse = torch.linalg.inv_ex(self.weight().double())[0]
        x = F.conv2d(x, inverse.to(x.dtype)[:, :, None, None])
        return x / self.logs.exp()[:, None, None] - self.bias[:, None, None]


class Glow(nn.Module):
    def __init__(self, size: int, levels: int, steps: int, width: int):
        super().__init__()
        self.levels, self.splits = nn.ModuleList(), nn.ModuleList()
        channels = 3
        for level in range(levels):
            channels *= 4
            self.levels.append(nn.ModuleList([Step(channels, width) for _ in range(steps)]))
            if level + 1 < levels:
                channels //= 2
                self.splits.append(nn.Conv2d(channels, 2 * channels, 3, padding=1))
                nn.init.zeros_(self.splits[-1].weight)
                nn.init.zeros_(self.splits[-1].bias)
        self.channels, self.side = channels, size >> levels

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
                total = total - (0.5 * (LOG_2PI + ((z - mean) * (-logs).exp()) ** 2) + logs).sum((1, 2, 3))
        return total - 0.5 * (LOG_2PI + x**2).sum((1, 2, 3))

    def sample(self, n: int):
        x = torch.randn(n, self.channels, self.side, self.side).contiguous(memory_format=torch.channels_last)
        for level in reversed(range(len(self.levels))):
            if level < len(self.splits):
                mean, logs = self.splits[level](x).chunk(2, 1)
                x = torch.cat([x, mean + logs.exp() * torch.randn_like(mean)], 1)
            for step in reversed(self.levels[level]):
                x = step.inverse(x)
            x = F.pixel_shuffle(x, 2)
        return x


def affine(x, raw, inverse: bool):
    """Log-scales are bounded by 2."""
    shift, raw = raw.chunk(2, 1)
    logs = 2 * torch.tanh(raw / 2)
    return (x - shift) / logs.exp() if inverse else x * logs.exp() + shift, logs


def additive(x, raw, inverse: bool):
    return x - raw if inverse else x + raw, torch.zeros(1, 1)


def spline(x, raw, inverse: bool, bins: int, bound: float):
    """Rational-quadratic splines on [-bound, bound] (Durkan et al. 2019): values, and logs of slopes."""
    least, raw = 1e-3, raw.unflatten(1, (-1, 3 * bins - 1))

    def knots(part):
        shares = least + (1 - least * bins) * torch.softmax(part, -1)
        return F.pad(2 * bound * shares.cumsum(-1) - bound, (1, 0), value=-bound)

    at_x, at_y = knots(raw[..., :bins]), knots(raw[..., bins:2 * bins])
    slopes = F.pad(least + F.softplus(raw[..., 2 * bins:]), (1, 1), value=1.0)
    inside = x.abs() < bound
    point = x.clamp(-bound, bound)
    bin = ((at_y if inverse else at_x)[..., 1:-1] <= point[..., None]).sum(-1, keepdim=True)

    def of_bin(values):
        return values.gather(-1, bin).squeeze(-1)

    left, bottom, d0, d1 = of_bin(at_x), of_bin(at_y), of_bin(slopes), of_bin(slopes[..., 1:])
    width, height = of_bin(at_x[..., 1:]) - left, of_bin(at_y[..., 1:]) - bottom
    steep = height / width
    bend = d0 + d1 - 2 * steep
    if inverse:
        up = (point - bottom) / height
        a, b, c = steep - d0 + up * bend, d0 - up * bend, -steep * up
        theta = 2 * c / (-b - (b * b - 4 * a * c).clamp(min=0).sqrt())
    else:
        theta = (point - left) / width
    mixed = theta * (1 - theta)
    below = steep + bend * mixed
    log = (2 * steep.log() + (d1 * theta**2 + 2 * steep * mixed + d0 * (1 - theta) ** 2).log() - 2 * below.log())
    out = left + width * theta if inverse else bottom + height * (steep * theta**2 + d0 * mixed) / below
    return torch.where(inside, out, x), torch.where(inside, log, 0.0)


def law_of(s: dict):
    """A law, and how many numbers it takes for a column."""
    if s["law"] == "spline":
        return functools.partial(spline, bins=s["bins"], bound=s["bound"]), 3 * s["bins"] - 1
    return {"affine": (affine, 2), "additive": (additive, 1)}[s["law"]]


class ResidualNet(nn.Module):
    """Blocks of two layers around which the values pass; a context also gates each block."""

    def __init__(self, n_in: int, n_out: int, context: int, hidden: tuple):
        super().__init__()
        width = hidden[0]
        inputs = [width, width, context] if context else [width, width]
        self.first = nn.Linear(n_in, width)
        self.blocks = nn.ModuleList([nn.ModuleList([nn.Linear(n, width) for n in inputs]) for _ in hidden])
        self.last = nn.Linear(width, n_out)

    def forward(self, x, context):
        h = self.first(x)
        for inner, outer, *gate in self.blocks:
            change = outer(F.relu(inner(F.relu(h))))
            h = h + (change * torch.sigmoid(gate[0](context)) if gate else change)
        return self.last(h)


class CouplingFlow(nn.Module):
    """Couplings on alternating halves of a table's columns, perhaps given a context."""

    def __init__(self, s: dict):
        super().__init__()
        self.dims, self.half, self.residual = s["dims"], (s["dims"] + 1) // 2, s["net"] == "residual"
        self.law, numbers = law_of(s)
        sizes = [(self.half, self.dims - self.half), (self.dims - self.half, self.half)]
        ends = [(a + s["context"], numbers * b) for a, b in sizes]
        self.nets = nn.ModuleList([ResidualNet(*ends[i % 2], s["context"], s["hidden"]) if self.residual
                                   else mlp(*ends[i % 2], s["hidden"]) for i in range(s["couplings"])])
        self.register_buffer("context", torch.randn(100000, s["context"]))

    def raw(self, i, x):
        context = self.context[:len(x)]
        if context.shape[1]:
            x = torch.cat([x, context], 1)
        return self.nets[i](x, context) if self.residual else self.nets[i](x)

    def log_prob(self, x):
        parts, logdet = [x[:, :self.half], x[:, self.half:]], 0
        for i in range(len(self.nets)):
            keep, change = i % 2, 1 - i % 2
            parts[change], log = self.law(parts[change], self.raw(i, parts[keep]), False)
            logdet = logdet + log.sum(1)
        return logdet - 0.5 * (torch.cat(parts, 1) ** 2).sum(1) - 0.5 * self.dims * LOG_2PI

    def sample(self, n: int):
        z = torch.randn(n, self.dims)
        parts = [z[:, :self.half], z[:, self.half:]]
        for i in reversed(range(len(self.nets))):
            keep, change = i % 2, 1 - i % 2
            parts[change], _ = self.law(parts[change], self.raw(i, parts[keep]), True)
        return torch.cat(parts, 1)


class NICE(nn.Module):
    """Additive couplings on alternating halves, one scaling, logistic prior."""

    def __init__(self, dims: int, couplings: int, hidden: tuple):
        super().__init__()
        self.dims, self.half = dims, (dims + 1) // 2
        sizes = [(self.half, dims - self.half), (dims - self.half, self.half)]
        self.nets = nn.ModuleList([mlp(*sizes[i % 2], hidden) for i in range(couplings)])
        self.logs = nn.Parameter(torch.zeros(dims))

    def log_prob(self, x):
        parts = [x[:, 0::2], x[:, 1::2]]
        for i, net in enumerate(self.nets):
            parts[1 - i % 2] = parts[1 - i % 2] + net(parts[i % 2])
        z = torch.cat(parts, 1) * self.logs.exp()
        return self.logs.sum() - (F.softplus(z) + F.softplus(-z)).sum(1)

    def sample(self, n: int):
        z = torch.logit(torch.rand(n, self.dims), eps=1e-7) * torch.exp(-self.logs)
        parts = [z[:, :self.half], z[:, self.half:]]
        for i in reversed(range(len(self.nets))):
            parts[1 - i % 2] = parts[1 - i % 2] - self.nets[i](parts[i % 2])
        return torch.stack(parts, 2).flatten(1)


class Recorded:
    """A call as one CUDA graph, recorded when it first runs: no launch costs the program anything from then on."""

    def __init__(self, call, before=lambda: None):
        self._call, self._before, self._graph = call, before, None

    def __call__(self):
        if self._graph is None:
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(3):  # compiles, chooses kernels, allocates moments: none of it can be recorded
                    self._before()
                    self._call()
            torch.cuda.current_stream().wait_stream(aside)
            self._before()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._call()
            self._graph = graph  # not where recording failed
        self._graph.replay()


def compile_blocks(model, **how):
    """Steps of a Glow compiled once a level, not every step again: a whole Glow of 96 takes longer than its limit."""
    torch._dynamo.config.recompile_limit = 64  # programs of one function: levels, with gradients and without
    forward, inverse = torch.compile(Step.forward, **how), torch.compile(Step.inverse, **how)
    for step in model.modules():
        if isinstance(step, Step):
            step.forward, step.inverse = types.MethodType(forward, step), types.MethodType(inverse, step)


def calls(model, log_prob, sample, x, context=contextlib.nullcontext, graphs=False):
    """The calls of every torch library: Adam's fused form, and no gradients but in the step. graphs: see Recorded."""
    def whole(call):
        """Until a GPU has done it."""
        def run():
            call()
            if x.is_cuda:
                torch.cuda.synchronize()
        return run

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5, fused=True, capturable=graphs)

    def update():
        with context():
            loss = -log_prob(x).mean()
        loss.backward()
        optimizer.step()

    def step():
        optimizer.zero_grad()
        update()

    def without_gradients(call, *arguments):
        with torch.inference_mode(), context():
            call(*arguments)

    named = {"step": step, "log_prob": lambda: without_gradients(log_prob, x),
             "sample": lambda: without_gradients(sample, len(x)),
             "sample_1": lambda: without_gradients(sample, 1),
             "sample_100000": lambda: without_gradients(sample, 100000),
             "sample_1000000": lambda: without_gradients(sample, 1000000),
             "log_prob_1": lambda: without_gradients(log_prob, x[:1])}
    if graphs:
        # Without gradients when it is recorded, backward() writes new ones in every replay, and adds to none.
        named = {name: Recorded(call) for name, call in named.items()}
        named["step"] = Recorded(update, optimizer.zero_grad)
    return {**{name: whole(call) for name, call in named.items()},
            "parameters": lambda: sum(p.numel() for p in model.parameters())}


def data(model, sizes):
    """A batch of the work's shape."""
    if model == "glow":
        return torch.rand(sizes["batch"], 3, sizes["size"], sizes["size"]) - 0.5
    draw = torch.rand if model == "nice" else torch.randn
    return draw(sizes["batch"], sizes["dims"])


def prepare(library, threads, device):
    """Settings of the process; the context of a library's forward passes."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    torch.set_default_device(device)
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU
    torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    if library.endswith("-autocast"):
        return lambda: torch.autocast(device, torch.bfloat16)
    return contextlib.nullcontext


def build(library, model, sizes, threads, device):
    """The work's calls, by name. "torch-graph" and "torch-compile-graph" record each as a CUDA graph."""
    graphs = "-graph" in library
    if graphs and device != "cuda":
        raise ValueError(f"[{library}] expected device cuda, got {device}")
    context = prepare(library, threads, device)
    if model == "glow":
        net = Glow(sizes["size"], sizes["levels"], sizes["steps"], sizes["width"])
        net = net.to(memory_format=torch.channels_last)
    elif model == "nice":
        net = NICE(sizes["dims"], sizes["couplings"], sizes["hidden"])
    else:
        net = CouplingFlow(sizes)
    log_prob, sample = net.log_prob, net.sample
    if library.startswith("torch-compile"):
        # One program a batch size: a general one is slower.
        how = {"dynamic": False, "mode": "max-autotune" if device == "cuda" else None}
        blocks = model == "glow" and device == "cuda"
        if graphs or blocks:  # ours are of whole calls, and torch's own would be of each block's every use
            how["mode"] = "max-autotune-no-cudagraphs"
        if blocks:
            compile_blocks(net, **how)
        else:
            log_prob, sample = torch.compile(log_prob, **how), torch.compile(sample, **how)
    return calls(net, log_prob, sample, data(model, sizes), context, graphs)
