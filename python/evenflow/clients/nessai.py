"""nessai's flow proposal with evenflow in place of its torch flows.

    FlowSampler(model, nlive=1000, flow_proposal_class="evenflow")
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from evenflow.clients.rows import each
from evenflow.errors import ConfigError, NumericError
from evenflow._border.extras import need
from evenflow.models import CouplingFlow, load
from evenflow.optim import SGD, Adam, AdamW, Optimizer, Schedule

need("evenflow.clients.nessai", "nessai.proposal.flowproposal", "nessai", "nessai")
import torch  # noqa: E402  # nessai's own
from nessai.flowmodel import FlowModel  # noqa: E402
from nessai.plot import plot_loss  # noqa: E402
from nessai.proposal.flowproposal import FlowProposal  # noqa: E402
from nessai.utils import compute_minimum_distances  # noqa: E402

LAWS = {"realnvp": "sigmoid", "frealnvp": "sigmoid", "nsf": "spline", "spline": "spline"}
NETS = {"resnet": "residual", "mlp": "mlp"}
MIXING = {"lu": "lu-shuffle", "permutation": "shuffle", None: "none", "none": "none"}
WHERE = "EvenflowModel"

logger = logging.getLogger(__name__)


def settings_of(config: dict[str, Any]) -> dict[str, Any]:
    """CouplingFlow's arguments for a flow_config of nessai's. The defaults are those of nessai's class of that `ftype`.

    `dtype` and `threads` are evenflow's own. ConfigError for a setting that evenflow doesn't have.
    """
    config = {name: value for name, value in config.items() if value is not None or name == "linear_transform"}
    kind = str(config.pop("ftype", "RealNVP")).lower()
    if kind not in LAWS:
        raise ConfigError(f"[{WHERE}] expected ftype to be one of {', '.join(LAWS)}, got {kind!r}")
    spline = LAWS[kind] == "spline"
    couplings, columns = config.pop("n_blocks"), config.pop("n_inputs")
    mixing = config.pop("linear_transform", "permutation" if spline else "lu")
    mixing = mixing.lower() if isinstance(mixing, str) else mixing
    if mixing not in MIXING:
        raise ConfigError(f"[{WHERE}] expected linear_transform to be one of {', '.join(map(str, MIXING))}, "
                          f"got {mixing!r}")
    net = str(config.pop("net", "resnet")).lower()
    if net not in NETS:
        raise ConfigError(f"[{WHERE}] expected net to be one of {', '.join(NETS)}, got {net!r}")
    settings = {
        "law": LAWS[kind], "couplings": couplings, "permutation": MIXING[mixing], "net": NETS[net],
        "hidden": (config.pop("n_neurons"),) * config.pop("n_layers"), "mask": "odd-even", "base": "gaussian",
        "preprocess": "none", "context": config.pop("context_features", 0),
        "activation": config.pop("activation", "relu").replace("swish", "silu"),
        "dropout": config.pop("dropout_probability", 0.0), "actnorm": config.pop("actnorm", False),
        "batch_norm": config.pop("batch_norm_between_layers", not spline),
        "dtype": config.pop("dtype", str(torch.get_default_dtype()).removeprefix("torch.")),
        "threads": config.pop("threads", torch.get_num_threads())}
    if spline:
        settings.update(bins=config.pop("num_bins", 8), bound=config.pop("tail_bound", 5.0),
                        unconditional=config.pop("apply_unconditional_transform", False))
        if config.pop("tails", "linear") != "linear":
            raise ConfigError(f"[{WHERE}] expected tails='linear', the only ones of evenflow's splines")
    elif config.pop("use_volume_preserving", False):
        settings["law"] = "additive"
    if "mask" in config:
        settings["mask"] = _mask(np.asarray(config.pop("mask")), couplings, columns)
    if config.pop("distribution", None) not in (None, "mvn", "normal"):
        raise ConfigError(f"[{WHERE}] expected distribution=None, a normal distribution")
    if config.pop("batch_norm_within_layers", False):
        raise ConfigError(f"[{WHERE}] expected batch_norm_within_layers=False: evenflow's nets have no batch norm")
    config.pop("distribution_kwargs", None)
    if config:
        raise ConfigError(f"[{WHERE}] evenflow has no setting {next(iter(config))!r} of flow_config")
    return settings


def _mask(mask: np.ndarray, couplings: int, columns: int) -> np.ndarray:
    """nessai's, 1 where a column changes and else -1: for every coupling, or for the first one and then in turns."""
    changed = mask > 0
    if changed.ndim == 1:
        changed = np.array([changed ^ bool(i % 2) for i in range(couplings)])
    if changed.shape != (couplings, columns):
        raise ConfigError(f"[{WHERE}] expected a mask of shape ({columns},) or {(couplings, columns)}, "
                          f"got {mask.shape}")
    return changed


