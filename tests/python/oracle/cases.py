"""Small models of every family with every setting, as (name, oracle function, shape, config)."""

from collections.abc import Callable
from dataclasses import dataclass, field

from . import glow, nice, real_nvp


@dataclass
class Case:
    name: str
    family: str  # the library's class: "NICE", "RealNVP", "CouplingFlow" or "Glow"
    forward: Callable
    shape: tuple  # of a sample: (H, W, C) or (D,)
    config: dict = field(default_factory=dict)

    @property
    def base(self):
        return self.config.get("base") or self.config.get("prior", "gaussian")

    @property
    def classes(self):
        return self.config.get("classes", 0)

    @property
    def context(self):
        return self.config.get("context", 0)


def _glow(name, shape, **settings):
    config = dict(levels=2, steps=2, hidden=5, coupling="affine", permutation="lu", learn_top=True, classes=0,
                  class_weight=0.0, bits=8)
    return Case("glow-" + name, "Glow", glow.forward, shape, config | settings)


def _nice(name, shape, **settings):
    config = dict(couplings=3, hidden=(6, 5), prior="logistic", permutation="tile", preprocess="none", bits=8)
    return Case("nice-" + name, "NICE", nice.forward, shape, config | settings)


def _table(name, dims, **settings):
    config = dict(couplings=3, net="mlp", hidden=(6, 5), law="affine", mask="halves", permutation="none",
                  preprocess="standardize", batch_norm=False, actnorm=False, base="gaussian")
    return Case("table-" + name, "CouplingFlow", real_nvp.table_forward, (dims,), config | settings)


def _image(name, shape, **settings):
    config = dict(levels=2, base_dim=3, residual_blocks=1, bottleneck=False, skip=True, batch_norm=True,
                  weight_norm=True, coupling="affine", recursion=2, bits=8)
    return Case("image-" + name, "RealNVP", real_nvp.image_forward, shape, config | settings)


BOUNDS = [(-8, 9), (-7.5, None), (None, None), (None, 8), (-10, 7)]
"""Around the data that the tests make."""
LISTED = [[True, False, False, True], [False, True, False, False], [True, False, True, True]]

