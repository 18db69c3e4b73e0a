"""A flow as a torch module: torch's parameters are the flow's own memory, and autograd runs its kernels.

    module = FlowModule(flow)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    loss = -module.log_prob(x).mean()
    loss.backward()
    optimizer.step()                               # updates flow.params in place
"""

from __future__ import annotations

import itertools
import math
import os
import pickle
import threading
import weakref
from multiprocessing.reduction import ForkingPickler
from typing import Any, cast
from collections.abc import Callable

import numpy as np

from evenflow import arrays
from evenflow.errors import ConfigError, DeviceError, NumericError, ShapeError
from evenflow.extras import need, outdated
from evenflow.flow import Flow, check_flow

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

DRIFT = {"float32": 1e-3, "float64": 1e-8}
"""How far a batch that backward rebuilds may be off, relative to its largest value; as in `loss_and_grad`."""

TRAINED = "decay", "no_decay"
"""Groups of tensors that are parameters; the others are buffers."""

Pair = tuple[torch.Tensor, torch.Tensor]
Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

# Operators take tensors and numbers alone, so a module goes by a number.
_MODULES: weakref.WeakValueDictionary[int, FlowModule] = weakref.WeakValueDictionary()
_NUMBERS = itertools.count()
# Two gradients of one flow would add up in the same memory.
_GRADS_LOCK = threading.Lock()


def _renew_lock() -> None:
    global _GRADS_LOCK
    _GRADS_LOCK = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)  # a thread that held it stays in the parent


class _Scope(torch.nn.Module):
    """A place in the tree of parameter names; the flow's tensors stay where they are."""

    def __init__(self) -> None:
        super().__init__()
        self._own: list[str] = []

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> _Scope:
        for name in self._own:
            tensor = getattr(self, name)
            probe = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
            moved = fn(probe)
            if moved is not probe or (moved.is_shared() and not moved.is_cuda):
                raise TypeError(f"[FlowModule] expected the model's own memory, {probe.dtype} on {probe.device}, "
                                f"got a move to {moved.dtype} on {moved.device}; make the flow with dtype=..., "
                                "device=...")
        parameters, buffers = self._parameters, self._buffers
        self._parameters = {name: parameter for name, parameter in parameters.items() if name not in self._own}
        self._buffers = {name: buffer for name, buffer in buffers.items() if name not in self._own}
        try:
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        finally:
            self._parameters, self._buffers = {**parameters, **self._parameters}, {**buffers, **self._buffers}
        return self


