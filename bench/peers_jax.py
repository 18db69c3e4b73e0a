"""The works in JAX: by hand under jit, and flowjax. For timing only."""

import functools
import math
from importlib.metadata import version

import jax
import jax.numpy as jnp
import jax.random as jr
import optax


def versions(library):
    return {name: version(name) for name in dict.fromkeys(("jax", "optax", library))}


def mlp_init(key, widths):
    keys = jr.split(key, len(widths) - 1)
    return [(jr.normal(k, (a, b)) / math.sqrt(a), jnp.zeros(b)) for k, a, b in zip(keys, widths, widths[1:])]


def mlp(layers, x):
    for weight, bias in layers[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    weight, bias = layers[-1]
    return x @ weight + bias


def nets_init(sizes, outputs):
    """A net a coupling, from one half of the columns to `outputs` values for each of the other."""
    half = (sizes["dims"] + 1) // 2
    ends = [(half, sizes["dims"] - half), (sizes["dims"] - half, half)]
    return [mlp_init(jr.key(i), [ends[i % 2][0], *sizes["hidden"], outputs * ends[i % 2][1]])
            for i in range(sizes["couplings"])]


def nice(sizes):
    dims, half = sizes["dims"], (sizes["dims"] + 1) // 2

    def log_prob(params, x):
        nets, logs = params
        parts = [x[:, 0::2], x[:, 1::2]]
        for i, net in enumerate(nets):
            parts[1 - i % 2] = parts[1 - i % 2] + mlp(net, parts[i % 2])
        z = jnp.concatenate(parts, 1) * jnp.exp(logs)
        return logs.sum() - (jax.nn.softplus(z) + jax.nn.softplus(-z)).sum(1)

    def sample(params, key, n):
        nets, logs = params
        z = jr.logistic(key, (n, dims)) * jnp.exp(-logs)
        parts = [z[:, :half], z[:, half:]]
        for i, net in reversed(list(enumerate(nets))):
            parts[1 - i % 2] = parts[1 - i % 2] - mlp(net, parts[i % 2])
        return jnp.stack(parts, 2).reshape(n, dims)

    return (nets_init(sizes, 1), jnp.zeros(dims)), log_prob, sample


def affine(x, raw, inverse):
    """Log-scales are bounded by 2."""
    shift, raw = jnp.split(raw, 2, 1)
    logs = 2 * jnp.tanh(raw / 2)
    return (x - shift) * jnp.exp(-logs) if inverse else x * jnp.exp(logs) + shift, logs


def additive(x, raw, inverse):
    return x - raw if inverse else x + raw, jnp.zeros((1, 1))


def spline(x, raw, inverse, bins, bound):
    """Rational-quadratic splines on [-bound, bound] (Durkan et al. 2019): values, and logs of slopes."""
    least, raw = 1e-3, raw.reshape(len(x), -1, 3 * bins - 1)

    def knots(part):
        shares = least + (1 - least * bins) * jax.nn.softmax(part, -1)
        return jnp.pad(2 * bound * jnp.cumsum(shares, -1) - bound, ((0, 0), (0, 0), (1, 0)), constant_values=-bound)

    at_x, at_y = knots(raw[..., :bins]), knots(raw[..., bins:2 * bins])
    slopes = jnp.pad(least + jax.nn.softplus(raw[..., 2 * bins:]), ((0, 0), (0, 0), (1, 1)), constant_values=1.0)
    point = jnp.clip(x, -bound, bound)
    bin = ((at_y if inverse else at_x)[..., 1:-1] <= point[..., None]).sum(-1, keepdims=True)

    def of_bin(values):
        return jnp.take_along_axis(values, bin, -1)[..., 0]

    left, bottom, d0, d1 = of_bin(at_x), of_bin(at_y), of_bin(slopes), of_bin(slopes[..., 1:])
    width, height = of_bin(at_x[..., 1:]) - left, of_bin(at_y[..., 1:]) - bottom
    steep = height / width
    bend = d0 + d1 - 2 * steep
    if inverse:
        up = (point - bottom) / height
        a, b, c = steep - d0 + up * bend, d0 - up * bend, -steep * up
        theta = 2 * c / (-b - jnp.sqrt(jnp.maximum(b * b - 4 * a * c, 0)))
    else:
        theta = (point - left) / width
    mixed = theta * (1 - theta)
    below = steep + bend * mixed
    log = 2 * jnp.log(steep) + jnp.log(d1 * theta**2 + 2 * steep * mixed + d0 * (1 - theta) ** 2) - 2 * jnp.log(below)
    out = left + width * theta if inverse else bottom + height * (steep * theta**2 + d0 * mixed) / below
    inside = jnp.abs(x) < bound
    return jnp.where(inside, out, x), jnp.where(inside, log, 0)


def law_of(sizes):
    """A law, and how many numbers it takes for a column."""
    if sizes["law"] == "spline":
        return functools.partial(spline, bins=sizes["bins"], bound=sizes["bound"]), 3 * sizes["bins"] - 1
    return {"affine": (affine, 2), "additive": (additive, 1)}[sizes["law"]]


def residual_init(key, inputs, outputs, context, hidden):
    """Blocks of two layers around which the values pass; a context also gates each block."""
    width, keys = hidden[0], jr.split(key, 2 * len(hidden) + 2)
    blocks = [(mlp_init(keys[2 * b], [width, width, width]),
               mlp_init(keys[2 * b + 1], [context, width]) if context else []) for b in range(len(hidden))]
    return mlp_init(keys[-2], [inputs, width]), blocks, mlp_init(keys[-1], [width, outputs])


def residual(net, x, context):
    first, blocks, last = net
    h = mlp(first, x)
    for block, gate in blocks:
        change = mlp(block, jax.nn.relu(h))
        h = h + (change * jax.nn.sigmoid(mlp(gate, context)) if gate else change)
    return mlp(last, h)


def coupling(sizes):
    """Couplings on alternating halves of a table's columns, perhaps given a context."""
    dims, half, context = sizes["dims"], (sizes["dims"] + 1) // 2, sizes["context"]
    given = jr.normal(jr.key(3), (100000, context))
    law, numbers = law_of(sizes)

    def net_init(i):
        passed, changed = (half, dims - half) if i % 2 == 0 else (dims - half, half)
        inputs, outputs, hidden = passed + context, numbers * changed, sizes["hidden"]
        if sizes["net"] == "residual":
            return residual_init(jr.key(i), inputs, outputs, context, hidden)
        return mlp_init(jr.key(i), [inputs, *hidden, outputs])

    def raw(net, x):
        c = given[:len(x)]
        x = jnp.concatenate([x, c], 1) if context else x
        return residual(net, x, c) if sizes["net"] == "residual" else mlp(net, x)

    def log_prob(nets, x):
        parts, logdet = [x[:, :half], x[:, half:]], 0
        for i, net in enumerate(nets):
            parts[1 - i % 2], log = law(parts[1 - i % 2], raw(net, parts[i % 2]), False)
            logdet += log.sum(1)
        return logdet - 0.5 * sum((p**2).sum(1) for p in parts) - 0.5 * dims * math.log(2 * math.pi)

    def sample(nets, key, n):
        z = jr.normal(key, (n, dims))
        parts = [z[:, :half], z[:, half:]]
        for i, net in reversed(list(enumerate(nets))):
            parts[1 - i % 2], _ = law(parts[1 - i % 2], raw(net, parts[i % 2]), True)
        return jnp.concatenate(parts, 1)

    return [net_init(i) for i in range(sizes["couplings"])], log_prob, sample


def flowjax(sizes):
    import equinox as eqx
    from flowjax.distributions import Normal
    from flowjax.flows import coupling_flow
    flow = coupling_flow(jr.key(0), base_dist=Normal(jnp.zeros(sizes["dims"])),
                         flow_layers=sizes["couplings"], nn_width=sizes["hidden"][0],
                         nn_depth=len(sizes["hidden"]))
    # Only the arrays are parameters: the rest of the flow is structure.
    params, structure = eqx.partition(flow, eqx.is_inexact_array)
    return (params, lambda p, x: eqx.combine(p, structure).log_prob(x),
            lambda p, key, n: eqx.combine(p, structure).sample(key, (n,)))


MODELS = {**{("jax", model): coupling for model in ("real_nvp", "spline", "coupling")}, ("jax", "nice"): nice,
          ("flowjax", "real_nvp"): flowjax}


def build(library, model, sizes, threads, device):
    """The work's calls, by name. They wait for the result, which JAX does not do by itself."""
    params, log_prob, sample = MODELS[library, model](sizes)
    draw = jr.uniform if model == "nice" else jr.normal
    x = draw(jr.key(1), (sizes["batch"], sizes["dims"]))
    one, key, optimizer = x[:1], jr.key(2), optax.adam(1e-5)

    def update(state, batch):
        values, moments = state
        gradient = jax.grad(lambda v: -log_prob(v, batch).mean())(values)
        change, moments = optimizer.update(gradient, moments, values)
        return optax.apply_updates(values, change), moments

    update = jax.jit(update, donate_argnums=0)
    log_prob_jit, sample_jit = jax.jit(log_prob), jax.jit(sample, static_argnums=2)
    state = params, optimizer.init(params)

    def step():
        nonlocal state
        state = jax.block_until_ready(update(state, x))

    return {"step": step, "log_prob": lambda: log_prob_jit(state[0], x).block_until_ready(),
            "sample": lambda: sample_jit(state[0], key, len(x)).block_until_ready(),
            "sample_1": lambda: sample_jit(state[0], key, 1).block_until_ready(),
            "sample_100000": lambda: sample_jit(state[0], key, 100000).block_until_ready(),
            "log_prob_1": lambda: log_prob_jit(state[0], one).block_until_ready(),
            "parameters": lambda: sum(p.size for p in jax.tree.leaves(params))}
