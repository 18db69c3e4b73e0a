"""The works in evenflow."""

import numpy as np

import evenflow as ef


def versions(library):
    return {"evenflow": ef.__version__, "numpy": np.__version__}


def build(library, model, sizes, threads, device):
    """The work's calls, by name."""
    options = {"threads": threads, "device": device}
    if library == "evenflow-bf16":
        options["conditioner_dtype"] = "bfloat16"
    if library == "evenflow-high":
        ef.set_matmul_precision("high")
    rng = np.random.default_rng(0)
    batch = sizes["batch"]
    if model == "glow":
        flow = ef.Glow((sizes["size"], sizes["size"], 3), levels=sizes["levels"], steps=sizes["steps"],
                       hidden=sizes["width"], learn_top=False, **options)
        x = 256 * rng.random((batch, *flow.shape), dtype=np.float32)
    elif model == "nice":
        flow = ef.NICE(sizes["dims"], couplings=sizes["couplings"], hidden=sizes["hidden"], **options)
        x = rng.random((batch, sizes["dims"]), dtype=np.float32)
    else:
        settings = {name: value for name, value in sizes.items() if name not in ("dims", "batch")}
        flow = ef.CouplingFlow(sizes["dims"], **settings, permutation="none", base="gaussian", preprocess="none",
                               **options)
        x = rng.standard_normal((batch, sizes["dims"]), dtype=np.float32)
        context = rng.standard_normal((100000, sizes["context"]), dtype=np.float32)

    def given(n):
        return {"context": context[:n]} if flow.context else {}

    flow.init(x, **given(batch))
    if device == "cuda":
        x = flow.sample(batch, device=device)  # an array there, as peers' are: nothing crosses from numpy or back
    optimizer = ef.Adam(flow, lr=1e-5)

    def step(budget=None):
        flow.train_step(x, optimizer, **given(batch), activation_budget=budget)

    return {"step": step, "step_rebuilding": lambda: step(0), "log_prob": lambda: flow.log_prob(x, **given(batch)),
            "sample": lambda: flow.sample(batch, device=device, **given(batch)),
            "sample_1": lambda: flow.sample(1, device=device, **given(1)),
            "sample_100000": lambda: flow.sample(100000, device=device, **given(100000)),
            "sample_1000000": lambda: flow.sample(1000000, device=device),
            "log_prob_1": lambda: flow.log_prob(x[:1], **given(1)), "parameters": lambda: flow.num_params}