class FlowModule(_Scope):
    """A flow as an nn.Module: autograd through log_prob, forward and inverse; any torch optimiser.

    flow: made by Glow, RealNVP, NICE or `load`, initialised before the first call.
    channels: "last" takes and returns images (N, H, W, C), "first" (N, C, H, W). Either is used without a
    copy where channels are innermost in memory: a contiguous NHWC tensor, or NCHW in torch.channels_last.

    Parameters and buffers have the names of `flow.named_parameters()` and share its memory: an optimiser step
    or load_state_dict changes the flow, and whatever changes the flow changes the module. Gradients are
    torch's (parameter.grad); flow.grads is left as it was. Tensors are where the flow computes and stay there,
    on the CPU or the flow's GPU, in the flow's dtype; other floats are converted. Labels may be on any device
    but meta. z is (N, D); log-determinants and log-densities are (N,) float64.

    Derivatives are of first order and by backward: a derivative of a gradient, and a tensor with a tangent
    (torch.func.jvp), is a NotImplementedError. Running statistics (batch norm) count as constants, except in
    `loss`. Errors are those of Flow; ConfigError where the flow's tensors in the module were replaced
    (functional_call, load_state_dict(assign=True)).

    A subclass may have more attributes, parameters and submodules. deepcopy and pickle copy them and the flow.
    """

    def __init__(self, flow: Flow, channels: str = "last"):
        super().__init__()
        self.flow = check_flow("FlowModule", flow)
        self.channels = arrays.choice("FlowModule", "channels", channels, ("last", "first"))
        self._dtype, self._first = getattr(torch, flow.dtype.name), flow.is_image and self.channels == "first"
        self._places = {}
        self._holders: list[tuple[_Scope | None, str]] = []
        """Where the tensors of _places are, None: here, so that there is no cycle. Looking names up in the tree takes
        longer than a row's products.
        """
        for name, shape, group, offset, size in flow.entries():
            self._places[name] = shape, group, offset, size
            self._register(name, torch.empty(0, dtype=self._dtype), trained=group in TRAINED)
        self._bind()

    def _register(self, name: str, tensor: torch.Tensor, trained: bool) -> None:
        *path, last = name.split(".")
        at: _Scope = self
        for part in path:
            if part not in at._modules:
                at.add_module(part, _Scope())
            at = cast(_Scope, at.get_submodule(part))
        at._own.append(last)
        self._holders.append((None if at is self else at, last))
        if trained:
            at.register_parameter(last, torch.nn.Parameter(tensor))
        else:
            at.register_buffer(last, tensor)

    def _bind(self) -> None:
        """Puts the flow's tensors, which may be copies, into its memory."""
        self._device = _device_of(self.flow)
        self._logistic = self.flow._core.base == "logistic"  # torch 2.4 can't compile the question
        values = self.flow._core.values if self.flow.device == "cpu" else self.flow._core.device_values
        self._statistics = _tensor(values[self.flow._statistics])
        tensors = self._tensors()
        for tensor, (shape, _, offset, size) in zip(tensors, self._places.values()):
            tensor.data = _tensor(values[offset:offset + size]).view(shape)
        self._addresses = [tensor.data_ptr() for tensor in tensors]
        self._number = next(_NUMBERS)
        _MODULES[self._number] = self

    def __setstate__(self, state: dict[str, Any]) -> None:
        """For deepcopy and pickle: the flow comes as a copy, and the tensors as copies of their own."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._bind()

    def _tensors(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        """The flow's parameters and buffers, whatever others the module has, for an operator that takes `inputs`."""
        tensors: list[torch.Tensor] = []
        for holder, last in self._holders:
            at = self if holder is None else holder
            tensor: torch.Tensor | None = at._parameters.get(last)
            tensor = at._buffers.get(last) if tensor is None else tensor
            if tensor is None:
                raise _replaced()
            tensors.append(tensor)
        _refuse_tangents(*inputs, *tensors)
        return tensors

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        ForkingPickler.register(cls, _by_value)

    def extra_repr(self) -> str:
        return f"{self.flow!r}, channels={self.channels!r}"

    # Density, latents, samples

    def forward(self, x: torch.Tensor, label: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """x -> z (N, D) and logdet (N,) = log |det dz/dx|. uint8 images get no noise."""
        x = self._input("forward", x, seed=None)
        z, logdet = torch.ops.evenflow.forward(x, self._tensors(x), self._number,
                                               _label("forward", label))
        return z, logdet

    def inverse(self, z: torch.Tensor, label: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """z (N, D) -> x and logdet (N,) = log |det dx/dz|.

        Differentiable in z and in the parameters, so a sample x of z ~ base is reparametrised.
        """
        self._check("inverse", z, (self.flow.dims,))
        if not z.is_floating_point():
            raise TypeError(f"[inverse] expected float values, got {z.dtype}")
        z = z.to(self._dtype)
        x, logdet = torch.ops.evenflow.inverse(z, self._tensors(z), self._number,
                                               _label("inverse", label))
        return self._output(x), logdet

    def base_log_prob(self, z: torch.Tensor) -> torch.Tensor:
        """log p0(z) (N,) float64 of latents z (N, D): standard normal or logistic.

        NaN and infinity go through: to look for them would wait for the GPU, and break a compiled graph.
        """
        self._check("base_log_prob", z, (self.flow.dims,))
        if not z.is_floating_point():
            raise TypeError(f"[base_log_prob] expected float values, got {z.dtype}")
        z = z.double()
        if self._logistic:
            # Not softplus, which is z itself above 20.
            return (torch.nn.functional.logsigmoid(z) + torch.nn.functional.logsigmoid(-z)).sum(1)
        return -0.5 * (z * z).sum(1) - 0.5 * math.log(2 * math.pi) * z.shape[1]

    def log_prob(self, x: torch.Tensor, seed: int = 0, label: Any = None) -> torch.Tensor:
        """log p(x) (N,) float64, nats of the density in the units of x.

        seed: of the dequantisation noise that uint8 images get, as in Flow.log_prob; floats get none.
        """
        seed = arrays.whole("log_prob", "seed", seed, low=0)
        z, logdet = self.forward(self._noisy("log_prob", x, seed), label)
        return self.base_log_prob(z) + logdet

    def loss(self, x: torch.Tensor, seed: int = 0, label: Any = None) -> torch.Tensor:
        """Mean negative log-likelihood in nats (), float64, for training: Flow.loss_and_grad under autograd.

        The fastest way to train, with the guard against drift: the gradient by the parameters is computed at
        once, and backward only scales it. Batch norm uses the batch's moments and updates its running
        statistics; a class head's loss is added. No gradient reaches x.
        """
        x = self._channels_last(self._converted("loss", x))
        if torch.is_grad_enabled() and x.requires_grad:
            raise ConfigError("[loss] expected x without requires_grad, got one with it; use log_prob")
        seed = arrays.whole("loss", "seed", seed, low=0)
        loss: torch.Tensor
        tensors, start = self._tensors(x), self.flow._statistics.start
        loss, _, statistics = torch.ops.evenflow.loss(x, tensors, self._number, _label("loss", label), seed)
        with torch.no_grad():  # here, and not in the operator, so that torch knows of it
            for buffer, (shape, group, offset, size) in zip(tensors, self._places.values()):
                if group == "stats":
                    buffer.copy_(statistics[offset - start:offset - start + size].view(shape))
        return loss

    def sample(self, n: int, temperature: float = 1.0, seed: int = 0, label: Any = None) -> torch.Tensor:
        """n samples without gradient, images in level units; sample i depends on (seed, i) alone.

        For samples with a gradient, use `inverse` of draws from the base.
        """
        n, seed = arrays.whole("sample", "n", n, low=1), arrays.whole("sample", "seed", seed, low=0)
        temperature = arrays.number("sample", "temperature", temperature, 0.0)
        labels = _label("sample", label)
        with torch.no_grad():
            x = torch.ops.evenflow.sample(self._tensors(), self._number, n, temperature, seed, labels)
        return self._output(x)

    # Tensors at the border

    def _shape(self) -> tuple[int, ...]:
        shape = self.flow.shape
        return (shape[2], shape[0], shape[1]) if self._first else shape

    def _check(self, where: str, x: Any, shape: tuple[int, ...]) -> None:
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"[{where}] expected a torch tensor, got {type(x).__name__}")
        _refuse_layouts(where, x)
        if x.device != self._device:
            raise DeviceError(f"[{where}] expected a tensor on {self._device}, where the flow computes, "
                              f"got one on {x.device}")
        if x.dim() != 1 + len(shape) or tuple(x.shape[1:]) != shape:
            raise ShapeError(f"[{where}] expected {arrays.batch_shape(shape)}, got {tuple(x.shape)}")

    def _noisy(self, where: str, x: torch.Tensor, seed: int | None) -> torch.Tensor:
        """x as floats of the flow's dtype, in the user's order of axes; uint8 images are dequantised."""
        x = self._converted(where, x)
        if x.dtype != torch.uint8:
            return x
        noise = -1 if seed is None else seed
        return self._output(torch.ops.evenflow.dequantize(self._channels_last(x), self._number, noise))

    def _converted(self, where: str, x: torch.Tensor) -> torch.Tensor:
        """Floats x in the flow's dtype, uint8 images as they are."""
        self._check(where, x, self._shape())
        if x.dtype == torch.uint8 and self.flow.is_image:
            return x
        if not x.is_floating_point():
            wanted = "uint8 or float values" if self.flow.is_image else "float values"
            raise TypeError(f"[{where}] expected {wanted}, got {x.dtype}")
        return x.to(self._dtype)

    def _input(self, where: str, x: torch.Tensor, seed: int | None) -> torch.Tensor:
        return self._channels_last(self._noisy(where, x, seed))

    def _channels_last(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 3, 1) if self._first else x

    def _output(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 3, 1, 2) if self._first else x


def _by_value(module: FlowModule) -> tuple[Any, ...]:
    """For another process: torch's way would move the tensors into shared memory here, and out of the flow's."""
    return pickle.loads, (pickle.dumps(module),)


ForkingPickler.register(FlowModule, _by_value)


def _label(where: str, label: Any) -> torch.Tensor | None:
    """Labels as a tensor, one for all or (N,); their values are checked where they are used."""
    if label is None:
        return None
    arrays.refuse_masked(where, label)
    try:
        labels = torch.as_tensor(label)
    except (OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise TypeError(f"[{where}] expected whole numbers as labels, got {label!r}: {error}") from error
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"[{where}] expected whole numbers as labels, got {labels.dtype}")
    _refuse_layouts(where, labels)
    if labels.device.type == "meta":  # torch would call the fake operator, whose results are memory as it was
        raise DeviceError(f"[{where}] expected labels with values, got a tensor on meta")
    return labels


def _refuse_layouts(where: str, x: torch.Tensor) -> None:
    """TypeError for tensors that are no plain array."""
    if x.layout != torch.strided or x.is_nested:
        raise TypeError(f"[{where}] expected a dense tensor, got a {'nested' if x.is_nested else x.layout} one")


# Operators. Each has a real implementation on the flow's arrays, a fake one (shapes alone, for torch.compile),
# and its derivative where it has one. x is NHWC or (N, D); `tensors`, the module's, are there for autograd and
# for torch.compile, values are the flow's.

def _refuse_tangents(*tensors: torch.Tensor) -> None:
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
    module = _MODULES.get(number)
    if module is None:
        raise ConfigError("[FlowModule] expected the module to be alive, got a call after its end")
    return module


def _own_flow(number: int, tensors: list[torch.Tensor]) -> Flow:
    """The flow of module `number`, whose parameters and buffers `tensors` must be."""
    module = _number_to_module(number)
    if [tensor.data_ptr() for tensor in tensors] != module._addresses:
        raise _replaced()
    return module.flow


def _replaced() -> ConfigError:
    return ConfigError("[FlowModule] expected the parameters and buffers that share the flow's memory, got others "
                       "(functional_call, load_state_dict(assign=True), a parametrization, an assignment to .data, "
                       "or a change of them earlier in the same compiled graph)")


def _device_of(flow: Flow) -> torch.device:
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


def _tensor(x: Any) -> torch.Tensor:
    """What a flow gives, as a tensor in the same memory."""
    return torch.from_numpy(x) if isinstance(x, np.ndarray) else from_dlpack(x)


def _labels(label: torch.Tensor | None) -> np.ndarray | None:
    """Labels as a flow takes them, in main memory."""
    return None if label is None else label.detach().cpu().numpy()


def _wait(flow: Flow) -> None:
    """What torch has queued is done, for a call that is given no tensor on the GPU to know by."""
    if flow.device != "cpu":
        torch.cuda.current_stream().synchronize()


def _with_grads(flow: Flow, call: Callable[[], Any]) -> tuple[Any, torch.Tensor]:
    """The result of call() and the gradients (flat) that it adds; flow.grads is afterwards as before."""
    with _GRADS_LOCK:
        grads = _tensor(flow.grads if flow.device == "cpu" else flow.device_grads)
        before = grads.clone()
        grads.zero_()
        try:
            return call(), grads.clone()
        finally:
            grads.copy_(before)
            _wait(flow)


def _check_drift(where: str, flow: Flow, rebuilt: torch.Tensor, truth: torch.Tensor) -> None:
    drift = float((rebuilt - truth).abs().max()) / max(1.0, float(truth.abs().max()))
    if not drift <= DRIFT[flow.dtype.name]:
        raise NumericError(f"[{where}] expected an invertible flow, got one whose rebuilt batch is off by "
                           f"{drift:.1e} of the largest value; use float64, or train with loss(x)")


@custom_op("evenflow::dequantize", mutates_args=(), schema="(Tensor x, int flow, int seed) -> Tensor")
def _dequantize(x: torch.Tensor, flow: int, seed: int) -> torch.Tensor:
    model = _number_to_module(flow).flow
    batch = model._take("log_prob", _array(x))
    return _tensor(model._block("log_prob", batch, 0, len(x), None if seed < 0 else seed))


@_dequantize.register_fake
def _(x: torch.Tensor, flow: int, seed: int) -> torch.Tensor:
    return torch.empty(x.shape, dtype=_number_to_module(flow)._dtype, device=x.device)


@custom_op("evenflow::sample", mutates_args=(),
           schema="(Tensor[] tensors, int flow, SymInt n, float temperature, int seed, Tensor? label) -> Tensor")
def _sample(tensors: list[torch.Tensor], flow: int, n: int, temperature: float, seed: int,
            label: torch.Tensor | None) -> torch.Tensor:
    model = _own_flow(flow, tensors)
    _wait(model)
    return _tensor(model.sample(n, temperature, seed, _labels(label), device=model.device))


@_sample.register_fake
def _(tensors: list[torch.Tensor], flow: int, n: int, temperature: float, seed: int,
      label: torch.Tensor | None) -> torch.Tensor:
    module = _number_to_module(flow)
    return torch.empty((n, *module.flow.shape), dtype=module._dtype, device=module._device)


@custom_op("evenflow::forward", mutates_args=(),
           schema="(Tensor x, Tensor[] tensors, int flow, Tensor? label) -> (Tensor, Tensor)")
def _forward(x: torch.Tensor, tensors: list[torch.Tensor], flow: int,
             label: torch.Tensor | None) -> Pair:
    z, logdet = _own_flow(flow, tensors).forward(_array(x), _labels(label))
    return _tensor(z), _tensor(logdet)


@_forward.register_fake
def _(x: torch.Tensor, tensors: list[torch.Tensor], flow: int, label: torch.Tensor | None) -> Pair:
    n, dims = x.shape[0], _number_to_module(flow).flow.dims
    return x.new_empty((n, dims)), x.new_empty((n,), dtype=torch.float64)


@custom_op("evenflow::inverse", mutates_args=(),
           schema="(Tensor z, Tensor[] tensors, int flow, Tensor? label) -> (Tensor, Tensor)")
def _inverse(z: torch.Tensor, tensors: list[torch.Tensor], flow: int,
             label: torch.Tensor | None) -> Pair:
    x, logdet = _own_flow(flow, tensors).inverse(_array(z), _labels(label))
    return _tensor(x), _tensor(logdet)


@_inverse.register_fake
def _(z: torch.Tensor, tensors: list[torch.Tensor], flow: int, label: torch.Tensor | None) -> Pair:
    n, shape = z.shape[0], _number_to_module(flow).flow.shape
    return z.new_empty((n, *shape)), z.new_empty((n,), dtype=torch.float64)


VJP = ("(Tensor source, Tensor target, Tensor dtarget, Tensor dlogdet, Tensor[] tensors, int flow, "
       "Tensor? label) -> (Tensor, Tensor)")


@custom_op("evenflow::forward_vjp", mutates_args=(), schema=VJP)
def _forward_vjp(x: torch.Tensor, z: torch.Tensor, dz: torch.Tensor, dlogdet: torch.Tensor,
                 tensors: list[torch.Tensor], flow: int, label: torch.Tensor | None) -> Pair:
    model = _own_flow(flow, tensors)
    (rebuilt, dx), grads = _with_grads(
        model, lambda: model.backward(_array(z), _array(dz), _array(dlogdet), _labels(label)))
    _check_drift("backward", model, _tensor(rebuilt), x.detach())
    return _tensor(dx), grads


@custom_op("evenflow::inverse_vjp", mutates_args=(), schema=VJP)
def _inverse_vjp(z: torch.Tensor, x: torch.Tensor, dx: torch.Tensor, dlogdet: torch.Tensor,
                 tensors: list[torch.Tensor], flow: int, label: torch.Tensor | None) -> Pair:
    model = _own_flow(flow, tensors)
    (rebuilt, dz), grads = _with_grads(
        model, lambda: model.inverse_backward(_array(x), _array(dx), _array(dlogdet), _labels(label)))
    _check_drift("inverse_backward", model, _tensor(rebuilt), z.detach())
    return _tensor(dz), grads


@custom_op("evenflow::loss", mutates_args=(),
           schema="(Tensor x, Tensor[] tensors, int flow, Tensor? label, int seed) -> (Tensor, Tensor, Tensor)")
def _loss(x: torch.Tensor, tensors: list[torch.Tensor], flow: int, label: torch.Tensor | None,
          seed: int) -> Triple:
    """The loss, its gradient, and the running statistics as they become; those of the flow stay."""
    model, live = _own_flow(flow, tensors), _number_to_module(flow)._statistics

    def step() -> tuple[float, torch.Tensor]:
        before = live.clone()
        loss = model.loss_and_grad(_array(x), _labels(label), seed=seed)
        statistics = live.clone()
        live.copy_(before)
        return loss, statistics

    (loss, statistics), grads = _with_grads(model, step)
    return torch.tensor(loss, dtype=torch.float64, device=x.device), grads, statistics


@_loss.register_fake
def _(x: torch.Tensor, tensors: list[torch.Tensor], flow: int, label: torch.Tensor | None, seed: int) -> Triple:
    module = _number_to_module(flow)
    return (x.new_empty((), dtype=torch.float64), x.new_empty((len(module.flow.params),), dtype=module._dtype),
            x.new_empty((len(module._statistics),), dtype=module._dtype))


def _fake_vjp(source: torch.Tensor, target: torch.Tensor, dtarget: torch.Tensor, dlogdet: torch.Tensor,
              tensors: list[torch.Tensor], flow: int, label: torch.Tensor | None) -> Pair:
    return torch.empty_like(source, memory_format=torch.contiguous_format), source.new_empty(
        (len(_number_to_module(flow).flow.params),))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Pair) -> None:
    source, tensors, number, label = inputs
    ctx.module = _number_to_module(number)  # lives as long as the graph
    # The flow's tensors are saved for torch's check that no optimiser step and no `loss` came between.
    ctx.save_for_backward(source, output[0], label, *tensors)


