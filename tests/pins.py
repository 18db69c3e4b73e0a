"""Numbers that a redesign must not change, written by one build and compared with another.

    python tests/pins.py write before.npz          # in an environment with the old build
    python tests/pins.py compare before.npz        # in one with the new build

`compare` prints a line for each model and precision, and fails where a float64 number differs by more than 1e-12 of
the largest of its kind. For float32 it says which numbers have other bits, and by how much: an order of sums that
changes on purpose shows there. Both builds must run on the same processor with the same EVENFLOW_ISA.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import evenflow as ef

STEPS = 20
TOLERANCE = 1e-12

IMAGE = (8, 8, 3)
MODELS: dict[str, tuple[type[ef.Flow], tuple[Any, ...], dict[str, Any]]] = {
    "nice": (ef.NICE, (7,), dict(couplings=3, hidden=(20, 20))),
    "nice_image": (ef.NICE, (IMAGE,), dict(couplings=2, hidden=(32,), preprocess="none")),
    "nice_whiten": (ef.NICE, (6,), dict(couplings=4, hidden=(33,), prior="gaussian", permutation="shuffle",
                                        preprocess="whiten", bounds=[(-9, None), (None, 9), (-9, 9)] + [None] * 3)),
    "real_nvp_image": (ef.RealNVP, (IMAGE,), dict(base_dim=8, residual_blocks=2)),
    "real_nvp_image_additive": (ef.RealNVP, (IMAGE,), dict(base_dim=8, residual_blocks=1, coupling="additive",
                                                           batch_norm=False, recursion=3)),
    "real_nvp_image_context": (ef.RealNVP, (IMAGE,), dict(base_dim=8, residual_blocks=1, bottleneck=True, context=2)),
    "table": (ef.CouplingFlow, (6,), dict(couplings=6, hidden=(64, 64))),
    "table_odd_even": (ef.CouplingFlow, (5,), dict(couplings=4, hidden=(50,), mask="odd-even", permutation="shuffle",
                                              base="logistic", actnorm=True)),
    "table_lu_context": (ef.CouplingFlow, (8,), dict(couplings=4, hidden=(32, 32), permutation="lu", context=3)),
    "table_batch_norm": (ef.CouplingFlow, (4,), dict(couplings=4, hidden=(32,), batch_norm=True, preprocess="zca")),
    "table_additive": (ef.CouplingFlow, (6,), dict(couplings=4, hidden=(32, 32), law="additive")),
    "table_wide": (ef.CouplingFlow, (20,), dict(couplings=3, hidden=(300, 300))),
    "glow": (ef.Glow, (IMAGE,), dict(levels=2, steps=3, hidden=32)),
    "glow_additive": (ef.Glow, (IMAGE,), dict(levels=2, steps=2, hidden=32, coupling="additive",
                                              permutation="reverse")),
    "glow_plain": (ef.Glow, (IMAGE,), dict(levels=2, steps=2, hidden=32, permutation="plain", learn_top=False)),
    "glow_shuffle": (ef.Glow, (IMAGE,), dict(levels=1, steps=3, hidden=48, permutation="shuffle", bits=5)),
    "glow_classes": (ef.Glow, (IMAGE,), dict(levels=2, steps=2, hidden=32, classes=3, class_weight=0.1)),
    "glow_context": (ef.Glow, (IMAGE,), dict(levels=2, steps=2, hidden=32, context=2)),
}
HALF = ("nice", "table", "table_wide", "glow")
"""Also with nets of bfloat16 numbers."""


def data(flow: ef.Flow, n: int, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A batch (n, *shape) of the model's dtype, and what its density is conditioned on."""
    rng = np.random.default_rng(seed)
    given: dict[str, np.ndarray] = {}
    if flow.classes:
        given["label"] = rng.integers(flow.classes, size=n)
    if flow.context:
        given["context"] = rng.normal(size=(n, flow.context)).astype(flow.dtype)
    if flow.is_image:
        top = 2 ** flow.bits
        smooth = rng.normal(size=(n, 1, 1, flow.shape[2])) + 0.3 * rng.normal(size=(n, *flow.shape))
        x = np.clip((0.5 + 0.15 * smooth) * top, 0.01, top - 0.01)
    else:
        x = rng.normal(size=(n, flow.dims)) @ (np.eye(flow.dims) + 0.3 * rng.normal(size=(flow.dims, flow.dims)))
        x = np.clip(x, -8.5, 8.5) + 0.1 * np.arange(flow.dims)
        x = np.clip(x, -8.9, 8.9)
    return x.astype(flow.dtype), given


