"""The operators of evenflow.torch: what torch is told of a flow's kernels, and their derivatives.

Each has a real implementation on the flow's arrays, a fake one (shapes alone, for torch.compile), and its derivative
where it has one. x is NHWC or (N, D); `tensors`, the module's, are there for autograd and for torch.compile, values are
the flow's. `given`: labels, or a context (N, C).
"""

from __future__ import annotations

import itertools
import math
import os
import threading
import weakref
from collections.abc import Callable
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np

from evenflow._border import arrays
from evenflow.errors import ConfigError, DeviceError, Error, NumericError
from evenflow._border.extras import need, outdated
from evenflow.flow import Flow

need("evenflow.torch", "torch", "torch", "torch")
import torch  # noqa: E402

try:
    from torch._C._functorch import is_functorch_wrapped_tensor
    from torch._functorch import eager_transforms
    from torch.autograd import forward_ad
    from torch.library import custom_op
    from torch.utils.dlpack import from_dlpack
except ImportError as error:
    raise outdated("evenflow.torch", "torch", "2.4", torch.__version__) from error

if TYPE_CHECKING:
    from torch._library.custom_ops import CustomOpDef

    from evenflow.torch import FlowModule

TRAINED = "decay", "no_decay"
"""Groups of tensors that are parameters; the others are buffers."""

Pair = tuple[torch.Tensor, torch.Tensor]
Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Quadruple = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]

# Operators take tensors and numbers alone, so a module goes by a number.
MODULES: weakref.WeakValueDictionary[int, FlowModule] = weakref.WeakValueDictionary()
NUMBERS = itertools.count()
# Two gradients of one flow would add up in the same memory.
_GRADS_LOCK = threading.Lock()


def _renew_lock() -> None:
    global _GRADS_LOCK
    _GRADS_LOCK = threading.Lock()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_renew_lock)  # a thread that held it stays in the parent


# The kernels wait for the GPU's results, which a CUDA graph of torch.compile can't hold; earlier versions have no word
# for it.
_UNSAFE: dict[str, Any] = ({"tags": (torch.Tag.cudagraph_unsafe,)}
                           if hasattr(torch.Tag, "cudagraph_unsafe") and "tags" in signature(custom_op).parameters
                           else {})


def _operator(name: str, schema: str) -> Callable[[Callable[..., object]], CustomOpDef]:
    return custom_op(f"evenflow::{name}", mutates_args=(), schema=schema, **_UNSAFE)


def refuse_tangents(*tensors: torch.Tensor) -> None:
    """NotImplementedError for forward-mode tangents, which torch would drop without a word."""
    if forward_ad._current_level < 0:  # no forward mode, as a rule
        return
    # Of one jvp inside another the outer tangents are hidden in wrappers.
    nested = eager_transforms.JVP_NESTING > 1
    if any(forward_ad.unpack_dual(tensor).tangent is not None
           or (nested and is_functorch_wrapped_tensor(tensor)) for tensor in tensors):
        raise NotImplementedError("[FlowModule] expected backward derivatives, got a tensor with a tangent "
                                  "(torch.func.jvp, dual_level): forward-mode derivatives are not offered")


def _number_to_module(number: int) -> FlowModule:
    module = MODULES.get(number)
    if module is None:
        raise ConfigError("[FlowModule] expected the module to be alive, got a call after its end")
    return module


def _own_flow(number: int, tensors: list[torch.Tensor]) -> Flow:
    """The flow of module `number`, whose parameters and buffers `tensors` must be."""
    module = _number_to_module(number)
    if [tensor.data_ptr() for tensor in tensors] != module._addresses:
        raise replaced()
    return module.flow


def replaced() -> ConfigError:
    return ConfigError("[FlowModule] expected the parameters and buffers that share the flow's memory, got others "
                       "(functional_call, load_state_dict(assign=True), a parametrization, an assignment to .data, "
                       "or a change of them earlier in the same compiled graph)")


