"""Trained flows of other libraries as models of evenflow.

    flow = ef.convert(module)          # of nflows, glasflow, sbi, normflows or FrEIA
    flow.save("model.safetensors")
"""

from __future__ import annotations

import copy
from typing import Any

from evenflow._border.checks import choice
from evenflow._border.extras import need
from evenflow.flow import Flow

__all__ = ["convert"]


def convert(module: Any, *, dtype: str | None = None) -> Flow:
    """Makes a model of a flow that another library has trained.

    The model is an ordinary one: it scores, samples, trains on, and its file works in C and C++.

    Parameters
    ----------
    module : torch.nn.Module
        A flow of nflows or glasflow: Real NVP, additive, affine and rational-quadratic couplings with `ResidualNet` or
        an MLP, with everything between them that is affine. An object of sbi or nessai that holds one: an estimator, a
        `DirectPosterior`, a `FlowModel`. A `NormalizingFlow` of normflows of `AffineCouplingBlock` and
        `CoupledRationalQuadraticSpline`, or its `MultiscaleFlow` of `GlowBlock`. A `SequenceINN` of FrEIA's
        `AllInOneBlock` and `GLOWCouplingBlock`.
    dtype : str, optional
        "float32" or "float64". None: that of the module's parameters.

    Returns
    -------
    CouplingFlow or Glow
        In the columns and units of the module. Its latents may be in another order. Of a posterior it is the estimator:
        without the prior's bounds, and without the factor by which sbi corrects for what leaks out of them.

    Raises
    ------
    ConfigError
        A layer has no counterpart, and is named; or the module is of another kind.
    MissingExtra
        torch is not installed.

    Notes
    -----
    Permutations become masks. Batch norm takes its running moments, as in evaluation, and becomes ActNorm. What lies in
    front of the first coupling becomes the model's preprocessing, which no training changes. A standardising embedding
    net becomes the model's standardisation of its context.

    The log-densities of module and model are compared in float64 on samples of the model, and a difference above 1e-6
    is a ConfigError.
    """
    need("convert", "torch", "torch", "torch")
    import torch

    from evenflow.converters import freia, nflows, normflows
    from evenflow.converters.build import check_same, in_dtype
    from evenflow.converters.steps import reading, refused

    if isinstance(module, dict):
        raise refused("a module", "a dict: a state dict says nothing of activations, bounds and the order of layers; "
                      "load it into its module first")
    for name in ("posterior_estimator", "model", "net"):  # of sbi and nessai
        inner = getattr(module, name, None)
        if isinstance(inner, torch.nn.Module) and not hasattr(module, "_transform"):
            module = inner
    if not isinstance(module, torch.nn.Module):
        raise refused("a torch module", f"{type(module).__name__}; give the flow in it")
    if isinstance(getattr(module, "flow", None), Flow):
        raise refused("a flow of another library", "evenflow's own: take the attribute flow")
    kinds = [str(p.dtype).removeprefix("torch.") for p in module.parameters() if p.is_floating_point()]
    own = "float64" if kinds and kinds[0] == "float64" else "float32"
    dtype = choice("convert", "dtype", own if dtype is None else dtype, ("float32", "float64"))
    with torch.no_grad(), torch.device("cpu"), reading(module):
        exact = _copied(module).cpu().double().train().eval()  # train: nflows' layers drop what they have cached
        for reader in (nflows, normflows, freia):
            if reader.reads(exact):
                flow = reader.read(exact)
                check_same(flow, reader.log_prob(exact))
                return in_dtype(flow, dtype)
    raise refused("a flow of nflows, glasflow, sbi, normflows or FrEIA",
                  f"{type(module).__module__}.{type(module).__name__}")


def _copied(module: Any) -> Any:
    """A copy. Modules may hold tensors with a graph, from their last call, which deepcopy refuses."""
    import torch
    memo: dict[int, Any] = {}
    for part in module.modules():
        for holder in (part, getattr(part, "cache", None)):
            for value in getattr(holder, "__dict__", {}).values():
                if isinstance(value, torch.Tensor) and not value.is_leaf:
                    memo[id(value)] = value.detach().clone()
    return copy.deepcopy(module, memo)
