"""Optimisers, gradient clipping, the moving average of parameters, and the learning-rate schedule."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from collections.abc import Iterator
from typing import NoReturn

import numpy as np

from evenflow import _core
from evenflow.arrays import flag, memory_for, number, whole
from evenflow.errors import ConfigError
from evenflow.flow import Flow, check_flow


class Optimizer:
    """A first-order update of all trained values, one fused pass a step; use Adam, Adamax, SGD or RMSProp.

    lr may be changed between steps. weight_decay adds weight_decay * value to the gradients of the tensors
    that the model marks for it; shrink multiplies every trained value before the step (Glow's weight decay;
    1: off). In float32 Adam and RMSProp take a gradient beyond 2^63 for that, since its square must be finite. A
    gradient whose norm is not finite in float64 is refused.
    ConfigError for a setting that is negative or not finite, for an eps that is 0 in the flow's dtype and a decaying
    factor that is 1, TypeError for what is no number.
    """

    def __init__(self, flow: Flow, rule: str, *, lr: float, momentum: float = 0.0, beta1: float = 0.9,
                 beta2: float = 0.999, decay: float = 0.95, eps: float = 1e-8, weight_decay: float = 0.0,
                 shrink: float = 1.0):
        self.flow = check_flow("optimizer", flow)
        make = _core.Optimizer32 if flow.dtype == np.float32 else _core.Optimizer64
        settings = dict(lr=lr, momentum=momentum, beta1=beta1, beta2=beta2, decay=decay, eps=eps,
                        weight_decay=weight_decay, shrink=shrink)
        with memory_for("optimizer", "its state"):
            self._core = make(flow._core, rule, **{name: number("optimizer", name, value, 0.0)
                                                   for name, value in settings.items()})

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return self._core.lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._core.lr = number("optimizer", "lr", value, 0.0)

    @property
    def steps(self) -> int:
        """Steps taken."""
        return self._core.steps

    @steps.setter
    def steps(self, value: int) -> None:
        self._core.steps = whole("optimizer", "steps", value, low=0)

    def __reduce__(self) -> NoReturn:
        """No copies and no pickles: moments are of no use without the flow's memory, which a copy has not."""
        raise TypeError(f"[optimizer] expected no copy of {type(self).__name__}, which updates the memory of "
                        "one flow, got one; make a new one for the copied flow, and set its steps and moments()")

    def moments(self) -> list[np.ndarray]:
        """The state besides `steps`: writable flat views, in the layout of `flow.params`."""
        return self._core.moments()

    def step(self) -> None:
        """Updates the values from `flow.grads`, which stay as they are.

        NumericError, with the tensor's name, where a gradient is not finite; nothing is changed then.
        """
        self._core.step()


class Adam(Optimizer):
    """Adam (Kingma, Ba 2014), bias correction on the step size, as in its section 2 and in Glow's code.

    value -= lr sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + eps): torch's Adam with
    eps / sqrt(1 - beta2^t) for eps.
    """

    def __init__(self, flow: Flow, lr: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999,
                 eps: float = 1e-8, weight_decay: float = 0.0, shrink: float = 1.0):
        super().__init__(flow, "adam", lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay,
                         shrink=shrink)


class Adamax(Optimizer):
    """Adamax as Glow's code has it: decayed infinity norm, with Adam's bias correction on the step size."""

    def __init__(self, flow: Flow, lr: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999,
                 eps: float = 1e-8, weight_decay: float = 0.0, shrink: float = 1.0):
        super().__init__(flow, "adamax", lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay,
                         shrink=shrink)


class SGD(Optimizer):
    """v = momentum v - lr g; value += v."""

    def __init__(self, flow: Flow, lr: float = 1e-3, momentum: float = 0.0, weight_decay: float = 0.0,
                 shrink: float = 1.0):
        super().__init__(flow, "sgd", lr=lr, momentum=momentum, weight_decay=weight_decay, shrink=shrink)


class RMSProp(Optimizer):
    """RMSProp with momentum, as NICE's code has it.

    v = momentum v - lr g / max(sqrt(mean square of g), eps); value += v.
    """

    def __init__(self, flow: Flow, lr: float = 1e-3, decay: float = 0.95, momentum: float = 0.0,
                 eps: float = 1e-2, weight_decay: float = 0.0, shrink: float = 1.0):
        super().__init__(flow, "rmsprop", lr=lr, decay=decay, momentum=momentum, eps=eps,
                         weight_decay=weight_decay, shrink=shrink)


