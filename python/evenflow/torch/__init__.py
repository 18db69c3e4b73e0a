"""A flow as a torch module: torch's parameters are the flow's own memory, and autograd runs its kernels.

    module = FlowModule(flow)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    loss = -module.log_prob(x).mean()
    loss.backward()
    optimizer.step()                               # updates flow.params in place
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any, cast

import numpy as np

from evenflow._border import arrays, checks
from evenflow.density import check_flow
from evenflow.errors import ConfigError, DeviceError, ShapeError
from evenflow.flow import Flow
from evenflow.torch.operators import MODULES, NUMBERS, TRAINED, Loss, device_of, refuse_tangents, replaced, tensor_of
from evenflow._border.weights import check_weights

import torch  # isort: skip  # after torch_operators, which says what is missing


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
                                "device=...; modules declared before this one have moved already")
        parameters, buffers = self._parameters, self._buffers
        self._parameters = {name: parameter for name, parameter in parameters.items() if name not in self._own}
        self._buffers = {name: buffer for name, buffer in buffers.items() if name not in self._own}
        try:
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        finally:
            self._parameters, self._buffers = {**parameters, **self._parameters}, {**buffers, **self._buffers}
        return self


class FlowModule(_Scope):
    """A flow as an nn.Module: autograd through log_prob, forward and inverse, with any torch optimiser.

    Parameters
    ----------
    flow : Flow
        The model, initialised before the first call.
    channels : str
        Order of images' axes: "last" for (N, H, W, C), "first" for (N, C, H, W). Either is used without a copy if
        channels are innermost in memory: a contiguous NHWC tensor, or NCHW in torch.channels_last.
    flat : bool
        One parameter, `params`, which is `flow.params` with its padding, in place of one for each tensor: optimisers,
        clipping and copies of the state then take microseconds. Buffers are `stats` and `fixed`.

    Notes
    -----

    Parameters and buffers have the names of `flow.named_parameters()`, unless `flat`, and share its memory: an
    optimiser step or load_state_dict changes the flow, and whatever changes the flow changes the module. Gradients are
    torch's (parameter.grad); flow.grads is left as it was. Tensors are where the flow computes and stay there,
    on the CPU or the flow's GPU, in the flow's dtype; other floats are converted. Labels may be on any device
    but meta; a context (N, C), or (C,) for all, is a tensor like x, and gets gradients. z is (N, D);
    log-determinants and log-densities are (N,) float64.

    Derivatives are of first order and by backward: a derivative of a gradient, and a tensor with a tangent
    (torch.func.jvp), is a NotImplementedError. Running statistics (batch norm) count as constants, except in
    `loss`. Errors are those of Flow; ConfigError where the flow's tensors in the module were replaced
    (functional_call, load_state_dict(assign=True)).

    A subclass may have more attributes, parameters and submodules. deepcopy and pickle copy them and the flow.
    """

    def __init__(self, flow: Flow, channels: str = "last", flat: bool = False):
        super().__init__()
        self.flow = check_flow("FlowModule", flow)
        self.channels = checks.choice("FlowModule", "channels", channels, ("last", "first"))
        self._dtype, self._first = getattr(torch, flow.dtype.name), flow.is_image and self.channels == "first"
        self._places = {}
        entries = _groups(flow) if checks.flag("FlowModule", "flat", flat) else flow.entries()
        self._taken = frozenset(name.partition(".")[0] for name, *_ in entries)
        for name in self._taken:
            if hasattr(self, name):
                raise self._has_another(name)
        self._holders: list[tuple[_Scope | None, str]] = []
        """Where the tensors of _places are, None: here, so that there is no cycle. Looking names up in the tree takes
        longer than a row's products.
        """
        with torch.inference_mode(False), torch.device("cpu"):
            for name, shape, group, offset, size in entries:
                self._places[name] = shape, group, offset, size
                self._register(name, torch.empty(0, dtype=self._dtype), trained=group in TRAINED)
        self._bind()

    def __setattr__(self, name: str, value: Any) -> None:
        # A scope's tensors would be in no state_dict any more. Of a tensor in another's place (assign=True) calls tell.
        if name in self.__dict__.get("_taken", ()) and not (name in self._own and isinstance(value, torch.Tensor)):
            raise self._has_another(name)
        super().__setattr__(name, value)

    def _has_another(self, name: str) -> ConfigError:
        return ConfigError(f"[FlowModule] expected another name than {name} for an attribute of {type(self).__name__}, "
                           f"since the flow's own tensors have it, got {name}")

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
        self._device = device_of(self.flow)
        self._base = str(self.flow._core.base)  # torch 2.4 can't compile the question
        with torch.inference_mode(False):  # whose tensors no later training could use
            self._bind_tensors()

    def _bind_tensors(self) -> None:
        values = self.flow._core.values if self.flow.device == "cpu" else self.flow._core.device_values
        self._statistics = tensor_of(values[self.flow._statistics])
        places = zip(self._holders, self._tensors(), self._places.values())
        for (holder, last), tensor, (shape, _, offset, size) in places:
            memory, at = tensor_of(values[offset:offset + size]).view(shape), self if holder is None else holder
            if not tensor.is_inference():
                tensor.data = memory
            elif last in at._parameters:  # copied in inference mode
                at._parameters[last] = torch.nn.Parameter(memory, tensor.requires_grad)
            else:
                at._buffers[last] = memory
        self._addresses = [tensor.data_ptr() for tensor in self._tensors()]
        self._number = next(NUMBERS)
        MODULES[self._number] = self

    def __setstate__(self, state: dict[str, Any]) -> None:
        """For deepcopy and pickle: the flow comes as a copy, and the tensors as copies of their own."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._bind()

    def _tensors(self, *inputs: torch.Tensor | None) -> list[torch.Tensor]:
        """The flow's parameters and buffers, whatever others the module has, for an operator that takes `inputs`."""
        tensors: list[torch.Tensor] = []
        for holder, last in self._holders:
            at = self if holder is None else holder
            tensor: torch.Tensor | None = at._parameters.get(last)
            tensor = at._buffers.get(last) if tensor is None else tensor
            if tensor is None:
                raise replaced()
            tensors.append(tensor)
        refuse_tangents(*(x for x in inputs if x is not None), *tensors)
        return tensors

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        ForkingPickler.register(cls, _by_value)

    def extra_repr(self) -> str:
        return f"{self.flow!r}, channels={self.channels!r}"

    # Density, latents, samples

    def forward(self, x: torch.Tensor, *, label: Any = None,
                context: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps data x to latents z (N, D) and logdet (N,) = log |det dz/dx|; uint8 images get no noise.

        label and context are as in `Flow.forward`.
        """
        return self._latents("forward", x, None, label, context)

    def _latents(self, where: str, x: torch.Tensor, seed: torch.Tensor | None, label: Any,
                 context: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """forward for the call `where`, whose name is in errors."""
        x = self._channels_last(self._noisy(where, x, seed))
        given = self._given(where, label, context, len(x))
        z, logdet = torch.ops.evenflow.forward(x, self._tensors(x, given), self._number, given, where)
        return z, logdet

    def inverse(self, z: torch.Tensor, *, label: Any = None,
                context: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps latents z (N, D) to data x and logdet (N,) = log |det dx/dz|.

        Differentiable in z, the context and the parameters, so x of z = base_sample(n) is a reparametrised sample.
        """
        self._check("inverse", z, (self.flow.dims,))
        if not z.is_floating_point():
            raise TypeError(f"[inverse] expected float values, got {z.dtype}")
        z = z.to(self._dtype)
        given = self._given("inverse", label, context, len(z))
        x, logdet = torch.ops.evenflow.inverse(z, self._tensors(z, given), self._number, given)
        return self._output(x), logdet

    def base_sample(self, n: int) -> torch.Tensor:
        """Draws n latents z (n, D) from the base distribution, by torch's generator on the flow's device."""
        shape = checks.whole("base_sample", "n", n, low=0), self.flow.dims
        if self._base == "gaussian":
            return torch.randn(shape, dtype=self._dtype, device=self._device)
        if self._base == "uniform":
            return torch.rand(shape, dtype=self._dtype, device=self._device)
        tiny = torch.finfo(torch.float64).tiny
        u = torch.rand(shape, dtype=torch.float64, device=self._device).clamp_(min=tiny)
        return (u.log() - torch.log1p(-u)).to(self._dtype)

    def base_log_prob(self, z: torch.Tensor) -> torch.Tensor:
        """Log density (N,) float64 of latents z (N, D) under the base distribution, in nats.

        NaN and infinity go through: looking for them would wait for the GPU, and break a compiled graph.
        """
        self._check("base_log_prob", z, (self.flow.dims,))
        if not z.is_floating_point():
            raise TypeError(f"[base_log_prob] expected float values, got {z.dtype}")
        z = z.double()
        if self._base == "uniform":
            return torch.where(((z >= 0) & (z <= 1)).all(1), 0.0, -math.inf).double()
        if self._base == "logistic":
            # Not softplus, which is z itself above 20.
            return (torch.nn.functional.logsigmoid(z) + torch.nn.functional.logsigmoid(-z)).sum(1)
        return -0.5 * (z * z).sum(1) - 0.5 * math.log(2 * math.pi) * z.shape[1]

    def log_prob(self, x: torch.Tensor, *, label: Any = None, context: torch.Tensor | None = None,
                 seed: int = 0) -> torch.Tensor:
        """Log density of each row, (N,) float64, in nats, in the units of x.

        Parameters are those of `Flow.log_prob`.
        """
        z, logdet = self._latents("log_prob", x, _seed("log_prob", seed), label, context)
        return self.base_log_prob(z) + logdet

    def loss(self, x: torch.Tensor, *, label: Any = None, context: torch.Tensor | None = None,
             seed: int | None = None, sample_weight: Any = None, reduction: str = "mean") -> torch.Tensor:
        """Negative log-likelihood, for training: `Flow.loss_and_grad` under autograd.

        This is the fastest way to train, with the guard against drift: the gradient by parameters and context is
        computed at once, and backward only scales it. Batch norm uses the batch's moments and updates its running
        statistics. No gradient reaches x or the weights.

        Parameters
        ----------
        x, label, context
            As in `log_prob`.
        seed : int, optional
            For the noise of uint8 images and the masks of dropout. None: drawn from torch's generator on the CPU.
        sample_weight : tensor or array_like, (N,), optional
            Factors >= 0 on the rows' terms. The sum is still divided by N.
        reduction : str
            "mean", or "none" for each row's own. Their gradient is that of the mean where they count alike, as in a
            mean or sum of them; another one, which must not be negative, takes a second pass.

        Returns
        -------
        tensor of float64, (), or (N,) for "none"
            Nats a sample.
        """
        rows = checks.choice("loss", "reduction", reduction, ("mean", "none")) == "none"
        if rows and sample_weight is not None:
            raise ConfigError('[loss] expected no sample_weight with reduction="none", got one; multiply the losses')
        if rows and self.flow._config.get("class_weight"):
            raise ConfigError('[loss] expected reduction="mean" for a model with a class head, got "none"')
        x = self._channels_last(self._converted("loss", x))
        if sample_weight is not None and not isinstance(sample_weight, torch.Tensor):
            sample_weight = torch.from_numpy(cast(np.ndarray, check_weights("loss", sample_weight, len(x))))
        for name, tensor in (("x", x), ("sample_weight", sample_weight)):
            if torch.is_grad_enabled() and tensor is not None and tensor.requires_grad:
                raise ConfigError(f"[loss] expected {name} without requires_grad, got one with it; use log_prob")
        random = x.dtype == torch.uint8 or self.flow._config.get("dropout")
        noise = None if seed is None and not random else _seed("loss", seed)
        loss: torch.Tensor
        given = self._given("loss", label, context, len(x))
        tensors, start = self._tensors(x, given, sample_weight), self.flow._statistics.start
        if torch.compiler.is_compiling():
            loss, _, statistics, _ = torch.ops.evenflow.loss(x, tensors, self._number, given, noise, sample_weight,
                                                             rows)
        else:
            loss, _, statistics, _ = Loss.apply(  # type: ignore[no-untyped-call]
                x, self._number, given, noise, sample_weight, rows, *tensors)
        with torch.no_grad():  # here, and not in the operator, so that torch knows of it
            for buffer, (shape, group, offset, size) in zip(tensors, self._places.values()):
                if group == "stats":
                    buffer.copy_(statistics[offset - start:offset - start + size].view(shape))
        return loss

    def sample(self, n: int, *, label: Any = None, context: torch.Tensor | None = None, seed: int | None = None,
               temperature: float = 1.0) -> torch.Tensor:
        """Draws n samples without gradient; images are in level units.

        Parameters are those of `Flow.sample`, but seed=None draws the seed from torch's generator on the CPU. For
        samples with a gradient use `inverse(base_sample(n))`.
        """
        if not torch.compiler.is_compiling():  # where numbers may be symbols; the flow looks at them again
            n = checks.whole("sample", "n", n, low=0)
            temperature = checks.number("sample", "temperature", temperature, 0.0)
        with torch.no_grad():
            given = self._given("sample", label, context, n)
            heat = torch.full((), temperature, dtype=torch.float64)
            x = torch.ops.evenflow.sample(self._tensors(given), self._number, n, heat, _seed("sample", seed), given)
        return self._output(x)

    # Tensors at the border

    def _given(self, where: str, label: Any, context: torch.Tensor | None, n: int) -> torch.Tensor | None:
        """What the density of n samples is conditioned on: labels, or a context (n, C) in the flow's dtype."""
        size = self.flow.context
        if not size or context is None:
            if context is not None:
                raise ConfigError(f"[{where}] a context was given, but the model has none")
            if size:
                got = "none" if label is None else "a label; a context goes by name, context=..."
                raise ConfigError(f"[{where}] expected a context of {size} numbers a sample, got {got}")
            return _label(where, label)
        arrays.check_labels(where, label, n, 0)
        where = f"{where}, context"
        self._check(where, context)
        if context.is_complex() or context.dtype == torch.bool:
            raise TypeError(f"[{where}] expected numbers, got {context.dtype}")
        if size == 1 and tuple(context.shape) == (n,):
            context = context[:, None]
        shape = tuple(context.shape)
        if shape not in ((size,), (n, size)):
            raise ShapeError(f"[{where}] expected ({n}, {size}), or ({size},) for all samples, got {shape}")
        return context.to(self._dtype).expand(n, size)

    def _shape(self) -> tuple[int, ...]:
        shape = self.flow.shape
        return (shape[2], shape[0], shape[1]) if self._first else shape

    def _check(self, where: str, x: Any, shape: tuple[int, ...] | None = None) -> None:
        """A plain tensor where the flow computes, (N, *shape) if that is said."""
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"[{where}] expected a torch tensor, got {type(x).__name__}")
        _refuse_layouts(where, x)
        if x.device != self._device:
            raise DeviceError(f"[{where}] expected a tensor on {self._device}, where the flow computes, "
                              f"got one on {x.device}")
        if shape is not None and (x.dim() != 1 + len(shape) or tuple(x.shape[1:]) != shape):
            raise ShapeError(f"[{where}] expected {arrays.batch_shape(shape)}, got {tuple(x.shape)}")

    def _noisy(self, where: str, x: torch.Tensor, seed: torch.Tensor | None) -> torch.Tensor:
        """x as floats of the flow's dtype, in the user's order of axes; uint8 images are dequantised."""
        x = self._converted(where, x)
        if x.dtype != torch.uint8:
            return x
        return self._output(torch.ops.evenflow.dequantize(self._channels_last(x), self._number, seed))

    def _converted(self, where: str, x: torch.Tensor) -> torch.Tensor:
        """Floats x in the flow's dtype, uint8 images as they are."""
        self._check(where, x, self._shape())
        if x.dtype == torch.uint8 and self.flow.is_image:
            return x
        if not x.is_floating_point():
            wanted = "uint8 or float values" if self.flow.is_image else "float values"
            raise TypeError(f"[{where}] expected {wanted}, got {x.dtype}")
        return x.to(self._dtype)

    def _channels_last(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 3, 1) if self._first else x

    def _output(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 3, 1, 2) if self._first else x