class EvenflowModel(FlowModel):
    """Trains and evaluates an `evenflow.CouplingFlow`; a `FlowModel` whose settings and files are nessai's.

    Attributes
    ----------
    model.flow : CouplingFlow
        The flow, from `initialise` on.
    """

    model: Any

    def initialise(self) -> None:
        self.update_mask()
        for name in ("device_tag", "inference_device_tag"):
            if self.training_config.get(name) not in (None, "cpu"):
                raise ConfigError(f"[{WHERE}] expected {name}='cpu', got {self.training_config[name]!r}")
        self._settings = settings_of(self.flow_config)
        self.device = self.inference_device = torch.device("cpu")
        self._make()
        self.initialised = True

    def _make(self) -> None:
        self.model = SimpleNamespace(
            flow=CouplingFlow(self.flow_config["n_inputs"], **self._settings, seed=self._seed()), device=self.device,
            training=False, eval=lambda: self.model,
            base_distribution_log_prob=lambda z: torch.from_numpy(self._base(z.double().numpy())))
        self._begin()

    def _begin(self) -> None:
        """Makes a flow without data usable: what comes before the first training is drawn from it."""
        flow = self.model.flow
        context = self.rng.standard_normal((256, flow.context)) if flow.context else None
        flow.init(self.rng.standard_normal((256, flow.dims)), context=context)
        self._trained, self._optimiser = False, self.get_optimiser()

    def _seed(self) -> int:
        return int(self.rng.integers(2**63))

    def get_optimiser(self, optimiser: str | None = None, **kwargs: Any) -> Optimizer:
        """torch's rule of that name for evenflow's flow, with torch's defaults."""
        rule = (optimiser or self.optimiser).lower()
        settings = {"lr": self.training_config["lr"], **self.optimiser_kwargs, **kwargs}
        if "betas" in settings:
            settings["beta1"], settings["beta2"] = settings.pop("betas")
        rules: dict[str, Any] = {"adam": Adam, "adamw": AdamW, "sgd": SGD}
        if rule not in rules:
            raise ConfigError(f"[{WHERE}] expected optimiser to be one of {', '.join(rules)}, got {rule!r}")
        usual = {"adam": {"weight_decay": 1e-6}, "adamw": {"weight_decay": 0.01}}.get(rule, {})
        return rules[rule](self.model.flow, **{**usual, **settings})  # type: ignore[no-any-return]

    def move_to(self, device: Any, update_default: bool = False) -> None:
        """Nothing: the flow stays on the CPU."""

    def finalise(self) -> None:
        """Nothing: there is nothing to compute beforehand."""

    # Training

    def train(self, samples: np.ndarray, weights: np.ndarray | None = None, conditional: np.ndarray | None = None,
              max_epochs: int | None = None, patience: int | None = None, output: str | None = None,
              val_size: float | None = None, plot: bool = True) -> dict[str, list[float]]:
        """As `FlowModel.train`: the parameters with the least loss of held-out samples are kept."""
        if not self.initialised:
            self.initialise()
        config, flow = self.training_config, self.model.flow
        for what, values in (("Training data", samples), ("Weights", weights), ("Conditional inputs", conditional)):
            if values is not None and not np.isfinite(values).all():
                raise ValueError(f"{what} not finite")
        if weights is not None and conditional is not None:
            raise RuntimeError("weights and conditional inputs not supported")
        max_epochs = config["max_epochs"] if max_epochs is None else max_epochs
        patience = config["patience"] if patience is None else patience
        val_size = (config["val_size"] or 0.0) if val_size is None else val_size
        output = self.output if output is None else output
        os.makedirs(output, exist_ok=True)

        order = self.rng.permutation(len(samples))
        n = int((1 - val_size) * len(samples))
        train, valid = (Part(flow.dtype, part, samples, weights, conditional) for part in (order[:n], order[n:]))
        batch = config["batch_size"]
        batch = n if batch in (None, "all") else batch
        if isinstance(batch, bool) or not isinstance(batch, int):
            raise RuntimeError(f"Unknown batch size: {batch}")
        self._batch_size = self.check_batch_size(train.x, batch)
        if not self._trained:
            flow.init(train.x, context=train.context)
            self._trained = True
        noise = config["noise_scale"] or 0.0
        if config["noise_type"] == "adaptive":
            noise *= np.mean(compute_minimum_distances(samples))
        rate = Schedule(config["lr"], warmup=0, steps=max_epochs) if config["annealing"] else None

        best, best_loss, best_epoch = flow._core.values.copy(), np.inf, 0
        history: dict[str, list[float]] = {"loss": [], "val_loss": []}
        for epoch in range(1, max_epochs + 1):
            if rate is not None:
                self._optimiser.lr = rate.lr_at(epoch - 1)
            try:
                history["loss"].append(self._epoch(train, noise))
            except NumericError as error:  # the values before the step are still there
                logger.warning("Training ended in epoch %d: %s", epoch, error)
                break
            loss = valid.loss(flow) if len(valid.x) else np.nan
            history["val_loss"].append(loss)
            if loss < best_loss:
                best_loss, best_epoch = loss, epoch
                best[:] = flow._core.values
            if len(valid.x) and epoch - best_epoch > patience:
                break
        if len(valid.x):
            flow._core.values[:] = best
        self.save_weights(os.path.join(output, "model.pt"))
        if plot and history["loss"]:
            plot_loss(len(history["loss"]), history, filename=os.path.join(output, "loss.png"))
        return history

    def _epoch(self, train: Part, noise: float) -> float:
        flow, clip = self.model.flow, self.training_config["clip_grad_norm"] or 0.0
        losses = []
        for x, weights, context in train.batches(self.rng.permutation(len(train.x)), self._batch_size):
            if noise:
                x = x + noise * self.rng.standard_normal(x.shape).astype(x.dtype)
            losses.append(flow.train_step(x, self._optimiser, context=context, sample_weight=weights, clip=clip,
                                          seed=None if not flow.config.get("dropout") else self._seed()))
        return float(np.mean(losses))

    def reset_model(self, weights: bool = True, permutations: bool = False) -> None:
        """Draws new weights; with permutations a new model. Orders of columns stay otherwise."""
        if permutations:
            self._make()
        elif weights:
            self.model.flow.reset(self._seed())
            self._begin()

    # Files

    def save_weights(self, weights_file: str) -> None:
        if os.path.exists(weights_file):
            shutil.move(weights_file, weights_file + ".old")
        self.model.flow.save(weights_file)
        self.weights_file = weights_file

    def load_weights(self, weights_file: str) -> None:
        if not self.initialised:
            self.initialise()
        flow = load(weights_file, threads=self._settings["threads"])
        wanted = self.model.flow.config
        for name in wanted.keys() | flow.config.keys():
            if name not in ("seed", "threads") and wanted.get(name) != flow.config.get(name):
                raise ConfigError(f"[{WHERE}] expected weights of a flow with {name}={wanted.get(name)!r}, as "
                                  f"flow_config says, got {flow.config.get(name)!r} in {weights_file}")
        self.model.flow = flow
        self._trained, self._optimiser = True, self.get_optimiser()
        self.weights_file = weights_file

    # Density and samples, float64

    def forward_and_log_prob(self, x: np.ndarray,
                             conditional: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        z, logdet = each(self.model.flow, "forward", x, conditional)
        return z, self._base(z) + logdet

    def inverse(self, z: np.ndarray, conditional: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        return each(self.model.flow, "inverse", z, conditional)

    def log_prob(self, x: np.ndarray, conditional: np.ndarray | None = None) -> np.ndarray:
        return self.forward_and_log_prob(x, conditional)[1]

    def sample(self, n: int = 1, conditional: np.ndarray | None = None) -> np.ndarray:
        return self.inverse(self.sample_latent_distribution(n), conditional)[0]

    def sample_latent_distribution(self, n: int = 1) -> np.ndarray:
        z: np.ndarray = self.rng.standard_normal((int(n), self.model.flow.dims))
        return z

    def sample_and_log_prob(self, N: int = 1, z: Any = None, alt_dist: Any = None,
                            conditional: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        if self.model is None:
            raise RuntimeError("Model is not initialised yet!")
        if z is None:
            z, alt_dist = self.sample_latent_distribution(N), None
        z = np.asarray(z)
        if alt_dist is None:
            log_prob = self._base(z)
        else:
            log_prob = alt_dist.log_prob(torch.from_numpy(z)).numpy()
        x, logdet = self.inverse(z, conditional)
        return x, log_prob - logdet

    def _base(self, z: np.ndarray) -> np.ndarray:
        log_prob: np.ndarray = -0.5 * (z * z).sum(1) - 0.5 * np.log(2 * np.pi) * z.shape[1]
        return log_prob


class Part:
    """Samples to train on, or to choose an epoch by, in the flow's dtype."""

    def __init__(self, dtype: np.dtype, rows: np.ndarray, x: np.ndarray, weights: np.ndarray | None,
                 context: np.ndarray | None):
        self.x = np.ascontiguousarray(x[rows], dtype)
        self.weights, self.context = (None if values is None else np.ascontiguousarray(values[rows], dtype)
                                      for values in (weights, context))

    def batches(self, order: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, Any, Any]]:
        """Rows in this order, and their weights over the mean weight of a batch. No batch has a single row."""
        ends = [*range(size, len(order) - 1, size), len(order)]
        for begin, end in zip([0, *ends], ends):
            rows = order[begin:end]
            weights = None if self.weights is None else self.weights[rows] / self.weights[rows].mean()
            yield self.x[rows], weights, None if self.context is None else self.context[rows]

    def loss(self, flow: CouplingFlow) -> float:
        """Infinity if a row has no density, as torch's flows give; NaN if all weights are 0."""
        if self.weights is not None and not self.weights.any():
            return np.nan
        try:
            log_prob = flow.log_prob(self.x, context=self.context)
        except NumericError:
            return np.inf
        return float(-np.average(log_prob, weights=self.weights))


class EvenflowProposal(FlowProposal):
    """nessai's FlowProposal with an evenflow flow: the same settings, populations and plots."""

    _FlowModelClass = EvenflowModel