def _split(module: FlowModule, grads: torch.Tensor) -> list[torch.Tensor | None]:
    return [grads[offset:offset + size].view(shape) if group in TRAINED else None
            for shape, group, offset, size in module._places.values()]


def _derivative(vjp: Callable[..., Pair]) -> Callable[..., tuple[Any, ...]]:
    def backward(ctx: Any, dtarget: torch.Tensor, dlogdet: torch.Tensor) -> tuple[Any, ...]:
        _refuse_tangents(dtarget, dlogdet)
        source, target, label, *tensors = ctx.saved_tensors
        dsource, grads = vjp(source, target, dtarget, dlogdet, tensors, ctx.module._number, label)
        return dsource, _split(ctx.module, grads), None, None
    return backward


def _save_loss(ctx: Any, inputs: tuple[Any, ...], output: Triple) -> None:
    ctx.module = _number_to_module(inputs[2])
    ctx.save_for_backward(output[1])
    ctx.set_materialize_grads(False)


def _loss_derivative(ctx: Any, dloss: torch.Tensor, *_: Any) -> tuple[Any, ...]:
    (grads,) = ctx.saved_tensors
    return None, _split(ctx.module, grads * dloss.to(grads.dtype)), None, None, None


def _refuse(ctx: Any, *_: Any) -> None:
    raise NotImplementedError("[FlowModule] expected first derivatives, got a derivative of a gradient "
                              "(create_graph=True): second derivatives of a flow are not offered")


_forward.register_autograd(_derivative(_forward_vjp), setup_context=_save)
_inverse.register_autograd(_derivative(_inverse_vjp), setup_context=_save)
_loss.register_autograd(_loss_derivative, setup_context=_save_loss)
for _vjp in (_forward_vjp, _inverse_vjp):
    _vjp.register_fake(_fake_vjp)
    _vjp.register_autograd(_refuse)
