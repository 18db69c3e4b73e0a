"""evenflow as the density estimator of sbi, and sbi's training with evenflow's steps.

    trainer = NPE(prior, density_estimator=density_estimator())
    train(trainer.append_simulations(theta, x))
    posterior = trainer.build_posterior()
"""

from __future__ import annotations

import types
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np

from evenflow._border.batch import Batch
from evenflow._border.extras import need
from evenflow.errors import ConfigError, wrong
from evenflow.models import CouplingFlow
from evenflow.optim import Adam

need("evenflow.clients.sbi", "sbi.inference.trainers.nle.nle_base", "sbi", "sbi")
import torch  # noqa: E402
from sbi.inference.trainers.nle.nle_base import LikelihoodEstimatorTrainer  # noqa: E402
from sbi.inference.trainers.npe.npe_base import PosteriorEstimatorTrainer  # noqa: E402
from sbi.neural_nets.estimators.base import ConditionalDensityEstimator  # noqa: E402

from evenflow.torch import FlowModule  # noqa: E402

NSF = {"couplings": 5, "hidden": (50, 50), "bins": 10, "bound": 3.0, "mask": "odd-even", "base": "gaussian"}
"""The settings of sbi's "nsf" that are not evenflow's defaults."""
STATEFUL = "p", "running_mean"
"""What layers have that compute otherwise while they are trained: dropout and batch norm."""


def density_estimator(embedding_net: torch.nn.Module | None = None, likelihood: bool = False,
                      **settings: Any) -> Callable[..., Estimator]:
    """A builder for the argument `density_estimator` of sbi's NPE and NLE, on the CPU.

    Parameters
    ----------
    embedding_net : torch.nn.Module, optional
        Maps conditions, (N, *shape), to the flow's context, (N, C), and is trained with it.
    likelihood : bool
        For NLE: the density of simulations given parameters, rather than of parameters given simulations.
    **settings
        Settings of `CouplingFlow`. The defaults are those of sbi's "nsf": 5 spline couplings of 10 bins in [-3, 3],
        residual nets of two blocks of width 50, a Gaussian base. Inputs and contexts are standardised. `seed` is drawn
        from torch's generator.

    Returns
    -------
    callable
        Takes parameters (N, *shape) and simulations (N, *shape), and returns an `Estimator`.
    """
    embedding = torch.nn.Identity() if embedding_net is None else embedding_net

    def build(theta: torch.Tensor, x: torch.Tensor) -> Estimator:
        input, condition = (x, theta) if likelihood else (theta, x)
        with torch.no_grad():
            context = _flat(embedding(condition))
        options = {**NSF, "seed": int(torch.randint(2**31, ())), "threads": torch.get_num_threads(), **settings}
        flow = CouplingFlow(input[0].numel(), context=context.shape[1], **options)
        flow.init(_flat(input).numpy(), context=context.numpy())
        return Estimator(flow, input[0].shape, condition[0].shape, embedding)

    build.likelihood = likelihood  # type: ignore[attr-defined]  # for train to compare
    return build


def _flat(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1)