def device_of(flow: Flow) -> torch.device:
    if flow.device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise DeviceError(f"[FlowModule] expected a torch that has the GPU of a flow on {flow.device}, got "
                          f"{torch.__version__} without one")
    return torch.device("cuda", flow._core.device_params.__dlpack_device__()[1])


def _array(x: torch.Tensor) -> Any:
    """A tensor as a flow takes it: of numpy, or by DLPack on the GPU."""
    x = x.detach()
    return x.contiguous() if x.is_cuda else x.numpy()


def tensor_of(x: Any) -> torch.Tensor:
    """What a flow gives, as a tensor in the same memory."""
    return torch.from_numpy(x) if isinstance(x, np.ndarray) else from_dlpack(x)


def _named(flow: Flow, given: torch.Tensor | None) -> dict[str, Any]:
    """Labels, in main memory, or a context, as an argument of the flow's calls."""
    if given is None:
        return {}
    return {"context": _array(given)} if flow.context else {"label": given.detach().cpu().numpy()}


def _dcontext(flow: Flow, n: int) -> Any:
    """Where a call writes the gradient by the context of n samples; None for a flow without one."""
    return arrays.empty(flow.device, (n, flow.context), flow.dtype) if flow.context else None


def _dgiven(dcontext: Any, like: torch.Tensor) -> torch.Tensor:
    return like.new_empty(0) if dcontext is None else tensor_of(dcontext)


def _wait(flow: Flow) -> None:
    """What torch has queued is done, for a call that is given no tensor on the GPU to know by."""
    if flow.device != "cpu":
        torch.cuda.current_stream().synchronize()


def _with_grads(flow: Flow, call: Callable[[], Any]) -> tuple[Any, torch.Tensor]:
    """The result of call() and the gradients (flat) that it adds; flow.grads is afterwards as before."""
    with _GRADS_LOCK:
        grads = tensor_of(flow.grads if flow.device == "cpu" else flow.device_grads)
        before = grads.clone()
        grads.zero_()
        try:
            return call(), grads.clone()
        finally:
            grads.copy_(before)
            _wait(flow)


_CHANGED = "; or the parameters have changed since the forward pass"
"""Another reason, which torch sees only if it made the change itself."""


@_operator("dequantize", "(Tensor x, int flow, Tensor? seed) -> Tensor")
def _dequantize(x: torch.Tensor, flow: int, seed: torch.Tensor | None) -> torch.Tensor:
    """Without a seed whole levels, as they are."""
    model = _number_to_module(flow).flow
    batch = model._take("log_prob", _array(x))
    return tensor_of(model._block("log_prob", batch, 0, len(x), None if seed is None else int(seed)))


@_dequantize.register_fake
def _(x: torch.Tensor, flow: int, seed: torch.Tensor | None) -> torch.Tensor:
    return torch.empty(x.shape, dtype=_number_to_module(flow)._dtype, device=x.device)


@_operator("sample", "(Tensor[] tensors, int flow, SymInt n, Tensor temperature, Tensor seed, "
                     "Tensor? given) -> Tensor")
def _sample(tensors: list[torch.Tensor], flow: int, n: int, temperature: torch.Tensor, seed: torch.Tensor,
            given: torch.Tensor | None) -> torch.Tensor:
    model = _own_flow(flow, tensors)
    _wait(model)
    return tensor_of(model.sample(n, seed=int(seed), temperature=float(temperature), device=model.device,
                                  **_named(model, given)))


@_sample.register_fake
def _(tensors: list[torch.Tensor], flow: int, n: int, temperature: torch.Tensor, seed: torch.Tensor,
      given: torch.Tensor | None) -> torch.Tensor:
    module = _number_to_module(flow)
    return torch.empty((n, *module.flow.shape), dtype=module._dtype, device=module._device)


@_operator("forward", "(Tensor x, Tensor[] tensors, int flow, Tensor? given, str where) -> (Tensor, Tensor)")
def _forward(x: torch.Tensor, tensors: list[torch.Tensor], flow: int, given: torch.Tensor | None,
             where: str) -> Pair:
    """`where`: the module's call, for errors to name instead of the flow's."""
    model = _own_flow(flow, tensors)
    try:
        z, logdet = model.forward(_array(x), **_named(model, given))
    except Error as error:
        if where == "forward" or not str(error).startswith("[forward"):
            raise
        raise type(error)(str(error).replace("[forward", f"[{where}", 1)) from None
    return tensor_of(z), tensor_of(logdet)