def numbers(model: type[ef.Flow], args: tuple[Any, ...], settings: dict[str, Any]) -> dict[str, np.ndarray]:
    flow = model(*args, **settings, seed=3)
    x, given = data(flow, 300, 1)
    flow.init(x, **{k: v for k, v in given.items() if k == "context"})
    rng = np.random.default_rng(2)
    flow.params[:] += (0.03 * rng.normal(size=flow.params.shape)).astype(flow.dtype)
    out: dict[str, np.ndarray] = {}
    out["log_prob"] = np.asarray(flow.log_prob(x, **given))
    out["log_prob of one"] = np.asarray(flow.log_prob(x[:1], **{k: v[:1] for k, v in given.items()}))
    z, logdet = flow.forward(x, **given)
    back, inverse_logdet = flow.inverse(z, **given)
    out.update(z=z, logdet=logdet, inverse=back, inverse_logdet=inverse_logdet)
    draws, draws_given = 100, {k: v[:100] for k, v in given.items()}
    out["sample"] = np.asarray(flow.sample(draws, seed=5, **draws_given))
    flow.zero_grad()
    out["loss"] = np.array(flow.loss_and_grad(x, **given))
    out["grads"] = flow.grads.copy()
    flow.zero_grad()
    flow.loss_and_grad(x, activation_budget=0, **given)
    out["grads without budget"] = flow.grads.copy()
    log_prob, dx = flow.log_prob_and_grad(x, **given)[:2]
    out.update(log_prob_again=log_prob, dx=dx)
    if not flow.config.get("batch_norm"):
        dz = rng.normal(size=z.shape).astype(flow.dtype)
        dlogdet = rng.normal(size=len(x))
        flow.zero_grad()
        result = flow.backward(z, dz, dlogdet, **given)
        out["backward"] = np.asarray(result[1])
        out["backward grads"] = flow.grads.copy()
        dsample = rng.normal(size=x.shape).astype(flow.dtype)
        flow.zero_grad()
        result = flow.inverse_backward(x, dsample, dlogdet, **given)
        out["inverse_backward"] = np.asarray(result[1])
        out["inverse_backward grads"] = flow.grads.copy()
    optimizer = ef.Adam(flow, lr=1e-3, weight_decay=1e-3)
    losses = []
    for step in range(STEPS):
        part = slice(step % 3 * 100, step % 3 * 100 + 100)
        losses.append(flow.train_step(x[part], optimizer, **{k: v[part] for k, v in given.items()}))
    out["losses"] = np.array(losses)
    out["values after training"] = np.concatenate([v.ravel() for v in flow.named_parameters().values()])
    return out


def all_numbers() -> dict[str, np.ndarray]:
    out = {}
    for name, (model, args, settings) in MODELS.items():
        kinds = {"float64": dict(dtype="float64"), "float32": dict(dtype="float32")}
        if name in HALF:
            kinds["bfloat16"] = dict(dtype="float32", conditioner_dtype="bfloat16")
        for kind, more in kinds.items():
            for what, values in numbers(model, args, {**settings, **more}).items():
                out[f"{name}/{kind}/{what}"] = values
    return out


def compare(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> bool:
    good = set(before) == set(after)
    for key in sorted(set(before) ^ set(after)):
        print(f"only in one of the builds: {key}")
    by_model: dict[str, list[str]] = {}
    for key in sorted(set(before) & set(after)):
        model, kind, what = key.split("/")
        a, b = before[key], after[key]
        texts = by_model.setdefault(f"{model}/{kind}", [])
        if a.shape == b.shape and a.tobytes() == b.tobytes():
            continue
        off = np.inf if a.shape != b.shape else float(np.abs(a - b).max() / max(1.0, np.abs(a).max()))
        texts.append(f"{what} {off:.1e}")
        if kind == "float64" and not off <= TOLERANCE:
            texts[-1] += " TOO FAR"
            good = False
    for model, texts in by_model.items():
        print(f"{model:36} {', '.join(texts) if texts else 'same bits'}")
    return good


def main() -> int:
    if len(sys.argv) != 3 or sys.argv[1] not in ("write", "compare"):
        print(__doc__)
        return 2
    if sys.argv[1] == "write":
        np.savez_compressed(sys.argv[2], **all_numbers())
        return 0
    with np.load(sys.argv[2]) as file:
        return 0 if compare(dict(file), all_numbers()) else 1


if __name__ == "__main__":
    sys.exit(main())
