"""NICE, Real NVP and Glow once more, in plain torch: no speed, no inverse, gradients by autograd.

Every model is a function `forward(params, x, config, given=None, training=True) -> (z (N, D), logdet (N,))`
of a dict of named tensors and a dict of the model's settings, all in the names of the library. given: labels (N,),
or the context (N, C). It shares nothing with the library but these names and the papers.
"""

from . import glow, nice, optim, real_nvp
from .prior import base_log_prob, mean_nll
from .scope import RandomParams, Scope

__all__ = ["RandomParams", "Scope", "base_log_prob", "glow", "mean_nll", "nice", "optim", "real_nvp"]