@_forward.register_fake
def _(x: torch.Tensor, tensors: list[torch.Tensor], flow: int, given: torch.Tensor | None, where: str) -> Pair:
    n, dims = x.shape[0], _number_to_module(flow).flow.dims
    return x.new_empty((n, dims)), x.new_empty((n,), dtype=torch.float64)


@_operator("inverse", "(Tensor z, Tensor[] tensors, int flow, Tensor? given) -> (Tensor, Tensor)")
def _inverse(z: torch.Tensor, tensors: list[torch.Tensor], flow: int, given: torch.Tensor | None) -> Pair:
    model = _own_flow(flow, tensors)
    x, logdet = model.inverse(_array(z), **_named(model, given))
    return tensor_of(x), tensor_of(logdet)


@_inverse.register_fake
def _(z: torch.Tensor, tensors: list[torch.Tensor], flow: int, given: torch.Tensor | None) -> Pair:
    n, shape = z.shape[0], _number_to_module(flow).flow.shape
    return z.new_empty((n, *shape)), z.new_empty((n,), dtype=torch.float64)


def _finite(*gradients: torch.Tensor) -> bool:
    return all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


def _nothing(flow: Flow, source: torch.Tensor, dcontext: Any) -> Triple:
    """The gradients by those that are not finite: NaN, as any torch operator passes them on (to a GradScaler, say)."""
    return (torch.full_like(source, math.nan, memory_format=torch.contiguous_format),
            source.new_full((len(flow.params),), math.nan), torch.full_like(_dgiven(dcontext, source), math.nan))


VJP = ("(Tensor source, Tensor target, Tensor dtarget, Tensor dlogdet, Tensor[] tensors, int flow, "
       "Tensor? given) -> (Tensor, Tensor, Tensor)")


@_operator("forward_vjp", VJP)
def _forward_vjp(x: torch.Tensor, z: torch.Tensor, dz: torch.Tensor, dlogdet: torch.Tensor,
                 tensors: list[torch.Tensor], flow: int, given: torch.Tensor | None) -> Triple:
    model = _number_to_module(flow).flow  # saved tensors may be copies
    dcontext = _dcontext(model, len(z))
    if not _finite(dz, dlogdet):
        return _nothing(model, x, dcontext)
    try:
        (_, dx), grads = _with_grads(model, lambda: model.backward(
            _array(z), _array(dz), _array(dlogdet), dcontext=dcontext, truth=_array(x), **_named(model, given)))
    except NumericError as error:
        raise NumericError(f"{error}{_CHANGED}") from None
    return tensor_of(dx), grads, _dgiven(dcontext, z)


@_operator("inverse_vjp", VJP)
def _inverse_vjp(z: torch.Tensor, x: torch.Tensor, dx: torch.Tensor, dlogdet: torch.Tensor,
                 tensors: list[torch.Tensor], flow: int, given: torch.Tensor | None) -> Triple:
    model = _number_to_module(flow).flow  # as above
    dcontext = _dcontext(model, len(x))
    if not _finite(dx, dlogdet):
        return _nothing(model, z, dcontext)
    (_, dz), grads = _with_grads(model, lambda: model.inverse_backward(
        _array(x), _array(dx), _array(dlogdet), dcontext=dcontext, z=_array(z), **_named(model, given)))
    return tensor_of(dz), grads, _dgiven(dcontext, z)


@_operator("loss", "(Tensor x, Tensor[] tensors, int flow, Tensor? given, Tensor? seed, Tensor? weights, bool rows) "
                   "-> (Tensor, Tensor, Tensor, Tensor)")
