"""Optimisers, gradient clipping, the moving average of parameters, and the learning-rate schedule."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from evenflow import _core
from evenflow._border import arrays
from evenflow._border.batch import Batch
from evenflow._border.checks import flag, number, whole
from evenflow.density import Density, check_flow, core_of, floats
from evenflow.errors import ConfigError, NumericError, ShapeError
from evenflow._border.names import hinted

MOST_STEPS = 2**62
"""Largest number of steps that an optimiser counts."""


class Optimizer:
    """A first-order update of all trained values, one fused pass a step: the base of Adam, AdamW, Adamax, SGD, RMSProp.

    `lr` may be changed between steps. In float32, Adam and RMSProp cut gradients at 2^63, since their square must be
    finite.

    Parameters
    ----------
    flow : Flow
        The flow to train.
    rule : str
        "adam", "adamax", "sgd" or "rmsprop".
    lr, momentum, beta1, beta2, decay, eps : float
        Settings of the rule; see the subclasses.
    weight_decay : float
        L2: adds weight_decay * value to the gradients of the tensors that the model marks for decay.
    shrink : float
        Factor on every trained value before the step; 1: none. This is weight decay in Glow's code.

    Raises
    ------
    ConfigError
        A setting is negative or not finite, eps is 0 in the flow's dtype, or a decaying factor is 1.
    TypeError
        A setting is not a number.
    """

    _decoupled = 0.0
    """Weight decay that works by `shrink`, in proportion to the learning rate."""

    def __init__(self, flow: Density, rule: str, *, lr: float, momentum: float = 0.0, beta1: float = 0.9,
                 beta2: float = 0.999, decay: float = 0.95, eps: float = 1e-8, weight_decay: float = 0.0,
                 shrink: float = 1.0):
        self.flow = check_flow("optimizer", flow)
        make = _core.Optimizer32 if flow.dtype == np.float32 else _core.Optimizer64
        settings = dict(lr=lr, momentum=momentum, beta1=beta1, beta2=beta2, decay=decay, eps=eps,
                        weight_decay=weight_decay, shrink=shrink)
        self._core = make(core_of(flow), rule, **{name: number("optimizer", name, value, 0.0)
                                                  for name, value in settings.items()})

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return self._core.lr

    @lr.setter
    def lr(self, value: float) -> None:
        lr = number("optimizer", "lr", value, 0.0)
        if lr * self._decoupled > 1:
            raise ConfigError(f"[optimizer] expected lr * weight_decay <= 1, got {lr * self._decoupled:g}")
        self._core.lr = lr
        if self._decoupled:
            self._core.shrink = 1 - lr * self._decoupled

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
                        "one flow, got one; make a new one for the copied flow, and load this one's state_dict")

    def moments(self) -> list[np.ndarray]:
        """The state besides `steps`: writable flat views, in the layout of `flow.params`."""
        return self._core.moments()

    def state_dict(self) -> dict[str, Any]:
        """A copy of the state: rule, steps, lr, and the moments, flat arrays laid out like `flow.params`."""
        return {"rule": type(self).__name__, "steps": self.steps, "lr": self.lr,
                "moments": [moment.copy() for moment in self.moments()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a `state_dict` of an optimiser of the same kind, for a flow of the same tensors.

        Parameters
        ----------
        state : dict
            rule, steps, lr and moments.

        Raises
        ------
        ShapeError
            The moments don't fit the flow.
        ConfigError, TypeError
            A number is out of range. Nothing is changed after an error.
        """
        where, own = "load_state_dict", self.moments()
        if not isinstance(state, dict) or state.keys() != {"rule", "steps", "lr", "moments"}:
            raise ConfigError(f"[{where}] this is not a state_dict of an optimiser")
        if state["rule"] != type(self).__name__:
            raise ConfigError(f"[{where}] the state is of {state['rule']}, and this is {type(self).__name__}")
        moments = [arrays.to_floats(where, arrays.as_numbers(where, "a moment", moment), self.flow.dtype)
                   for moment in list(state["moments"])]
        if [moment.shape for moment in moments] != [moment.shape for moment in own]:
            raise ShapeError(f"[{where}] expected {len(own)} moments of shape {own[0].shape}, got "
                             f"{', '.join(str(moment.shape) for moment in moments) or 'none'}")
        if len(moments) > 1 and (moments[1] < 0).any():
            raise NumericError(f"[{where}] a second moment is negative, but it is a mean of squares")
        steps = whole(where, "steps", state["steps"], low=0, high=MOST_STEPS)
        self.lr = state["lr"]
        self.steps = steps
        for moment, taken in zip(own, moments):
            moment[:] = taken

    def __repr__(self) -> str:
        return f"<{type(self).__name__}, lr={self.lr:g}, {self.steps} steps, for {type(self.flow).__name__}>"

    def step(self) -> None:
        """Updates the values from `flow.grads`, which stay as they are.

        Raises
        ------
        NumericError
            A gradient is not finite; the text names its tensor, and nothing is changed.
        """
        self._core.step()


