"""What torch is told of a flow's kernels: functions for autograd, and the operators that they call.

An operator has a real implementation on the flow's arrays, and a fake one (shapes alone) for torch.compile. x is NHWC
or (N, D); `tensors`, a module's parameters and buffers, are there for torch.compile, values are the flow's.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import os
import threading
import weakref
from collections.abc import Callable
from inspect import signature
from typing import Any

import numpy as np

from evenflow import density
from evenflow._border import arrays
from evenflow._border.batch import Batch
from evenflow._border.extras import need, outdated
from evenflow.errors import ConfigError, DeviceError
from evenflow.flow import Flow

need("evenflow.torch", "torch", "torch", "torch")
import torch  # noqa: E402

try:
    from torch.autograd import forward_ad
    from torch.autograd.function import once_differentiable
    from torch.library import custom_op
    from torch.utils.dlpack import from_dlpack
except ImportError as error:
    raise outdated("evenflow.torch", "torch", "2.4", torch.__version__) from error

Tensor = torch.Tensor
Place = tuple[str, tuple[int, ...], str, int, int]
"""Name, shape, group, offset and size, as in `Flow.entries`."""

TRAINED = "decay", "no_decay"
"""Groups of tensors that are parameters; the others are buffers."""

_memories: weakref.WeakValueDictionary[int, Memory] = weakref.WeakValueDictionary()
_numbers = itertools.count()
# Two gradients of one flow would add up in the same memory.
_lock = threading.Lock()


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_renew_lock)  # a thread that held it stays in the parent


class Memory:
    """A flow's values as tensors. Operators take tensors and numbers alone, so it goes by a number."""

    @torch.inference_mode(False)  # whose tensors no training could use
    def __init__(self, flow: Flow, flat: bool):
        self.flow, self.flat, self.device = flow, flat, device_of(flow)
        self.dtype: torch.dtype = getattr(torch, flow.dtype.name)
        core = density.core_of(flow)
        self.base = str(core.base)  # torch 2.4 can't compile the question
        self._values = core.values if flow.device == "cpu" else core.device_values
        groups = _groups(flow)
        self.places = groups if flat else flow.entries()
        self.size = len(flow.params)
        start, length = next((place[3:] for place in groups if place[0] == "stats"), (0, 0))
        self.statistics = self.values()[start:start + length]
        self.moments = [(i, shape, slice(offset - start, offset - start + size))
                        for i, (_, shape, group, offset, size) in enumerate(self.places) if group == "stats"]
        """Number of a place, its shape, and where its numbers are in `statistics`."""
        self.addresses: list[int] = []
        """Those of a module's tensors, which calls compare."""
        self.number = next(_numbers)
        _memories[self.number] = self

        def split(grads: Tensor, places: tuple[Place, ...] = tuple(self.places)) -> list[Tensor | None]:
            return [grads[offset:offset + size].view(shape) if group in TRAINED else None
                    for _, shape, group, offset, size in places]

        self.split = split  # with the places as a default, whose numbers torch 2.4 takes as constants
        """Gradients of each place, of all in one."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Memory, (self.flow, self.flat)

    def values(self) -> Tensor:
        """All, as the flow's last work leaves them: on the GPU a new tensor is ordered after it."""
        return tensor_of(self._values)

    def views(self) -> list[Tensor]:
        """A tensor of each place, in the flow's memory."""
        return [tensor_of(self._values[offset:offset + size]).view(shape) for _, shape, _, offset, size in self.places]


def _groups(flow: Flow) -> list[Place]:
    """All trained tensors as one place, all statistics, and all that is fixed."""
    ends: dict[str, tuple[int, int]] = {"params": (0, len(flow.params))}
    for _, _, group, offset, size in flow.entries():
        if group not in TRAINED:
            first, end = ends.get(group, (offset, offset))
            ends[group] = min(first, offset), max(end, offset + size)
    return [(name, (end - first,), TRAINED[0] if name == "params" else name, first, end - first)
            for name, (first, end) in ends.items()]


def _memory(number: int, tensors: list[Tensor] | None = None) -> Memory:
    """The memory of that number, in which `tensors` must be."""
    memory = _memories.get(number)
    if memory is None:
        raise ConfigError("[FlowModule] expected the module to be alive, got a call after its end")
    if tensors is not None and [tensor.data_ptr() for tensor in tensors] != memory.addresses:
        raise replaced()
    return memory


def replaced() -> ConfigError:
    return ConfigError("[FlowModule] expected the parameters and buffers that share the flow's memory, got others "
                       "(functional_call, load_state_dict(assign=True), a parametrization, a move of a part, an "
                       "assignment to .data, or a change of them earlier in the same compiled graph)")