def _loss(x: torch.Tensor, tensors: list[torch.Tensor], flow: int, given: torch.Tensor | None,
          seed: torch.Tensor | None, weights: torch.Tensor | None, rows: bool) -> Quadruple:
    """The mean loss, or with `rows` those of the rows; the mean's gradient by the parameters; the running statistics as
    they become (those of the flow stay); and the gradient by the context.
    """
    return _loss_of(_own_flow(flow, tensors), x, flow, given, seed, weights, rows)


def _loss_of(model: Flow, x: torch.Tensor, flow: int, given: torch.Tensor | None, seed: torch.Tensor | None,
             weights: torch.Tensor | None, rows: bool) -> Quadruple:
    live, dcontext = _number_to_module(flow)._statistics, _dcontext(model, len(x))
    nll = np.empty(len(x)) if rows else None

    def step() -> tuple[float, torch.Tensor]:
        before = live.clone()
        loss = model.loss_and_grad(_array(x), seed=0 if seed is None else int(seed), dcontext=dcontext, nll=nll,
                                   sample_weight=None if weights is None else weights.detach().double().cpu().numpy(),
                                   **_named(model, given))
        statistics = live.clone()
        live.copy_(before)
        return loss, statistics

    (loss, statistics), grads = _with_grads(model, step)
    losses = torch.as_tensor(loss if nll is None else nll, dtype=torch.float64, device=x.device)
    return losses, grads, statistics, _dgiven(dcontext, grads)


@_loss.register_fake
def _(x: torch.Tensor, tensors: list[torch.Tensor], flow: int, given: torch.Tensor | None,
      seed: torch.Tensor | None, weights: torch.Tensor | None, rows: bool) -> Quadruple:
    module = _number_to_module(flow)
    return (x.new_empty((x.shape[0],) if rows else (), dtype=torch.float64),
            x.new_empty((len(module.flow.params),), dtype=module._dtype),
            x.new_empty((len(module._statistics),), dtype=module._dtype),
            x.new_empty(_dgiven_shape(module.flow, x.shape[0]), dtype=module._dtype))


@_operator("losses_vjp", "(Tensor dlosses, Tensor grads, Tensor dgiven, Tensor x, int flow, Tensor? given, "
                         "Tensor? seed) -> (Tensor, Tensor)")
def _losses_vjp(dlosses: torch.Tensor, grads: torch.Tensor, dgiven: torch.Tensor, x: torch.Tensor, flow: int,
                given: torch.Tensor | None, seed: torch.Tensor | None) -> Pair:
    """From the mean's gradients those of the losses. Those of a mean or sum are multiples; others take a new pass."""
    model, n = _number_to_module(flow).flow, len(x)  # saved tensors may be copies
    if bool((dlosses == dlosses[0]).all()):
        scale = (n * dlosses[0]).to(grads.dtype)
        return grads * scale, dgiven * scale
    if not _finite(dlosses):
        return torch.full_like(grads, math.nan), torch.full_like(dgiven, math.nan)
    if bool((dlosses < 0).any()):
        raise ConfigError("[loss] expected weights >= 0 on the losses of rows, or equal ones, got "
                          f"{float(dlosses.min()):g}; use log_prob, which takes any")
    _, grads, _, dgiven = _loss_of(model, x, flow, given, seed, n * dlosses, rows=False)
    return grads, dgiven


@_losses_vjp.register_fake
def _(dlosses: torch.Tensor, grads: torch.Tensor, dgiven: torch.Tensor, x: torch.Tensor, flow: int,
      given: torch.Tensor | None, seed: torch.Tensor | None) -> Pair:
    return torch.empty_like(grads), torch.empty_like(dgiven)


def _dgiven_shape(flow: Flow, n: int) -> tuple[int, ...]:
    return (n, flow.context) if flow.context else (0,)