class Adam(Optimizer):
    """Adam (Kingma, Ba 2014), with bias correction of the step size as in its section 2 and in Glow's code.

    value -= lr sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + eps), which is torch's Adam with
    eps / sqrt(1 - beta2^t) in place of eps.

    Parameters
    ----------
    flow : Flow
        The flow to train.
    lr : float
        Learning rate.
    beta1, beta2 : float
        Decay of the mean gradient and of the mean square.
    eps : float
        Added to the denominator.
    weight_decay, shrink : float
        See `Optimizer`.

    See Also
    --------
    AdamW, Adamax, SGD, RMSProp : Other optimisers.
    Flow.train_step : What takes it.
    Schedule : Learning rates by step.

    Examples
    --------
    >>> x, _ = ef.data.two_moons(1000, seed=0)
    >>> flow = ef.CouplingFlow(2)
    >>> flow.init(x)
    >>> optimizer = ef.Adam(flow, lr=1e-3)
    >>> loss = flow.loss_and_grad(x)
    >>> optimizer.step()
    >>> flow.loss_and_grad(x) < loss
    True
    """

    _rule = "adam"

    @hinted
    def __init__(self, flow: Density, lr: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999,
                 eps: float = 1e-8, weight_decay: float = 0.0, shrink: float = 1.0):
        super().__init__(flow, self._rule, lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay,
                         shrink=shrink)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov, Hutter 2019): every trained value is first multiplied by
    1 - lr * weight_decay, as in torch's AdamW. The rest is `Adam`, whose eps differs from torch's in early steps.

    Parameters
    ----------
    flow : Flow
        The flow to train.
    lr, beta1, beta2, eps : float
        As in `Adam`.
    weight_decay : float
        Decay per unit of learning rate, >= 0, of all trained values.

    Raises
    ------
    ConfigError
        A setting is out of range, or lr * weight_decay is above 1.
    """

    @hinted
    def __init__(self, flow: Density, lr: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8,
                 weight_decay: float = 0.01):
        self._decoupled = number("optimizer", "weight_decay", weight_decay, 0.0)
        super().__init__(flow, lr, beta1, beta2, eps)
        self.lr = lr


class Adamax(Adam):
    """Adamax as in Glow's code: a decayed infinity norm, with Adam's bias correction of the step size.

    Parameters are those of `Adam`; beta2 is the decay of the norm.
    """

    _rule = "adamax"


class SGD(Optimizer):
    """Gradient descent with momentum: v = momentum v - lr g; value += v.

    Parameters
    ----------
    flow : Flow
        The flow to train.
    lr, momentum : float
        Learning rate, and momentum.
    weight_decay, shrink : float
        See `Optimizer`.
    """

    @hinted
    def __init__(self, flow: Density, lr: float = 1e-3, momentum: float = 0.0, weight_decay: float = 0.0,
                 shrink: float = 1.0):
        super().__init__(flow, "sgd", lr=lr, momentum=momentum, weight_decay=weight_decay, shrink=shrink)


class RMSProp(Optimizer):
    """RMSProp with momentum, as in NICE's code: v = momentum v - lr g / max(sqrt(mean square), eps); value += v.

    Parameters
    ----------
    flow : Flow
        The flow to train.
    lr, momentum : float
        Learning rate, and momentum.
    decay : float
        Decay of the mean square.
    eps : float
        Smallest root mean square.
    weight_decay, shrink : float
        See `Optimizer`.
    """

    @hinted
    def __init__(self, flow: Density, lr: float = 1e-3, decay: float = 0.95, momentum: float = 0.0,
                 eps: float = 1e-2, weight_decay: float = 0.0, shrink: float = 1.0):
        super().__init__(flow, "rmsprop", lr=lr, decay=decay, momentum=momentum, eps=eps,
                         weight_decay=weight_decay, shrink=shrink)


OPTIMIZERS = {"adam": Adam, "adamw": AdamW, "adamax": Adamax, "sgd": SGD, "rmsprop": RMSProp}


def clip_grad_norm(flow: Density, max_norm: float) -> float:
    """Scales all gradients down to an L2 norm of max_norm, if theirs is larger.

    Parameters
    ----------
    flow : Flow
        The flow whose `grads` are clipped.
    max_norm : float
        Largest norm; 0 only measures.

    Returns
    -------
    float
        The norm before.

    Raises
    ------
    NumericError
        A gradient is not finite; the text names its tensor.
    ConfigError
        max_norm is negative.
    """
    check_flow("clip_grad_norm", flow)
    return _core.clip_grad_norm(core_of(flow), number("clip_grad_norm", "max_norm", max_norm, 0.0))


def train_step(flow: Density, batch: Batch, budget: int, seed: int, optimizer: Optimizer, clip: float,
               average: MovingAverage | None) -> float:
    """`Flow.train_step` of a checked batch. budget: bytes of activations to keep, -1: a share of the free memory."""
    core, block = core_of(flow), floats(flow, "train_step", batch.x, seed)
    if average is None:
        step = core.train_step(block, optimizer._core, batch.given, budget, clip, sample_weight=batch.weight, seed=seed)
    else:
        step = core.train_step(block, optimizer._core, batch.given, budget, clip, average._core, average.next_decay(),
                               batch.weight, seed)
        average.steps += 1
    flow.last_step = {**step}
    return step["loss"]


class MovingAverage:
    """Exponential moving average of a model's values and running statistics.

    Each update moves the average by (1 - decay) (values - average).

    Parameters
    ----------
    flow : Flow
        The flow whose values are averaged.
    decay : float
        0 <= decay < 1.
    zero_debias : bool
        False: the average starts at the present values. True: it starts at the first values that it takes, and update t
        moves it by (1 - decay) / (1 - decay^t) instead, so that early values don't linger: an average that starts at
        zero, divided by 1 - decay^t.

    Raises
    ------
    ConfigError, TypeError
        decay is out of range, or an argument has the wrong type.
    """

    @hinted
    def __init__(self, flow: Density, decay: float = 0.999, zero_debias: bool = False):
        if number("MovingAverage", "decay", decay, 0.0, 1.0) == 1.0:
            raise ConfigError("[MovingAverage] expected decay below 1, got 1")
        self.flow, self.decay = check_flow("MovingAverage", flow), float(decay)
        self.zero_debias = flag("MovingAverage", "zero_debias", zero_debias)
        self.steps = 0
        values = core_of(flow).values
        make = _core.Average32 if values.dtype == np.float32 else _core.Average64
        self._core = make(core_of(flow))
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
                        "make a new one for the copied flow, and load this one's state_dict")

    def update(self) -> None:
        """Takes the present values in; call it after each optimiser step."""
        self._core.update(self.next_decay())
        self.steps += 1

    def next_decay(self) -> float:
        """1 less what the next step moves the average by."""
        if not self.zero_debias:
            return self.decay
        return 1.0 - (1.0 - self.decay) / (1.0 - self.decay**(self.steps + 1))

    def state_dict(self) -> dict[str, Any]:
        """A copy of the average's state: steps, and the average, laid out like the model's values."""
        return {"steps": self.steps, "average": self.average.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a `state_dict` of an average of a flow of the same tensors.

        Parameters
        ----------
        state : dict
            steps and average.

        Raises
        ------
        ShapeError, ConfigError, TypeError
            The state doesn't fit. Nothing is changed.
        """
        where = "load_state_dict"
        if not isinstance(state, dict) or state.keys() != {"steps", "average"}:
            raise ConfigError(f"[{where}] this is not a state_dict of a MovingAverage")
        values = arrays.to_floats(where, arrays.as_numbers(where, "the average", state["average"]), self.flow.dtype)
        if values.shape != self.average.shape:
            raise ShapeError(f"[{where}] expected an average of shape {self.average.shape}, got {values.shape}")
        self.steps = whole(where, "steps", state["steps"], low=0)
        self.average[:] = values

    def values(self) -> np.ndarray:
        """The averaged values (total,), laid out like the model's; its own before the first update."""
        values = core_of(self.flow).values.copy()
        if self.steps > 0:
            values[:self._fixed] = self.average[:self._fixed]
        return values

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within the context the model holds the averaged values; afterwards its own again, bit for bit."""
        values = core_of(self.flow).values
        kept = values.copy()
        values[:] = self.values()
        try:
            yield
        finally:
            values[:] = kept


@dataclass(frozen=True)
class Schedule:
    """Learning rate by step: linear warm-up, then constant, exponential decay or a cosine, down to a floor.

    Parameters
    ----------
    lr : float
        Full rate.
    warmup : int
        Steps until the full rate; the first step already has lr / warmup.
    decay : float
        Factor at every step after the warm-up (NICE: 1 / 1.0005), 0 ... 1; 1: constant.
    floor : float
        Smallest rate after the warm-up.
    steps : int, optional
        With it, the rate falls along half a cosine from lr at the end of the warm-up to floor at this step.

    Raises
    ------
    ConfigError
        A setting is out of range.
    """

    lr: float = 1e-3
    warmup: int = 0
    decay: float = 1.0
    floor: float = 0.0
    steps: int | None = None

    def __post_init__(self) -> None:
        # What is kept computes as Python's numbers do, and does not overflow as a numpy int8 would.
        object.__setattr__(self, "warmup", whole("Schedule", "warmup", self.warmup, low=0))
        if self.steps is not None:
            object.__setattr__(self, "steps", whole("Schedule", "steps", self.steps, low=0))
        if self.steps is not None and self.decay != 1:
            raise ConfigError("[Schedule] a cosine, which steps asks for, has no decay")
        for name, high in (("lr", math.inf), ("decay", 1.0), ("floor", math.inf)):
            object.__setattr__(self, name, number("Schedule", name, getattr(self, name), 0.0, high))

    def lr_at(self, step: int) -> float:
        """The rate of step 0, 1, ..."""
        step = whole("Schedule", "step", step, low=0)
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if self.steps is not None:
            done = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
            floor = min(self.floor, self.lr)
            return floor + (self.lr - floor) * (1 + math.cos(math.pi * done)) / 2
        return max(self.lr * self.decay**(step - self.warmup), min(self.floor, self.lr))