def device_of(flow: Flow) -> torch.device:
    if flow.device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise DeviceError(f"[FlowModule] expected a torch that has the GPU of a flow on {flow.device}, got "
                          f"{torch.__version__} without one")
    return torch.device("cuda", flow.device_params.__dlpack_device__()[1])


def _array(x: Tensor) -> Any:
    """A tensor as a flow takes it: of numpy, or by DLPack on the GPU."""
    x = x.detach()
    return x.contiguous() if x.is_cuda else x.numpy()


def tensor_of(x: Any) -> Tensor:
    """What a flow gives, as a tensor in the same memory."""
    return torch.from_numpy(x) if isinstance(x, np.ndarray) else from_dlpack(x)


def _batch(x: Tensor, label: Tensor | None, context: Tensor | None) -> Batch:
    return Batch(_array(x), None if label is None else label.detach().cpu().numpy(),
                 None if context is None else _array(context))


def _float_batch(flow: Flow, where: str, x: Tensor, label: Tensor | None, context: Tensor | None,
                 seed: Tensor | None) -> Batch:
    """uint8 images with noise of that seed, or as whole levels; other data as they are."""
    batch = _batch(x, label, context)
    if x.dtype != torch.uint8:
        return batch
    taken = density.take(flow, where, batch.x, batch.label, batch.context)
    return dataclasses.replace(taken, x=density.floats(flow, where, taken.x, None if seed is None else int(seed)))


def _wait(flow: Flow) -> None:
    """What torch has queued is done, for a call that is given no tensor on the GPU to know by."""
    if flow.device != "cpu":
        torch.cuda.current_stream().synchronize()


def _mark(memory: Memory, size: int | None = None) -> Tensor:
    """Another number for other values, of the first `size`, whoever wrote them."""
    return memory.values()[:size].view(torch.int64).sum()


def _check_mark(memory: Memory, mark: Tensor, size: int | None = None) -> None:
    if _mark(memory, size) != mark:
        raise ConfigError("[FlowModule] expected the parameters and statistics of the forward pass in backward, got "
                          "others: a step of an optimiser, flow.params, train_step, fit or a loss of batch norm "
                          "changed them in between")


def _with_grads(memory: Memory, batch: Batch, call: Callable[..., Any], **more: Any) -> tuple[Any, Tensor, Tensor]:
    """call's result, and the gradients that it adds to flow.grads (flat), which are afterwards as before, and by the
    context (N, C), empty for a flow without.
    """
    flow, dcontext = memory.flow, None
    if flow.context:
        dcontext = arrays.empty(flow.device, (len(batch), flow.context), flow.dtype)
    with _lock:
        grads = tensor_of(flow.grads if flow.device == "cpu" else flow.device_grads)
        before = grads.clone()
        grads.zero_()
        try:
            result, found = call(dcontext=dcontext, **batch.conditions, **more), grads.clone()
        finally:
            grads.copy_(before)
            _wait(flow)
    return result, found, found.new_empty(0) if dcontext is None else tensor_of(dcontext)


# Operators

# The kernels wait for the GPU's results, which a CUDA graph of torch.compile can't hold; earlier versions have no word
# for it.
_UNSAFE: dict[str, Any] = ({"tags": (torch.Tag.cudagraph_unsafe,)}
                           if hasattr(torch.Tag, "cudagraph_unsafe") and "tags" in signature(custom_op).parameters
                           else {})