CASES = [
    _glow("affine", (8, 8, 1)),
    _glow("additive", (4, 8, 3), coupling="additive"),
    _glow("bounded", (4, 8, 3), coupling="bounded"),
    _glow("three-levels", (8, 8, 1), levels=3, steps=1),
    _glow("one-level", (6, 2, 3), levels=1, steps=3),
    _glow("plain", (4, 4, 3), permutation="plain"),
    _glow("shuffle", (4, 4, 3), permutation="shuffle"),
    _glow("reverse", (4, 4, 1), permutation="reverse"),
    _glow("fixed-top", (4, 4, 1), learn_top=False),
    _glow("five-bits", (4, 4, 3), bits=5),
    _glow("classes", (4, 4, 3), classes=4),
    _glow("class-head", (4, 4, 3), classes=4, class_weight=0.7),
    _glow("classes-fixed-top", (4, 4, 1), learn_top=False, classes=3, class_weight=0.01, bits=5),
    _glow("context", (4, 8, 3), context=2),
    _glow("context-additive", (4, 4, 1), coupling="additive", learn_top=False, context=1),
    _nice("table", (8,)),
    _nice("odd", (7,), permutation="none", prior="gaussian", couplings=4),
    _nice("odd-tile", (7,), hidden=(4,)),
    _nice("shuffle", (6,), permutation="shuffle"),
    _nice("reverse", (5,), permutation="reverse"),
    _nice("standardize", (6,), preprocess="standardize", prior="gaussian"),
    _nice("zca", (5,), preprocess="zca"),
    _nice("whiten", (5,), preprocess="whiten", prior="gaussian"),
    _nice("bounds", (5,), preprocess="standardize", bounds=BOUNDS),
    _nice("image", (4, 3, 3)),
    _nice("image-odd", (3, 3, 1), prior="gaussian", bits=5, permutation="reverse"),
    _nice("image-zca", (2, 4, 1), preprocess="zca", permutation="shuffle"),
    _table("halves", 6),
    _table("halves-odd", 5, couplings=4),
    _table("odd-even", 6, mask="odd-even"),
    _table("odd-even-odd", 5, mask="odd-even", hidden=(4,)),
    _table("one", 1, mask="log2", permutation="lu", batch_norm=True, actnorm=True),
    _table("one-context", 1, context=2, permutation="shuffle"),
    _table("log2", 5, mask="log2", couplings=6),
    _table("log2-batch-norm", 6, mask="log2", couplings=4, batch_norm=True),
    _table("listed", 4, mask=LISTED, batch_norm=True),
    _table("listed-context", 4, mask=[[True] * 4, *LISTED[1:]], context=2),
    _table("two", 2, couplings=4),
    _table("additive", 5, law="additive"),
    *(_table(law, 5, law=law) for law in ("sigmoid", "softplus", "exp", "glow")),
    _table("mix-last", 5, permutation="lu-shuffle", mix_last=True),
    _table("spline", 5, law="spline", bins=4, bound=3),
    _table("unconditional", 5, law="spline", bins=4, bound=3, unconditional=True, mask="odd-even", actnorm=True),
    _table("unconditional-context", 4, law="spline", bins=3, bound=2.5, unconditional=True, mask=[[True] * 4, *LISTED[1:]],
           context=1, permutation="lu-shuffle"),
    _table("one-spline", 1, law="spline", bins=5, bound=3.5),
    _table("uniform", 4, law="spline", bins=4, base="uniform", preprocess="none", permutation="shuffle", mask="log2"),
    _table("uniform-unconditional", 3, law="spline", bins=3, base="uniform", preprocess="none", unconditional=True,
           permutation="reverse", context=2),
    _table("uniform-one", 1, law="spline", bins=5, base="uniform", preprocess="none"),
    _table("shuffle", 5, permutation="shuffle"),
    _table("lu", 5, permutation="lu"),
    _table("lu-shuffle", 5, permutation="lu-shuffle"),
    _table("reverse", 5, permutation="reverse", couplings=4),
    _table("raw", 6, preprocess="none"),
    _table("zca", 5, preprocess="zca"),
    _table("whiten", 5, preprocess="whiten"),
    _table("bounds", 5, bounds=BOUNDS),
    _table("bounds-raw", 5, preprocess="none", bounds=BOUNDS),
    _table("batch-norm", 5, batch_norm=True),
    _table("actnorm", 5, actnorm=True, base="logistic"),
    _table("all", 7, mask="odd-even", permutation="lu", preprocess="whiten", batch_norm=True, actnorm=True),
    _table("context", 5, context=3),
    _table("context-all", 7, mask="odd-even", permutation="lu", preprocess="whiten", batch_norm=True, actnorm=True,
           context=1),
    *(_table(f"mlp-{activation}", 5, activation=activation) for activation in ("leaky_relu", "tanh", "silu", "elu")),
    _table("residual", 5, net="residual", hidden=(6, 6)),
    _table("residual-silu", 6, net="residual", hidden=(7,), activation="silu", law="additive", permutation="lu"),
    _table("residual-context", 5, net="residual", hidden=(6, 6), activation="elu", context=3),
    _image("rgb", (4, 4, 3)),
    _image("grey", (8, 4, 1), levels=3),
    _image("one-scale", (3, 5, 2), levels=1),
    _image("no-batch-norm", (4, 4, 3), batch_norm=False),
    _image("no-weight-norm", (4, 4, 1), weight_norm=False),
    _image("neither-norm", (4, 4, 1), weight_norm=False, batch_norm=False),
    _image("additive", (4, 4, 3), coupling="additive"),
    _image("additive-no-batch-norm", (4, 4, 1), coupling="additive", batch_norm=False),
    _image("recursion1", (8, 8, 1), levels=3, recursion=1),
    _image("recursion3", (8, 8, 1), levels=3, recursion=3),
    _image("recursion4", (8, 8, 1), levels=3, recursion=4),
    _image("recursion3-rgb", (4, 4, 3), recursion=3),
    _image("two-blocks", (4, 4, 1), residual_blocks=2),
    _image("no-skip", (4, 4, 1), skip=False, residual_blocks=2),
    _image("bottleneck", (4, 4, 1), bottleneck=True),
    _image("bottleneck-no-batch-norm", (4, 4, 1), bottleneck=True, batch_norm=False),
    _image("plain", (4, 4, 1), residual_blocks=0),
    _image("plain-no-batch-norm", (4, 4, 1), residual_blocks=0, batch_norm=False),
    _image("plain-bottleneck", (4, 4, 1), residual_blocks=0, bottleneck=True),
    _image("plain-bottleneck-no-batch-norm", (4, 4, 1), residual_blocks=0, bottleneck=True, batch_norm=False),
    _image("five-bits", (4, 4, 1), bits=5),
    _image("context", (4, 4, 3), context=2),
    _image("context-no-batch-norm", (4, 6, 1), batch_norm=False, residual_blocks=0, context=3),
]