OPTIMIZERS = {"adam": Adam, "adamax": Adamax, "sgd": SGD, "rmsprop": RMSProp}


def clip_grad_norm(flow: Flow, max_norm: float) -> float:
    """L2 norm over all gradients, which are scaled down to max_norm where it is larger. 0 only measures.

    NumericError, with the tensor's name, where a gradient is not finite; ConfigError for a negative max_norm.
    """
    check_flow("clip_grad_norm", flow)
    return _core.clip_grad_norm(flow._core, number("clip_grad_norm", "max_norm", max_norm, 0.0))


class MovingAverage:
    """Exponential moving average of a model's values, running statistics included.

    average += (1 - decay) (values - average), a step. Without zero_debias the average starts at the present
    values; with it, at the first ones it takes, and step t moves it by (1 - decay) / (1 - decay^t) instead: so an
    average that starts at zero would be, divided by 1 - decay^t, and early values don't linger. ConfigError
    unless 0 <= decay < 1, TypeError for what is no number or no flag.
    """

    def __init__(self, flow: Flow, decay: float = 0.999, zero_debias: bool = False):
        if number("MovingAverage", "decay", decay, 0.0, 1.0) == 1.0:
            raise ConfigError("[MovingAverage] expected decay below 1, got 1")
        self.flow, self.decay = check_flow("MovingAverage", flow), float(decay)
        self.zero_debias = flag("MovingAverage", "zero_debias", zero_debias)
        self.steps = 0
        values = flow._core.values
        make = _core.Average32 if values.dtype == np.float32 else _core.Average64
        with memory_for("MovingAverage", "its values"):
            self._core = make(flow._core)
        if not self.zero_debias:
            self.average[:] = values
        # Tensors of the fixed group (permutations, signs) are never averaged: they come last in the layout.
        self._fixed = min((offset for _, _, group, offset, _ in flow.entries() if group == "fixed"),
                          default=len(values))

    @property
    def average(self) -> np.ndarray:
        """The average, (total,), where the flow's device has it at hand. Writable."""
        return self._core.values

    def __reduce__(self) -> NoReturn:
        """No copies and no pickles, as for optimisers."""
        raise TypeError("[MovingAverage] expected no copy, since it follows the memory of one flow, got one; "
                        "make a new one for the copied flow, and set its steps and average[:]")

    def update(self) -> None:
        """Takes the present values in; call it after each optimiser step."""
        self._core.update(self.next_decay())
        self.steps += 1

    def next_decay(self) -> float:
        """1 less what the next step moves the average by."""
        if not self.zero_debias:
            return self.decay
        return 1.0 - (1.0 - self.decay) / (1.0 - self.decay**(self.steps + 1))

    def values(self) -> np.ndarray:
        """The averaged values (total,), laid out like the model's; its own before the first update."""
        values = self.flow._core.values.copy()
        if self.steps > 0:
            values[:self._fixed] = self.average[:self._fixed]
        return values

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within the context the model holds the averaged values; afterwards its own again, bit for bit."""
        values = self.flow._core.values
        kept = values.copy()
        values[:] = self.values()
        try:
            yield
        finally:
            values[:] = kept


@dataclass(frozen=True)
class Schedule:
    """Learning rate by step: linear warm-up, then constant or exponential decay down to a floor.

    warmup: steps until the full rate; the first step already has lr / warmup.
    decay: factor a step after the warm-up (NICE: 1 / 1.0005); 1: constant.  floor: smallest decayed rate.
    ConfigError for negative ones, and a decay above 1.
    """

    lr: float = 1e-3
    warmup: int = 0
    decay: float = 1.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        # What is kept computes as Python's numbers do, and does not overflow as a numpy int8 would.
        object.__setattr__(self, "warmup", whole("Schedule", "warmup", self.warmup, low=0))
        for name, high in (("lr", math.inf), ("decay", 1.0), ("floor", math.inf)):
            object.__setattr__(self, name, number("Schedule", name, getattr(self, name), 0.0, high))

    def lr_at(self, step: int) -> float:
        """The rate of step 0, 1, ..."""
        step = whole("Schedule", "step", step, low=0)
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        return max(self.lr * self.decay**(step - self.warmup), min(self.floor, self.lr))
