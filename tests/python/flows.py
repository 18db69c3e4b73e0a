"""A list of flows over all that a model is made of, and what any test of all of them needs: data, moved weights."""

import dataclasses

import numpy as np

import evenflow as ef
from plain import PLAIN

BOUNDS = [(0, None), (0, 1), (None, 5), (None, None)]
MASK = np.array([[True, False, True, False], [False, True, False, True], [True, True, True, False]])


@dataclasses.dataclass(frozen=True)
class Case:
    kind: str
    shape: int | tuple
    settings: dict
    batch: bool = False  # whether rows of a training batch see each other
    noise: float = 0.1

    def make(self, **more):
        return getattr(ef, self.kind)(self.shape, **{"dtype": "float64", **self.settings, **more})

    def data(self, n, seed=0):
        """(x (n, ...), what the flow is given: {"context": (n, C)} of columns of different sizes, or labels)."""
        rng, s = np.random.default_rng(seed), self.settings
        given = {}
        if size := s.get("context"):
            given["context"] = rng.normal(size=(n, size)) * np.geomspace(300, 0.1, size) + 7
        if classes := s.get("classes"):
            given["label"] = rng.integers(0, classes, n)
        if not isinstance(self.shape, int):
            return rng.uniform(0.01, 0.99, (n, *self.shape)) * 2**s.get("bits", 8), given
        z = rng.normal(size=(n, self.shape))
        if s.get("base") == "uniform":
            return 1 / (1 + np.exp(-z)), given
        z[:, 1:] += 0.5 * z[:, :-1]  # columns that depend on each other
        return inside(s.get("bounds") or [(None, None)] * self.shape, z)[0], given

    def flow(self, n=60, **more):
        """Initialised, with nets that, unlike fresh ones, do something."""
        flow = self.make(**more)
        x, given = self.data(n)
        flow.init(x, **{name: value for name, value in given.items() if name == "context"})
        flow.params[:] += np.random.default_rng(7).normal(0, self.noise, flow.params.size).astype(flow.dtype)
        return flow


def inside(bounds, z):
    """(numbers within bounds, the logs of their slopes (n,)) of any numbers (n, columns)."""
    columns, logs = [], np.zeros(len(z))
    for (low, high), t in zip(bounds, z.T):
        if low is not None and high is not None:
            share = 1 / (1 + np.exp(-t))
            columns.append(low + (high - low) * share)
            logs += np.log((high - low) * share * (1 - share))
        elif low is None and high is None:
            columns.append(t)
        else:
            columns.append(low + np.exp(t) if high is None else high - np.exp(t))
            logs += t
    return np.column_stack(columns), logs


def table(columns, batch=False, **settings):
    return Case("CouplingFlow", columns, {**PLAIN, "couplings": 3, "hidden": (8,), **settings}, batch)


