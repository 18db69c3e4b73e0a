"""Makes the golden files: one model of each kind in the present format, and beside it what it gives.

usage: make.py FOLDER NAME ...

A file that is there stays as it is for ever, so this refuses to write over one: make a new file for a new format
or kind of model. NAME is one of MODELS, by which a file is called from then on.
"""

import pathlib
import sys

import numpy as np

import evenflow as ef
from evenflow import _core

PLAIN = dict(law="affine", net="mlp", permutation="none", base="gaussian", preprocess="standardize")
"""Defaults of coupling flows when the first files were made."""


def plain(columns, **settings):
    return ef.CouplingFlow(columns, **{**PLAIN, **settings})


MODELS = {
    "nice_1": lambda: ef.NICE(6, couplings=3, hidden=(12,), preprocess="whiten"),
    "coupling_flow_table_1": lambda: plain(5, couplings=4, hidden=(12, 12), permutation="lu", actnorm=True),
    "coupling_flow_bf16_1": lambda: plain(4, couplings=3, hidden=(16, 16), permutation="shuffle",
                                                conditioner_dtype="bfloat16"),
    "coupling_flow_f64_1": lambda: plain(4, couplings=3, hidden=(8,), mask="odd-even", batch_norm=True,
                                               preprocess="zca", base="logistic", dtype="float64"),
    "coupling_flow_bounds_1": lambda: plain(3, couplings=3, hidden=(8,), bounds=[(0, None), (-1, 1.5), (None, None)]),
    "nice_bounds_1": lambda: ef.NICE(2, couplings=2, hidden=(8,), bounds=[(None, 4), (0, 1)]),
    "coupling_flow_affine_context_1": lambda: plain(3, couplings=3, hidden=(8,), context=10),
    "real_nvp_image_context_1": lambda: ef.RealNVP((4, 2, 1), levels=1, base_dim=2, residual_blocks=1, context=3),
    "glow_context_1": lambda: ef.Glow((4, 4, 1), levels=1, steps=2, hidden=6, context=2),
    "coupling_flow_spline_1": lambda: plain(4, couplings=3, law="spline", bins=6, bound=3.0, hidden=(12,),
                                                      permutation="shuffle", base="logistic", context=2),
    "coupling_flow_residual_1": lambda: plain(4, couplings=3, net="residual", hidden=(8, 8), activation="silu",
                                                        context=2),
    "real_nvp_image_1": lambda: ef.RealNVP((4, 4, 1), levels=2, base_dim=2, residual_blocks=0),
    "real_nvp_residual_1": lambda: ef.RealNVP((4, 2, 1), levels=1, base_dim=2, residual_blocks=1),
    "glow_1": lambda: ef.Glow((8, 8, 1), levels=2, steps=2, hidden=6, bits=5),
    "coupling_flow_default_1": lambda: ef.CouplingFlow(4, couplings=3, hidden=(8, 8)),
    "coupling_flow_uniform_1": lambda: ef.CouplingFlow(3, couplings=4, hidden=(8,), bins=4, mask="log2", base="uniform",
                                                       unconditional=True),
    "coupling_flow_masks_1": lambda: ef.CouplingFlow(
        3, couplings=2, net="mlp", hidden=(8, 6), activation="elu", permutation="reverse", law="sigmoid",
        mask=[[True, False, False], [False, True, True]]),
    "coupling_flow_column_1": lambda: ef.CouplingFlow(1, couplings=2, hidden=(6,), bins=4, context=2),
    "coupling_flow_context_1": lambda: ef.CouplingFlow(4, couplings=2, hidden=(8, 8), context=2),
    "coupling_flow_mix_last_1": lambda: ef.CouplingFlow(
        4, couplings=2, net="mlp", hidden=(8,), law="exp", permutation="lu", mix_last=True, actnorm=True,
        preprocess="whiten"),
    "glow_bounded_1": lambda: ef.Glow((4, 4, 2), levels=2, steps=1, hidden=6, coupling="bounded"),
    "glow_classes_1": lambda: ef.Glow((4, 4, 3), levels=1, steps=2, hidden=6, classes=3, class_weight=0.1,
                                      permutation="plain"),
}
ROWS = 8


def make(name: str, folder: pathlib.Path) -> None:
    model, expected = folder / f"{name}.safetensors", folder / f"{name}.expected.safetensors"
    if model.exists():
        sys.exit(f"make.py: expected a new name, got {model}, which is there")
    flow = MODELS[name]()
    rng = np.random.default_rng(1)
    x = rng.normal(size=(256, *flow.shape))
    if flow.is_image:  # level units
        x = np.clip(2**flow.config["bits"] * (0.5 + 0.15 * x), 0, 2**flow.config["bits"])
    for column, (low, high) in enumerate(flow.config.get("bounds", [])):
        if low is not None and high is not None:
            x[:, column] = low + (high - low) / (1 + np.exp(-x[:, column]))
        elif low is not None or high is not None:
            x[:, column] = high - np.exp(x[:, column]) if low is None else low + np.exp(x[:, column])
    if flow.config.get("base") == "uniform":
        x = 1 / (1 + np.exp(-x))
    x = x.astype(flow.dtype)
    context = rng.normal(size=(256, flow.context)) + 3 if flow.context else None
    flow.init(x, context=context)
    # A net's last layer starts at zero: move it, and everything else a little.
    flow.params[:] += (0.05 * rng.normal(size=flow.params.shape)).astype(flow.dtype)
    x = np.ascontiguousarray(x[:ROWS])
    label = np.arange(ROWS) % flow.classes if flow.classes else None
    context = None if context is None else np.ascontiguousarray(context[:ROWS])
    flow.save(model)
    tensors = {"x": x, "log_prob": flow.log_prob(x, label=label, context=context),
               "sample": flow.sample(ROWS, seed=7, label=label, context=context)}
    if context is not None:
        tensors["context"] = context
    if label is not None:
        tensors["label"] = label.astype(np.int64)
    _core.write_safetensors(str(expected), tensors, {"seed": "7"})


if __name__ == "__main__":
    for name in sys.argv[2:]:
        make(name, pathlib.Path(sys.argv[1]))
