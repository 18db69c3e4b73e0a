"""First-order updates of a dict of tensors, one function a rule.

Each rule takes (value, gradient, state of this tensor, step counted from 1, settings) and returns the new
value.
"""

import torch


def bias_corrected_rate(t, settings):
    return settings["lr"] * (1 - settings["beta2"] ** t) ** 0.5 / (1 - settings["beta1"] ** t)


def adam(w, g, state, t, settings):
    """Adam in the form of its paper's section 2, end: eps beside the uncorrected root (Kingma, Ba 2015)."""
    b1, b2 = settings["beta1"], settings["beta2"]
    state["m"] = b1 * state.get("m", 0) + (1 - b1) * g
    state["v"] = b2 * state.get("v", 0) + (1 - b2) * g**2
    return w - bias_corrected_rate(t, settings) * state["m"] / (torch.sqrt(state["v"]) + settings["eps"])


def adamax(w, g, state, t, settings):
    """Adamax with Adam's step correction, as Glow's official code has it."""
    b1, b2 = settings["beta1"], settings["beta2"]
    state["m"] = b1 * state.get("m", 0) + (1 - b1) * g
    state["v"] = torch.maximum(b2 * state.get("v", torch.zeros_like(g)), g.abs())
    return w - bias_corrected_rate(t, settings) * state["m"] / (state["v"] + settings["eps"])


def sgd(w, g, state, t, settings):
    """Heavy-ball momentum."""
    state["v"] = settings["momentum"] * state.get("v", 0) - settings["lr"] * g
    return w + state["v"]


def rmsprop(w, g, state, t, settings):
    """RMSProp with momentum and a floor under the root, as NICE's official code has it."""
    decay = settings["decay"]
    state["a"] = decay * state.get("a", 0) + (1 - decay) * g**2
    scaled = g / torch.clamp(torch.sqrt(state["a"]), min=settings["eps"])
    state["v"] = settings["momentum"] * state.get("v", 0) - settings["lr"] * scaled
    return w + state["v"]


RULES = {"adam": adam, "adamax": adamax, "sgd": sgd, "rmsprop": rmsprop}


class Optimizer:
    """Updates params (name -> tensor) in place.

    decayed: names whose gradient gets weight_decay * value (L2). shrink multiplies every value before the
    step.
    """

    def __init__(self, params, rule, decayed=(), weight_decay=0.0, shrink=1.0, **settings):
        self.params, self.rule, self.settings = params, RULES[rule], settings
        self.decayed, self.weight_decay, self.shrink = set(decayed), weight_decay, shrink
        self.states = {name: {} for name in params}
        self.steps = 0

    @torch.no_grad()
    def step(self, grads):
        """grads: name -> tensor."""
        self.steps += 1
        for name, value in self.params.items():
            g = grads[name]
            if name in self.decayed:
                g = g + self.weight_decay * value
            value.copy_(self.rule(self.shrink * value, g, self.states[name], self.steps, self.settings))