SPLINE = dict(law="spline", bins=5)
BOX = dict(SPLINE, base="uniform", preprocess="none")
CASES = {
    "affine": table(2),
    "affine-odd-even": table(5, mask="odd-even", couplings=4),
    "affine-lu-whiten": table(3, permutation="lu", actnorm=True, preprocess="whiten"),
    "affine-batch-norm": table(3, True, permutation="shuffle", batch_norm=True),
    "affine-mask": table(4, mask=MASK),
    "affine-one-layer": table(3, couplings=1, hidden=()),
    "additive": table(2, law="additive", base="logistic", preprocess="none"),
    "sigmoid": table(2, law="sigmoid", permutation="reverse"),
    "softplus": table(2, law="softplus"),
    "exp": table(2, law="exp", preprocess="zca"),
    "glow-law": table(2, law="glow", permutation="lu-shuffle"),
    "spline": table(2, **SPLINE),
    "spline-residual": table(5, **SPLINE, net="residual", hidden=(9, 9), permutation="lu-shuffle", base="logistic"),
    "spline-unconditional": table(2, **SPLINE, unconditional=True, bound=3.0, preprocess="none"),
    "default": Case("CouplingFlow", 3, {}, noise=0.02),
    "residual": table(3, net="residual", hidden=(9, 9), activation="silu"),
    "activation": table(3, activation="elu", hidden=(9, 7)),
    "dropout": table(3, True, net="residual", hidden=(9, 9), dropout=0.3),
    "box": table(2, **BOX, permutation="shuffle"),
    "box-one-column": table(1, **BOX, unconditional=True),
    "box-log2": table(4, **BOX, mask="log2", unconditional=True),
    "bounds": table(2, bounds=BOUNDS[:2]),
    "bounds-spline": table(4, **SPLINE, bounds=BOUNDS, preprocess="whiten"),
    "bounds-context": table(2, bounds=BOUNDS[1:3], context=2),
    "context": table(3, context=2),
    "context-spline": table(2, **SPLINE, context=3, net="residual", hidden=(9,)),
    "context-tanh": table(3, context=2, net="residual", hidden=(9,), activation="tanh", law="additive"),
    "context-wide": table(3, context=60, hidden=(70,), couplings=2),
    **{f"one-{law}{'-context' * bool(context)}": table(1, law=law, context=context, hidden=(6,))
       for law in ("affine", "spline", "sigmoid", "softplus", "exp", "glow", "additive") for context in (0, 2)},
    "float32": table(3, dtype="float32"),
    "float32-spline": table(4, **SPLINE, dtype="float32", bounds=BOUNDS),
    "bfloat16": table(3, dtype="float32", conditioner_dtype="bfloat16", context=1, net="residual", activation="tanh"),
    "nice": Case("NICE", 3, dict(couplings=4, hidden=(9,))),
    "nice-bounds": Case("NICE", 2, dict(couplings=4, hidden=(9,), bounds=BOUNDS[:2], preprocess="whiten")),
    "nice-wide": Case("NICE", 3, dict(couplings=4, hidden=(400, 400), preprocess="standardize")),
    "nice-images": Case("NICE", (4, 4, 2), dict(couplings=4, hidden=(9,), permutation="shuffle"), noise=0.03),
    "glow": Case("Glow", (4, 8, 1), dict(levels=2, steps=2, hidden=6, context=2), noise=0.03),
    "glow-additive": Case("Glow", (4, 4, 2), dict(levels=1, steps=2, hidden=6, coupling="additive", context=2,
                                                  permutation="plain", learn_top=False), noise=0.03),
    "glow-classes": Case("Glow", (4, 4, 2), dict(levels=2, steps=1, hidden=8, classes=3), noise=0.03),
    "glow-head": Case("Glow", (4, 4, 2), dict(levels=2, steps=1, hidden=8, classes=3, class_weight=0.5), True, 0.03),
    "glow-float32": Case("Glow", (4, 4, 3), dict(levels=1, steps=2, hidden=8, dtype="float32", bits=5), noise=0.03),
    "glow-bfloat16": Case("Glow", (4, 8, 1), dict(levels=2, steps=2, hidden=6, context=2, dtype="float32",
                                                  conditioner_dtype="bfloat16"), noise=0.03),
    "realnvp": Case("RealNVP", (4, 4, 2), dict(levels=2, base_dim=3, residual_blocks=1), True, 0.03),
    "realnvp-context": Case("RealNVP", (4, 8, 1), dict(levels=2, base_dim=3, residual_blocks=1, batch_norm=False,
                                                       coupling="additive", recursion=3, context=2), noise=0.03),
    "realnvp-odd": Case("RealNVP", (3, 3, 1), dict(levels=1, base_dim=4, residual_blocks=1, bottleneck=True,
                                                   weight_norm=False, skip=False, batch_norm=False), noise=0.03),
}
EXACT = {name: case for name, case in CASES.items() if "32" not in name and "bfloat16" not in name}
"""Those of float64."""
