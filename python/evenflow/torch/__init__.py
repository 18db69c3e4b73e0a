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
from evenflow._border.weights import check_weights
from evenflow.density import check_flow
from evenflow.errors import ConfigError, DeviceError, ShapeError, wrong
from evenflow.flow import Flow
from evenflow.torch.operators import TRAINED, Loss, Memory, Transform, replaced, sample

import torch  # isort: skip  # after operators, which says what is missing


class _Scope(torch.nn.Module):
    """A place in the tree of parameter names."""


class FlowModule(torch.nn.Module):
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
    (torch.func.jvp), is a RuntimeError. Running statistics (batch norm) count as constants, except in
    `loss`. Errors are those of Flow; ConfigError where the flow's tensors in the module were replaced
    (functional_call, load_state_dict(assign=True)), or changed between forward and backward.

    A subclass may have more attributes, parameters and submodules. deepcopy and pickle copy them and the flow.

    See Also
    --------
    evenflow.Flow.log_prob_and_grad : Gradients without torch.

    Examples
    --------
    >>> import torch
    >>> x, _ = ef.data.two_moons(500, seed=0)
    >>> flow = ef.CouplingFlow(2)
    >>> flow.init(x)
    >>> module = FlowModule(flow)
    >>> loss = module.loss(torch.tensor(x, dtype=torch.float32))
    >>> loss.backward()
    >>> all(parameter.grad is not None for parameter in module.parameters())
    True
    """

    @torch.inference_mode(False)  # whose tensors no training could use
    def __init__(self, flow: Flow, channels: str = "last", flat: bool = False):
        super().__init__()
        self.flow = check_flow("FlowModule", flow)
        self.channels = checks.choice("FlowModule", "channels", channels, ("last", "first"))
        self._first = flow.is_image and self.channels == "first"
        config = flow.config
        self._random, self._head = bool(config.get("dropout")), bool(config.get("class_weight"))
        self._memory = Memory(flow, checks.flag("FlowModule", "flat", flat))
        self._holders: list[tuple[dict[str, Any], str]] = []
        """Where the tensors are, since looking names up in the tree takes longer than a row's products."""
        for (name, _, group, *_), tensor in zip(self._memory.places, self._memory.views()):
            *path, last = name.split(".")
            at: torch.nn.Module = self
            for part in path:
                if part not in at._modules:
                    at.add_module(part, _Scope())
                at = at.get_submodule(part)
            if group in TRAINED:
                at.register_parameter(last, torch.nn.Parameter(tensor))
            else:
                at.register_buffer(last, tensor)
            self._holders.append((cast(Any, at._parameters if group in TRAINED else at._buffers), last))
        self._bind()

    @torch.inference_mode(False)
    def _bind(self) -> None:
        """Puts the flow's tensors, which may be copies, into its memory."""
        for (holder, name), memory in zip(self._holders, self._memory.views()):
            tensor = holder[name]
            if not tensor.is_inference():
                tensor.data = memory
            elif isinstance(tensor, torch.nn.Parameter):  # a copy that was made in inference mode
                holder[name] = torch.nn.Parameter(memory, tensor.requires_grad)
            else:
                holder[name] = memory
        self._memory.addresses = [tensor.data_ptr() for tensor in self._tensors()]
        ForkingPickler.register(type(self), _by_value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """For deepcopy and pickle: the flow comes as a copy, and the tensors as copies of their own."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._bind()

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> FlowModule:
        probe = torch.empty(0, dtype=self._memory.dtype, device=self._memory.device)
        moved = fn(probe)
        if moved is not probe or (moved.is_shared() and not moved.is_cuda):
            raise TypeError(f"[FlowModule] expected the model's own memory, {probe.dtype} on {probe.device}, "
                            f"got a move to {moved.dtype} on {moved.device}; make the flow with dtype=..., "
                            "device=...; modules declared before this one have moved already")
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._bind()  # an order of axes (memory_format) is a move too
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        # The flow's tensors below would be in no state_dict any more. Of a tensor that is replaced, calls tell.
        if isinstance(self.__dict__.get("_modules", {}).get(name), _Scope):
            raise wrong(ConfigError, "FlowModule", name, f"expected another name than {name} for an attribute of "
                        f"{type(self).__name__}, since the flow's own tensors have it, got {name}")
        super().__setattr__(name, value)

    def _tensors(self) -> list[torch.Tensor]:
        """The flow's parameters and buffers, whatever others the module has."""
        tensors: list[Any] = [holder.get(name) for holder, name in self._holders]
        if any(tensor is None for tensor in tensors):
            raise replaced()
        return tensors

    def extra_repr(self) -> str:
        return f"{self.flow!r}, channels={self.channels!r}"

    # Density, latents, samples

    def forward(self, x: torch.Tensor, *, label: Any = None,
                context: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps data x to latents z (N, D) and logdet (N,) = log |det dz/dx|; uint8 images get no noise.

        label and context are as in `Flow.forward`.
        """
        return self._transform("forward", self._data("forward", x), label, context)

    def inverse(self, z: torch.Tensor, *, label: Any = None,
                context: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps latents z (N, D) to data x and logdet (N,) = log |det dx/dz|.

        Differentiable in z, the context and the parameters, so x of z = base_sample(n) is a reparametrised sample.
        """
        x, logdet = self._transform("inverse", self._latents("inverse", z).to(self._memory.dtype), label, context)
        return self._output(x), logdet

    def _transform(self, where: str, x: torch.Tensor, label: Any, context: Any,
                   seed: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        given = self._given(where, label, context, len(x))
        found: tuple[torch.Tensor, torch.Tensor] = Transform.apply(  # type: ignore[no-untyped-call]
            self._memory, where, torch.is_grad_enabled(), x, *given, seed, *self._tensors())
        return found

    def base_sample(self, n: int) -> torch.Tensor:
        """Draws n latents z (n, D) from the base distribution, by torch's generator on the flow's device."""
        memory, shape = self._memory, (checks.whole("base_sample", "n", n, low=0), self.flow.dims)
        if memory.base == "gaussian":
            return torch.randn(shape, dtype=memory.dtype, device=memory.device)
        if memory.base == "uniform":
            return torch.rand(shape, dtype=memory.dtype, device=memory.device)
        tiny = torch.finfo(torch.float64).tiny
        u = torch.rand(shape, dtype=torch.float64, device=memory.device).clamp_(min=tiny)
        return (u.log() - torch.log1p(-u)).to(memory.dtype)

    def base_log_prob(self, z: torch.Tensor) -> torch.Tensor:
        """Log density (N,) float64 of latents z (N, D) under the base distribution, in nats.

        NaN and infinity go through: looking for them would wait for the GPU, and break a compiled graph.
        """
        z = self._latents("base_log_prob", z).double()
        if self._memory.base == "uniform":
            return torch.where(((z >= 0) & (z <= 1)).all(1), 0.0, -math.inf).double()
        if self._memory.base == "logistic":
            # Not softplus, which is z itself above 20.
            return (torch.nn.functional.logsigmoid(z) + torch.nn.functional.logsigmoid(-z)).sum(1)
        return -0.5 * (z * z).sum(1) - 0.5 * math.log(2 * math.pi) * z.shape[1]

    def log_prob(self, x: torch.Tensor, *, label: Any = None, context: torch.Tensor | None = None,
                 seed: int = 0) -> torch.Tensor:
        """Log density of each row, (N,) float64, in nats, in the units of x.

        Parameters are those of `Flow.log_prob`.
        """
        z, logdet = self._transform("log_prob", self._data("log_prob", x), label, context, _seed("log_prob", seed))
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
            raise wrong(ConfigError, "loss", "sample_weight", 'expected no sample_weight with reduction="none", got '
                        "one; multiply the losses")
        if rows and self._head:
            raise wrong(ConfigError, "loss", "reduction", 'expected "mean" for a model with a class head, got "none"')
        x = self._data("loss", x)
        if sample_weight is not None and not isinstance(sample_weight, torch.Tensor):
            sample_weight = torch.from_numpy(cast(np.ndarray, check_weights("loss", sample_weight, len(x))))
        for name, tensor in (("x", x), ("sample_weight", sample_weight)):
            if torch.is_grad_enabled() and tensor is not None and tensor.requires_grad:
                raise wrong(ConfigError, "loss", name, f"expected {name} without requires_grad, got one with it; use "
                            "log_prob")
        noise = None if seed is None and not (self._random or x.dtype == torch.uint8) else _seed("loss", seed)
        tensors = self._tensors()
        loss: torch.Tensor
        loss, statistics = Loss.apply(  # type: ignore[no-untyped-call]
            self._memory, x, *self._given("loss", label, context, len(x)), noise, sample_weight, rows, *tensors)
        with torch.no_grad():  # here, and not in the operator, so that torch knows of it
            for i, shape, at in self._memory.moments:
                tensors[i].copy_(statistics[at].view(shape))
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
            heat = torch.full((), temperature, dtype=torch.float64, device="cpu")
            return self._output(sample(self._tensors(), self._memory.number, n, heat, _seed("sample", seed),
                                       *self._given("sample", label, context, n)))

    # Tensors at the border

    def _check(self, where: str, name: str, x: Any, shape: tuple[int, ...] | None = None) -> None:
        """A tensor of numbers where the flow computes, (N, *shape) if that is said."""
        if not isinstance(x, torch.Tensor):
            raise wrong(TypeError, where, name, f"expected a torch tensor, got {type(x).__name__}")
        _check_dense(where, name, x)
        if x.device != self._memory.device:
            raise wrong(DeviceError, where, name, f"expected a tensor on {self._memory.device}, where the flow "
                        f"computes, got one on {x.device}")
        if shape is not None and (x.dim() != 1 + len(shape) or tuple(x.shape[1:]) != shape):
            raise wrong(ShapeError, where, name, f"expected {arrays.batch_shape(shape)}, got {tuple(x.shape)}")

    def _floats(self, where: str, name: str, x: torch.Tensor, shape: tuple[int, ...], image: bool = False) -> None:
        self._check(where, name, x, shape)
        if not (x.is_floating_point() or (image and x.dtype == torch.uint8)):
            raise wrong(TypeError, where, name, f"expected {'uint8 or ' * image}float values, got {x.dtype}")

    def _data(self, where: str, x: torch.Tensor) -> torch.Tensor:
        """Floats x in the flow's dtype, uint8 images as they are, channels last."""
        shape = self.flow.shape
        self._floats(where, "x", x, (shape[2], shape[0], shape[1]) if self._first else shape, self.flow.is_image)
        x = x.to(self._memory.dtype) if x.is_floating_point() else x
        return x.permute(0, 2, 3, 1) if self._first else x

    def _latents(self, where: str, z: torch.Tensor) -> torch.Tensor:
        self._floats(where, "z", z, (self.flow.dims,))
        return z

    def _given(self, where: str, label: Any, context: torch.Tensor | None,
               n: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Labels, whose values are checked where they are used, and a context (n, C) in the flow's dtype."""
        if label is not None:
            if not isinstance(label, torch.Tensor):
                compiling = torch.compiler.is_compiling()
                label = torch.as_tensor(label if compiling else arrays.as_numbers(where, "label", label))
            _check_dense(where, "label", label)
            if label.is_meta or label.dtype in (torch.bool, torch.bfloat16):
                raise wrong(TypeError, where, "label", f"expected whole numbers as labels, got {label.dtype} on "
                                                       f"{label.device}")
        size = self.flow.context
        if context is None or not size:
            return label, context
        self._check(f"{where}, context", "context", context)
        if context.is_complex() or context.dtype == torch.bool:
            raise wrong(TypeError, f"{where}, context", "context", f"expected numbers, got {context.dtype}")
        if size == 1 and tuple(context.shape) == (n,):
            context = context[:, None]
        if tuple(context.shape) not in ((size,), (n, size)):
            raise wrong(ShapeError, f"{where}, context", "context", f"expected ({n}, {size}), or ({size},) for all "
                        f"samples, got {tuple(context.shape)}")
        return label, context.to(self._memory.dtype).expand(n, size)

    def _output(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 3, 1, 2) if self._first else x


def _check_dense(where: str, name: str, x: torch.Tensor) -> None:
    if x.layout != torch.strided or x.is_nested:
        got = "nested" if x.is_nested else x.layout
        raise wrong(TypeError, where, name, f"expected a dense tensor, got a {got} one")


def _by_value(module: FlowModule) -> tuple[Any, ...]:
    """For another process: torch's way would move the tensors into shared memory here, and out of the flow's."""
    return pickle.loads, (pickle.dumps(module),)


def _seed(where: str, seed: int | None) -> torch.Tensor:
    """A seed for an operator, as a tensor: torch.compile would compile anew for every number. None: a drawn one."""
    if seed is None:
        return torch.randint(2**63 - 1, (), device="cpu")
    if not torch.compiler.is_compiling():  # where it may be a symbol
        seed = checks.whole(where, "seed", seed, low=0, high=2**63 - 1)
    return torch.full((), seed, dtype=torch.int64, device="cpu")