def _groups(flow: Flow) -> list[tuple[str, tuple[int, ...], str, int, int]]:
    """What `flow.entries` gives, for all trained tensors as one, all statistics and all that is fixed."""
    found: list[tuple[str, tuple[int, ...], str, int, int]]
    found = [("params", (len(flow.params),), TRAINED[0], 0, len(flow.params))]
    for name in ("stats", "fixed"):
        places = [(offset, offset + size) for _, _, group, offset, size in flow.entries() if group == name]
        if places:
            first, end = min(places)[0], max(end for _, end in places)
            found.append((name, (end - first,), name, first, end - first))
    return found


def _by_value(module: FlowModule) -> tuple[Any, ...]:
    """For another process: torch's way would move the tensors into shared memory here, and out of the flow's."""
    return pickle.loads, (pickle.dumps(module),)


ForkingPickler.register(FlowModule, _by_value)


def _seed(where: str, seed: int | None) -> torch.Tensor:
    """A seed for an operator, as a tensor: torch.compile would compile anew for every number. None: a drawn one."""
    if seed is None:
        return torch.randint(2**63 - 1, (), device="cpu")
    if isinstance(seed, (torch.Tensor, np.ndarray)) and seed.ndim:
        raise TypeError(f"[{where}] expected a whole number for seed, got an array {tuple(seed.shape)}; labels and "
                        "contexts go by name, label=... or context=...")
    if not torch.compiler.is_compiling():  # where it may be a symbol
        seed = checks.whole(where, "seed", seed, low=0, high=2**63 - 1)
    return torch.full((), seed, dtype=torch.int64)


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