def _operator(schema: str, fake: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes an operator for torch.compile. Elsewhere the function is called itself, since torch's dispatcher takes as
    long as a third of a small flow's step.
    """
    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        name = function.__name__
        custom_op(f"evenflow::{name}", function, mutates_args=(), schema=schema, **_UNSAFE).register_fake(fake)

        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            return (getattr(torch.ops.evenflow, name) if torch.compiler.is_compiling() else function)(*arguments)
        return call
    return register


def _fake_grads(memory: Memory, like: Tensor, n: Any) -> tuple[Tensor, Tensor]:
    context = memory.flow.context
    return like.new_empty(memory.size, dtype=memory.dtype), like.new_empty(
        (n, context) if context else (0,), dtype=memory.dtype)


def _fake_transform(x: Tensor, tensors: list[Tensor], memory: int, label: Any, context: Any, seed: Any, where: str,
                    marked: bool) -> Any:
    own, n = _memory(memory), x.shape[0]
    shape = own.flow.shape if where == "inverse" else (own.flow.dims,)
    return (x.new_empty((n, *shape), dtype=own.dtype), x.new_empty((n,), dtype=torch.float64),
            x.new_empty((), dtype=torch.int64))


@_operator("(Tensor x, Tensor[] tensors, int memory, Tensor? label, Tensor? context, Tensor? seed, str where, "
           "bool marked) -> (Tensor, Tensor, Tensor)", _fake_transform)
def transform(x: Tensor, tensors: list[Tensor], memory: int, label: Tensor | None, context: Tensor | None,
              seed: Tensor | None, where: str, marked: bool) -> Any:
    """inverse, if the module's call `where` is that, or forward; and the mark of the values, if it is wanted."""
    own = _memory(memory, tensors)
    batch = _float_batch(own.flow, where, x, label, context, seed)
    take, call = ((density.take_latents, density.inverse) if where == "inverse" else (density.take, density.forward))
    target, logdet = call(own.flow, where, take(own.flow, where, batch.x, batch.label, batch.context))
    return tensor_of(target), tensor_of(logdet), _mark(own, None if marked else 0)


def _fake_vjp(source: Tensor, target: Tensor, dtarget: Tensor, dlogdet: Tensor, mark: Tensor, memory: int,
              *_: Any) -> Any:
    own = _memory(memory)
    return (source.new_empty(source.shape, dtype=own.dtype), *_fake_grads(own, target, target.shape[0]))


@_operator("(Tensor source, Tensor target, Tensor dtarget, Tensor dlogdet, Tensor mark, int memory, Tensor? label, "
           "Tensor? context, Tensor? seed, bool inverse) -> (Tensor, Tensor, Tensor)", _fake_vjp)
def transform_vjp(source: Tensor, target: Tensor, dtarget: Tensor, dlogdet: Tensor, mark: Tensor, memory: int,
                  label: Tensor | None, context: Tensor | None, seed: Tensor | None, inverse: bool) -> Any:
    """Gradients by the source, the trained values (flat) and the context."""
    own = _memory(memory)
    _check_mark(own, mark)
    if not (torch.isfinite(dtarget).all() and torch.isfinite(dlogdet).all()):
        # As any operator of torch passes them on, to a GradScaler, say.
        return tuple(torch.full_like(part, math.nan, device=target.device) for part in _fake_vjp(
            source, target, dtarget, dlogdet, mark, memory))
    batch = _float_batch(own.flow, "backward", source, label, context, seed)
    call = functools.partial(own.flow.inverse_backward if inverse else own.flow.backward, _array(target),
                             _array(dtarget), _array(dlogdet))
    (_, dsource), grads, dcontext = _with_grads(own, batch, call, **{"z" if inverse else "truth": batch.x})
    return tensor_of(dsource), grads, dcontext


def _fake_loss(x: Tensor, tensors: list[Tensor], memory: int, label: Any, context: Any, seed: Any, weights: Any,
               rows: bool) -> Any:
    own = _memory(memory)
    return (x.new_empty((x.shape[0],) if rows else (), dtype=torch.float64),
            x.new_empty(len(own.statistics), dtype=own.dtype), x.new_empty((), dtype=torch.int64),
            *_fake_grads(own, x, x.shape[0]))


@_operator("(Tensor x, Tensor[] tensors, int memory, Tensor? label, Tensor? context, Tensor? seed, Tensor? weights, "
           "bool rows) -> (Tensor, Tensor, Tensor, Tensor, Tensor)", _fake_loss)
def loss(x: Tensor, tensors: list[Tensor], memory: int, label: Tensor | None, context: Tensor | None,
         seed: Tensor | None, weights: Tensor | None, rows: bool) -> Any:
    """The mean loss, or with `rows` those of the rows; the running statistics as they become (those of the flow stay);
    the mark of the trained values; and the mean's gradients by them and the context.
    """
    return _loss(_memory(memory, tensors), _batch(x, label, context), seed, weights, rows)


def _loss(memory: Memory, batch: Batch, seed: Tensor | None, weights: Tensor | None, rows: bool) -> Any:
    live, nll = memory.statistics, np.empty(len(batch)) if rows else None
    before = live.clone()
    mean, grads, dcontext = _with_grads(
        memory, batch, functools.partial(memory.flow.loss_and_grad, batch.x), seed=0 if seed is None else int(seed),
        nll=nll, sample_weight=None if weights is None else weights.detach().double().cpu().numpy())
    statistics = live.clone()
    live.copy_(before)
    losses = torch.as_tensor(mean if nll is None else nll, dtype=torch.float64, device=memory.device)
    return losses, statistics, _mark(memory, memory.size if rows else 0), grads, dcontext


def _fake_losses_vjp(dlosses: Tensor, grads: Tensor, dcontext: Tensor, *_: Any) -> Any:
    return torch.empty_like(grads), torch.empty_like(dcontext)


@_operator("(Tensor dlosses, Tensor grads, Tensor dcontext, Tensor mark, Tensor x, int memory, Tensor? label, "
           "Tensor? context, Tensor? seed) -> (Tensor, Tensor)", _fake_losses_vjp)
def losses_vjp(dlosses: Tensor, grads: Tensor, dcontext: Tensor, mark: Tensor, x: Tensor, memory: int,
               label: Tensor | None, context: Tensor | None, seed: Tensor | None) -> Any:
    """From the mean's gradients those of the losses. Those of a mean or sum are multiples; others take a new pass."""
    own, n = _memory(memory), len(x)
    alike = bool((dlosses == dlosses[0]).all())
    if alike or not torch.isfinite(dlosses).all():
        scale = (n * dlosses[0] if alike else math.nan * dlosses[0]).to(grads.dtype)
        return grads * scale, dcontext * scale
    _check_mark(own, mark, own.size)
    if bool((dlosses < 0).any()):
        raise ConfigError("[loss] expected weights >= 0 on the losses of rows, or equal ones, got "
                          f"{float(dlosses.min()):g}; use log_prob, which takes any")
    return _loss(own, _batch(x, label, context), seed, n * dlosses, rows=False)[3:]


def _fake_sample(tensors: list[Tensor], memory: int, n: Any, *_: Any) -> Tensor:
    own = _memory(memory)
    return torch.empty((n, *own.flow.shape), dtype=own.dtype, device=own.device)


@_operator("(Tensor[] tensors, int memory, SymInt n, Tensor temperature, Tensor seed, Tensor? label, "
           "Tensor? context) -> Tensor", _fake_sample)
def sample(tensors: list[Tensor], memory: int, n: int, temperature: Tensor, seed: Tensor, label: Tensor | None,
           context: Tensor | None) -> Tensor:
    flow = _memory(memory, tensors).flow
    _wait(flow)
    conditions = _batch(seed, label, context).conditions
    return tensor_of(flow.sample(n, seed=int(seed), temperature=float(temperature), device=flow.device, **conditions))


# Derivatives

# What torch itself says nothing of: tangents of gradients, which it drops (those of inputs it refuses, for want of a
# jvp), and derivatives of the loss's gradients, which for it are constants.
def _refuse_second(create_graph: bool, *gradients: Tensor) -> None:
    if not torch.compiler.is_compiling() and (create_graph or any(
            forward_ad.unpack_dual(gradient).tangent is not None for gradient in gradients)):
        raise NotImplementedError("[FlowModule] expected first derivatives, got a derivative of a gradient "
                                  "(create_graph=True, or a tangent): second derivatives of a flow are not offered")


class Transform(torch.autograd.Function):
    """The operator `transform`, with its derivative."""

    @staticmethod
    def forward(ctx: Any, memory: Memory, where: str, marked: bool, x: Tensor, label: Tensor | None,
                context: Tensor | None, seed: Tensor | None, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        target, logdet, mark = transform(x, list(tensors), memory.number, label, context, seed, where, marked)
        ctx.memory, ctx.inverse = memory, where == "inverse"  # which live as long as the graph
        ctx.save_for_backward(x, target, mark, label, context, seed)
        return target, logdet

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dtarget: Tensor, dlogdet: Tensor) -> tuple[Any, ...]:
        _refuse_second(False, dtarget, dlogdet)
        x, target, mark, *given = ctx.saved_tensors
        dx, grads, dcontext = transform_vjp(x, target, dtarget, dlogdet, mark, ctx.memory.number, *given, ctx.inverse)
        return (None, None, None, dx if x.is_floating_point() else None, None,
                None if given[1] is None else dcontext, None, *ctx.memory.split(grads))


class Loss(torch.autograd.Function):
    """The operator `loss`, with its derivative."""

    @staticmethod
    def forward(ctx: Any, memory: Memory, x: Tensor, label: Tensor | None, context: Tensor | None,
                seed: Tensor | None, weights: Tensor | None, rows: bool, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        losses, statistics, mark, grads, dcontext = loss(x, list(tensors), memory.number, label, context, seed, weights,
                                                         rows)
        ctx.memory, ctx.rows = memory, rows
        ctx.save_for_backward(grads, dcontext, *((mark, x, label, context, seed) if rows else ()))
        ctx.mark_non_differentiable(statistics)
        return losses, statistics

    @staticmethod
    def backward(ctx: Any, dlosses: Tensor, _: Any) -> tuple[Any, ...]:
        _refuse_second(torch.is_grad_enabled(), dlosses)
        grads, dcontext, *again = ctx.saved_tensors
        if ctx.rows:
            mark, x, *given = again
            grads, dcontext = losses_vjp(dlosses, grads, dcontext, mark, x, ctx.memory.number, *given)
        else:
            scale = dlosses.to(grads.dtype)
            grads, dcontext = grads * scale, dcontext * scale
        return (None, None, None, dcontext if ctx.memory.flow.context else None, None, None, None,
                *ctx.memory.split(grads))