def _fake_vjp(source: torch.Tensor, target: torch.Tensor, dtarget: torch.Tensor, dlogdet: torch.Tensor,
              tensors: list[torch.Tensor], flow: int, given: torch.Tensor | None) -> Triple:
    model = _number_to_module(flow).flow
    return (torch.empty_like(source, memory_format=torch.contiguous_format), source.new_empty((len(model.params),)),
            source.new_empty(_dgiven_shape(model, source.shape[0])))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Pair) -> None:
    source, tensors, number, given, *_ = inputs
    ctx.module = _number_to_module(number)  # lives as long as the graph
    # The flow's tensors are saved for torch's check that no optimiser step and no `loss` came between.
    ctx.save_for_backward(source, output[0], given, *tensors)


def _split(module: FlowModule, grads: torch.Tensor) -> list[torch.Tensor | None]:
    return [grads[offset:offset + size].view(shape) if group in TRAINED else None
            for shape, group, offset, size in module._places.values()]


def _derivative(vjp: Callable[..., Triple], *others: None) -> Callable[..., tuple[Any, ...]]:
    """others: the derivatives by what an operator takes after `given`."""
    def backward(ctx: Any, dtarget: torch.Tensor, dlogdet: torch.Tensor) -> tuple[Any, ...]:
        refuse_tangents(dtarget, dlogdet)
        source, target, given, *tensors = ctx.saved_tensors
        dsource, grads, dgiven = vjp(source, target, dtarget, dlogdet, tensors, ctx.module._number, given)
        return dsource, _split(ctx.module, grads), None, dgiven if ctx.module.flow.context else None, *others
    return backward


def _save_loss(ctx: Any, inputs: tuple[Any, ...], output: Quadruple) -> None:
    x, tensors, number, given, seed, _, rows = inputs
    ctx.module, ctx.rows = _number_to_module(number), rows
    places = ctx.module._places.values()
    # With the parameters for torch's check, as above. `loss` itself changes the buffers.
    again = x, given, seed, *(tensor for tensor, place in zip(tensors, places) if place[1] in TRAINED)
    ctx.save_for_backward(output[1], output[3], *(again if rows else ()))
    ctx.set_materialize_grads(False)


def _loss_derivative(ctx: Any, dloss: torch.Tensor | None, *others: torch.Tensor | None) -> tuple[Any, ...]:
    if any(other is not None for other in others):  # of the gradients, which are results here
        _refuse(ctx)
    grads, dgiven, *again = ctx.saved_tensors
    if dloss is None:
        return None, [None] * len(ctx.module._places), None, None, None, None, None
    if ctx.rows:
        x, given, seed, *_ = again
        grads, dgiven = _losses_vjp(dloss, grads, dgiven, x, ctx.module._number, given, seed)
    else:
        scale = dloss.to(grads.dtype)
        grads, dgiven = grads * scale, dgiven * scale
    dcontext = dgiven if ctx.module.flow.context else None
    return None, _split(ctx.module, grads), None, dcontext, None, None, None


class Loss(torch.autograd.Function):
    """The operator `loss` without torch's dispatcher, which takes as long as a third of a small flow's step."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, number: int, given: torch.Tensor | None, seed: torch.Tensor | None,
                weights: torch.Tensor | None, rows: bool, *tensors: torch.Tensor) -> Quadruple:
        output = _loss_of(_own_flow(number, list(tensors)), x, number, given, seed, weights, rows)
        _save_loss(ctx, (x, tensors, number, given, seed, weights, rows), output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[Any, ...]:
        _, dtensors, _, dcontext, *_ = _loss_derivative(ctx, *gradients)
        return None, None, dcontext, None, None, None, *dtensors


def _refuse(ctx: Any, *_: Any) -> None:
    raise NotImplementedError("[FlowModule] expected first derivatives, got a derivative of a gradient "
                              "(create_graph=True): second derivatives of a flow are not offered")


_forward.register_autograd(_derivative(_forward_vjp, None), setup_context=_save)
_inverse.register_autograd(_derivative(_inverse_vjp), setup_context=_save)
_loss.register_autograd(_loss_derivative, setup_context=_save_loss)
for _vjp in (_forward_vjp, _inverse_vjp):
    _vjp.register_fake(_fake_vjp)
for _vjp in (_forward_vjp, _inverse_vjp, _losses_vjp):
    _vjp.register_autograd(_refuse)