class Estimator(ConditionalDensityEstimator):
    """A `CouplingFlow` with a context as sbi's density estimator.

    Attributes
    ----------
    flow : CouplingFlow
    """

    def __init__(self, flow: CouplingFlow, input_shape: torch.Size, condition_shape: torch.Size,
                 embedding_net: torch.nn.Module):
        super().__init__(FlowModule(flow, flat=True), input_shape, condition_shape)
        self._embedding_net = embedding_net

    @property
    def flow(self) -> CouplingFlow:
        return self.net.flow  # type: ignore[no-any-return]

    @property
    def embedding_net(self) -> torch.nn.Module:
        return self._embedding_net

    def _context(self, condition: torch.Tensor) -> torch.Tensor:
        """(n, C) of conditions (..., *condition_shape)."""
        self._check_condition_shape(condition)
        n = condition.shape[:condition.dim() - len(self.condition_shape)].numel()
        return _flat(self._embedding_net(condition.reshape(n, *self.condition_shape)))

    def log_prob(self, input: torch.Tensor, condition: torch.Tensor, **_: Any) -> torch.Tensor:
        self._check_input_shape(input)
        input, condition, _ = self._broadcast_and_align(input, condition)
        log_prob = self.net.log_prob(_flat(input.flatten(0, 1)), context=self._context(condition))
        return log_prob.reshape(input.shape[:2]).to(input.dtype)  # type: ignore[no-any-return]

    def loss(self, input: torch.Tensor, condition: torch.Tensor, **_: Any) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return -self.log_prob(input, condition)[0]
        self._check_input_shape(input)
        losses = self.net.loss(_flat(input), context=self._context(condition), reduction="none")
        return losses.to(input.dtype)  # type: ignore[no-any-return]

    def sample(self, sample_shape: torch.Size, condition: torch.Tensor, **_: Any) -> torch.Tensor:
        return self.sample_and_log_prob(sample_shape, condition)[0]

    def sample_and_log_prob(self, sample_shape: torch.Size, condition: torch.Tensor,
                            **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        n, context = torch.Size(sample_shape).numel(), self._context(condition)
        z = self.net.base_sample(n * len(context))
        x, logdet = self.net.inverse(z, context=context.repeat(n, 1))
        log_prob = self.net.base_log_prob(z) - logdet
        return (x.to(condition.dtype).reshape(*sample_shape, len(context), *self.input_shape),
                log_prob.to(condition.dtype).reshape(*sample_shape, len(context)))


def train(trainer: Any, **options: Any) -> Estimator:
    """`trainer.train(**options)` with evenflow's native steps, which take a tenth of the time.

    Splits, epochs, early stopping and the summary are sbi's. Steps are native for the loss of maximum likelihood: NPE
    in its first round or with force_first_round_loss, and NLE, for an `Estimator` whose embedding net has nothing to
    train. Others go sbi's way.

    Parameters
    ----------
    trainer : NPE or NLE
        With `density_estimator(...)`, and with simulations.
    **options
        Of the trainer's own `train`.

    Returns
    -------
    Estimator
        The trained one, which is the trainer's, too.

    Raises
    ------
    ConfigError
        The trainer is neither, or `likelihood` of its density_estimator does not fit it.
    """
    if not hasattr(trainer, "_train_epoch"):
        raise wrong(ConfigError, "sbi.train", "trainer", "expected one of sbi 0.27 with a method _train_epoch, got "
                    f"{type(trainer).__name__} of sbi {version('sbi')}; call trainer.train")
    likelihood = isinstance(trainer, LikelihoodEstimatorTrainer)
    if not (likelihood or isinstance(trainer, PosteriorEstimatorTrainer)):
        raise wrong(ConfigError, "sbi.train", "trainer",
                    f"expected a trainer of NPE or NLE, got {type(trainer).__name__}")
    built = getattr(trainer._build_neural_net, "likelihood", likelihood)
    if built is not likelihood:
        raise wrong(ConfigError, "sbi.train", "likelihood", f"expected density_estimator(likelihood={likelihood}) for "
                    f"{type(trainer).__name__}, got likelihood={built}")
    if "dataloader_kwargs" in options or options.get("calibration_kernel") is not None:
        return trainer.train(**options)  # type: ignore[no-any-return]
    steps = _Steps(likelihood, options)
    trainer._train_epoch = types.MethodType(steps.train_epoch, trainer)
    trainer._validate_epoch = types.MethodType(steps.validate_epoch, trainer)
    try:
        return trainer.train(**options)  # type: ignore[no-any-return]
    finally:
        del trainer._train_epoch, trainer._validate_epoch
        if steps.optimizer is not None:
            trainer.evenflow_adam = steps.optimizer.state_dict()


class _Steps:
    """Epochs of a trainer in numpy. The torch optimiser that sbi makes as well is not used."""

    optimizer: Adam | None = None
    """A new one, or, to go on with, as the last call of `train` left it."""

    def __init__(self, likelihood: bool, options: dict[str, Any]):
        self._likelihood, self._resumed = likelihood, bool(options.get("resume_training"))
        self._always = likelihood or bool(options.get("force_first_round_loss"))
        self._rows: Batch | None = None

    def _begin(self, trainer: Any, loader: Any) -> Batch | None:
        """All inputs and contexts; None if the epoch is not for native steps."""
        net = trainer._neural_net
        if not (self._always or trainer._round == 0) or not isinstance(net, Estimator):
            return None
        if any(p.requires_grad for p in net.embedding_net.parameters()) or any(
                hasattr(layer, name) for layer in net.embedding_net.modules() for name in STATEFUL):
            return None
        if self._rows is None:
            theta, x = loader.dataset.tensors[:2]
            input, condition = (x, theta) if self._likelihood else (theta, x)
            with torch.no_grad():
                self._rows = Batch(_flat(input).numpy(), context=net._context(condition).numpy())
            self.optimizer = Adam(net.flow, lr=trainer.optimizer.param_groups[0]["lr"])
            if self._resumed and hasattr(trainer, "evenflow_adam"):
                self.optimizer.load_state_dict(trainer.evenflow_adam)
        return self._rows

    def train_epoch(self, trainer: Any, loader: Any, clip_max_norm: float | None, loss_args: Any) -> float:
        rows = self._begin(trainer, loader)
        if rows is None:
            return type(trainer)._train_epoch(trainer, loader, clip_max_norm, loss_args)  # type: ignore[no-any-return]
        order = np.asarray(loader.sampler.indices)
        order = order[torch.randperm(len(order)).numpy()][:len(loader) * loader.batch_size]
        parts = map(rows.__getitem__, np.split(order, len(loader)))
        return float(np.mean([trainer._neural_net.flow.train_step(
            part.x, self.optimizer, context=part.context, clip=clip_max_norm or 0.0) for part in parts]))

    def validate_epoch(self, trainer: Any, loader: Any, loss_args: Any) -> float:
        rows = self._begin(trainer, loader)
        if rows is None:
            return type(trainer)._validate_epoch(trainer, loader, loss_args)  # type: ignore[no-any-return]
        part = rows[np.asarray(loader.sampler.indices)]
        return float(-trainer._neural_net.flow.log_prob(part.x, context=part.context).mean())
