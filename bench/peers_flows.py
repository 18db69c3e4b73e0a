"""The works in the flow libraries over torch: normflows, nflows, zuko, FrEIA. Differences: works.CANNOT."""

from importlib.metadata import version

import peers_torch
import torch
from peers_torch import LOG_2PI, glow_net, mlp
from torch import nn


def versions(library):
    name = library.removesuffix("-autocast")
    return {"torch": torch.__version__, name: version(name)}


class WithContext(nn.Module):
    """A net as nflows calls it."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x, context=None):
        return self.net(x)


def normflows_glow(s):
    import normflows as nf
    bases, levels, merges = [], [], []
    for level in reversed(range(s["levels"])):  # coarsest first
        channels, side = 3 * 2 ** (level + 2), s["size"] >> (level + 1)
        levels.append([nf.flows.GlowBlock(channels, s["width"], split_mode="channel", scale=True)
                       for _ in range(s["steps"])] + [nf.flows.Squeeze()])
        top = level == s["levels"] - 1
        if not top:
            merges.append(nf.flows.Merge())
        bases.append(nf.distributions.DiagGaussian((channels if top else channels // 2, side, side)))
    model = nf.MultiscaleFlow(bases, levels, merges)
    return model, lambda x: model.log_prob(x, None), lambda n: model.sample(n)[0]


def normflows_table(s):
    import normflows as nf
    half = s["dims"] // 2
    flows = []
    for _ in range(s["couplings"]):
        net = nf.nets.MLP([s["dims"] - half, *s["hidden"], 2 * half], init_zeros=True)
        flows += [nf.flows.AffineCouplingBlock(net), nf.flows.Permute(s["dims"], mode="swap")]
    model = nf.NormalizingFlow(nf.distributions.DiagGaussian(s["dims"], trainable=False), flows)
    return model, model.log_prob, lambda n: model.sample(n)[0]


def nflows_glow(s):
    from nflows import distributions, flows
    from nflows import transforms as T
    chain = T.MultiscaleCompositeTransform(s["levels"])
    channels, side = 3, s["size"]
    for _ in range(s["levels"]):
        channels, side = 4 * channels, side // 2
        mask = torch.cat([-torch.ones(channels // 2), torch.ones(channels // 2)])
        steps = [T.SqueezeTransform()]
        for _ in range(s["steps"]):
            steps += [T.ActNorm(channels), T.OneByOneConvolution(channels),
                      T.AffineCouplingTransform(mask, lambda i, o: WithContext(glow_net(i, o, s["width"])))]
        left = chain.add_transform(T.CompositeTransform(steps), (channels, side, side))
        channels = left[0] if left else channels
    model = flows.Flow(chain, distributions.StandardNormal([3 * s["size"] ** 2]))
    return model, model.log_prob, model.sample


def nflows_table(s):
    from nflows import distributions, flows
    from nflows import transforms as T
    from nflows import utils
    couplings = [T.AffineCouplingTransform(utils.create_alternating_binary_mask(s["dims"], even=i % 2 == 0),
                                           lambda i, o: WithContext(mlp(i, o, s["hidden"])))
                 for i in range(s["couplings"])]
    model = flows.Flow(T.CompositeTransform(couplings), distributions.StandardNormal([s["dims"]]))
    return model, model.log_prob, model.sample


def nflows_spline(s):
    from nflows import distributions, flows
    from nflows import transforms as T
    from nflows import utils
    from nflows.nn.nets import ResidualNet
    width, given = s["hidden"][0], torch.randn(100000, s["context"]) if s["context"] else None

    def net(inputs, outputs):
        return ResidualNet(inputs, outputs, width, context_features=s["context"] or None, num_blocks=len(s["hidden"]))

    couplings = [T.PiecewiseRationalQuadraticCouplingTransform(
        utils.create_alternating_binary_mask(s["dims"], even=i % 2 == 0), net, num_bins=s["bins"], tails="linear",
        tail_bound=s["bound"]) for i in range(s["couplings"])]
    model = flows.Flow(T.CompositeTransform(couplings), distributions.StandardNormal([s["dims"]]))
    if given is None:
        return model, model.log_prob, model.sample
    return (model, lambda x: model.log_prob(x, given[:len(x)]), lambda n: model.sample(1, given[:n]))


def zuko_table(s):
    import zuko
    model = zuko.flows.RealNVP(s["dims"], transforms=s["couplings"], hidden_features=s["hidden"])
    return model, lambda x: model().log_prob(x), lambda n: model().sample((n,))


def freia_calls(model, dims):
    def log_prob(x):
        z, logdet = model(x)
        return logdet - 0.5 * (z**2).sum(1) - 0.5 * dims * LOG_2PI
    return model, log_prob, lambda n: model(torch.randn(n, dims), rev=True)[0]


def freia_glow(s):
    import FrEIA.framework as Ff
    import FrEIA.modules as Fm
    nodes, parts = [Ff.InputNode(3, s["size"], s["size"])], []

    def add(source, module, settings=None):
        nodes.append(Ff.Node(source, module, settings or {}))
        return nodes[-1]

    last = nodes[0]
    for level in range(s["levels"]):
        last = add(last, Fm.IRevNetDownsampling)
        for _ in range(s["steps"]):
            last = add(last, Fm.AllInOneBlock, {"subnet_constructor": lambda i, o: glow_net(i, o, s["width"]),
                                                "permute_soft": True})
        if level + 1 < s["levels"]:
            split = add(last, Fm.Split)
            parts.append(add(split.out1, Fm.Flatten).out0)
            last = split.out0
    parts.append(add(last, Fm.Flatten).out0)
    joined = add(parts, Fm.Concat)
    return freia_calls(Ff.GraphINN(nodes + [Ff.OutputNode(joined)]), 3 * s["size"] ** 2)


def freia_table(s):
    import FrEIA.framework as Ff
    import FrEIA.modules as Fm
    model = Ff.SequenceINN(s["dims"])
    for _ in range(s["couplings"] // 2):  # a block holds a coupling of each half
        model.append(Fm.GLOWCouplingBlock, subnet_constructor=lambda i, o: mlp(i, o, s["hidden"]),
                     clamp_activation="TANH")
    return freia_calls(model, s["dims"])


MODELS = {("normflows", "glow"): normflows_glow, ("normflows", "real_nvp"): normflows_table,
          ("nflows", "glow"): nflows_glow, ("nflows", "real_nvp"): nflows_table,
          ("nflows", "spline"): nflows_spline,
          ("zuko", "real_nvp"): zuko_table,
          ("FrEIA", "glow"): freia_glow, ("FrEIA", "real_nvp"): freia_table}


def build(library, model, sizes, threads, device):
    """The work's calls, by name."""
    context = peers_torch.prepare(library, threads, device)
    with torch.device("cpu"):
        net, log_prob, sample = MODELS[library.removesuffix("-autocast"), model](sizes)
    net.to(device)
    if device != "cpu" and model == "glow" and library != "FrEIA":  # whose Flatten takes no such arrays
        net.to(memory_format=torch.channels_last)
    for module in net.modules():
        if hasattr(module, "data_dep_init_done"):
            # Asked for in every pass: on a GPU each is a wait. Set, as the first pass would make another one there.
            module.data_dep_init_done = torch.tensor(1.0, device="cpu")
    return peers_torch.calls(net, log_prob, sample, peers_torch.data(model, sizes), context)
