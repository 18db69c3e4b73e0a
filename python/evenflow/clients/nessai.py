"""nessai's flow proposal with evenflow in place of its torch flows.

    FlowSampler(model, nlive=1000, flow_proposal_class="evenflow")
"""

from __future__ import annotations

import logging
import os
import shutil
from types import SimpleNamespace
from typing import Any

import numpy as np

from evenflow._border import checks
from evenflow._border.batch import Batch
from evenflow._border.extras import need
from evenflow.clients.rows import each
from evenflow.errors import ConfigError, NumericError, wrong
from evenflow.flow import Flow
from evenflow.models import CouplingFlow, load
from evenflow.optim import SGD, Adam, AdamW, Optimizer, Schedule

need("evenflow.clients.nessai", "nessai.proposal.flowproposal", "nessai", "nessai")
import torch  # noqa: E402  # nessai's own
from nessai.flowmodel import FlowModel  # noqa: E402
from nessai.proposal.flowproposal import FlowProposal  # noqa: E402

LAWS = {"realnvp": "sigmoid", "frealnvp": "sigmoid", "nsf": "spline", "spline": "spline"}
NETS = {"resnet": "residual", "mlp": "mlp"}
MIXING = {"lu": "lu-shuffle", "permutation": "shuffle", "none": "none"}
RULES: dict[str, Any] = {"adam": (Adam, 1e-6), "adamw": (AdamW, 0.01), "sgd": (SGD, 0.0)}
"""Optimisers, and torch's and nessai's defaults of weight_decay."""
FIXED = {"tails": ("linear",), "distribution": (None, "mvn", "normal"), "batch_norm_within_layers": (None, False),
         "distribution_kwargs": None}
"""Settings of nessai's of which evenflow has only these values; None: any."""
WHERE = "EvenflowModel"

logger = logging.getLogger(__name__)


def settings_of(config: dict[str, Any]) -> dict[str, Any]:
    """CouplingFlow's arguments for a flow_config of nessai's. The defaults are those of nessai's class of that `ftype`.

    `dtype` and `threads` are evenflow's own. ConfigError for a setting that evenflow doesn't have.
    """
    config = {name: value for name, value in config.items() if value is not None or name == "linear_transform"}

    def chosen(name: str, usual: str, table: dict[str, str]) -> str:
        return table[checks.choice(WHERE, name, str(config.pop(name, usual)).lower(), tuple(table))]

    law = chosen("ftype", "RealNVP", LAWS)
    spline, couplings, columns = law == "spline", config.pop("n_blocks"), config.pop("n_inputs")
    settings = {
        "couplings": couplings, "permutation": chosen("linear_transform", "permutation" if spline else "lu", MIXING),
        "net": chosen("net", "resnet", NETS), "hidden": (config.pop("n_neurons"),) * config.pop("n_layers"),
        "mask": _mask(config.pop("mask", None), couplings, columns), "base": "gaussian", "preprocess": "none",
        "context": config.pop("context_features", 0),
        "activation": config.pop("activation", "relu").replace("swish", "silu"),
        "dropout": config.pop("dropout_probability", 0.0), "actnorm": config.pop("actnorm", False),
        "batch_norm": config.pop("batch_norm_between_layers", not spline),
        "dtype": config.pop("dtype", str(torch.get_default_dtype()).removeprefix("torch.")),
        "threads": config.pop("threads", torch.get_num_threads())}
    if spline:
        settings.update(bins=config.pop("num_bins", 8), bound=config.pop("tail_bound", 5.0),
                        unconditional=config.pop("apply_unconditional_transform", False))
    elif config.pop("use_volume_preserving", False):
        law = "additive"
    for name, value in config.items():
        if name not in FIXED or (name == "tails" and not spline):
            raise wrong(ConfigError, WHERE, name, f"evenflow has no setting {name!r} of flow_config")
        allowed = FIXED[name]
        if allowed and value not in allowed:
            raise wrong(ConfigError, WHERE, name, f"expected {name}={allowed[0]!r}, the only one here, got {value!r}")
    return {"law": law, **settings}


def _mask(mask: Any, couplings: int, columns: int) -> Any:
    """nessai's, 1 where a column changes and else -1: for every coupling, or for the first one and then in turns."""
    if mask is None:
        return "odd-even"
    changed = np.asarray(mask) > 0
    if changed.ndim == 1:
        changed = np.array([changed ^ bool(i % 2) for i in range(couplings)])
    if changed.shape != (couplings, columns):
        raise wrong(ConfigError, WHERE, "mask", f"expected a mask of shape ({columns},) or {(couplings, columns)}, "
                                                f"got {np.shape(mask)}")
    return changed


class EvenflowModel(FlowModel):
    """Trains and evaluates an `evenflow.CouplingFlow`; a `FlowModel` whose settings and files are nessai's.

    Attributes
    ----------
    model.flow : CouplingFlow
        The flow, from `initialise` on.
    """

    model: Any
    _anneals = False

    def initialise(self) -> None:
        self.update_mask()
        config = self.training_config
        for name in ("device_tag", "inference_device_tag"):
            if config.get(name) not in (None, "cpu"):
                raise wrong(ConfigError, WHERE, name, f"expected {name}='cpu', got {config[name]!r}")
        self._settings = settings_of(self.flow_config)
        self.device = self.inference_device = torch.device("cpu")
        self.noise_type, self.noise_scale = config["noise_type"], config["noise_scale"]
        # nessai's way is a class of torch's for torch's optimisers.
        self._anneals, config["annealing"] = self._anneals or config["annealing"], False
        self.reset_model(permutations=True)
        self.initialised = True

    def _take(self, flow: Flow, trained: bool) -> None:
        """Makes the flow the model's, with what nessai calls of torch's flows."""
        if not trained:  # usable: what comes before the first training is drawn from it
            context = self.rng.standard_normal((256, flow.context)) if flow.context else None
            flow.init(self.rng.standard_normal((256, flow.dims)), context=context)
        self.model = SimpleNamespace(
            flow=flow, device=self.device, training=False, state_dict=flow.state_dict,
            load_state_dict=flow.load_state_dict, **dict.fromkeys(("train", "eval", "finalise"), lambda: None),
            base_distribution_log_prob=lambda z: torch.from_numpy(_normal(z.double().numpy())))
        self._trained, self._optimiser = trained, self.get_optimiser()

    def _seed(self) -> int:
        return int(self.rng.integers(2**63))

    def get_optimiser(self, optimiser: str | None = None, **kwargs: Any) -> Optimizer:
        """torch's rule of that name for evenflow's flow, with torch's defaults."""
        name = (optimiser or self.optimiser).lower()
        rule, decay = RULES[checks.choice(WHERE, "optimiser", name, tuple(RULES))]
        settings = {"lr": self.training_config["lr"], "weight_decay": decay, **self.optimiser_kwargs, **kwargs}
        if "betas" in settings:
            settings["beta1"], settings["beta2"] = settings.pop("betas")
        return rule(self.model.flow, **settings)  # type: ignore[no-any-return]

    def move_to(self, device: Any, update_default: bool = False) -> None:
        """Nothing: the flow stays on the CPU."""

    # Training, of which nessai has the rest

    def train(self, samples: np.ndarray, weights: np.ndarray | None = None, conditional: np.ndarray | None = None,
              max_epochs: int | None = None, *args: Any, **options: Any) -> Any:
        """As `FlowModel.train`: the parameters with the least loss of held-out samples are kept."""
        epochs = self.training_config["max_epochs"] if max_epochs is None else max_epochs
        self._rate = Schedule(self.training_config["lr"], warmup=0, steps=epochs) if self._anneals else None
        self._epoch = 0
        return super().train(samples, weights, conditional, epochs, *args, **options)

    def _batch(self, data: Any, weighted: bool = False, is_conditional: bool = False,
               is_dataloader: bool = False) -> Batch:
        """What `FlowModel.prep_data` makes: a tensor, or a loader of tensors."""
        x, *more = (part.numpy() for part in (data.dataset.tensors if is_dataloader else (data,)))
        return Batch(x, context=more[0] if is_conditional else None, weight=more[0] if weighted else None)

    def _train(self, train_data: Any, noise_scale: float | None = None, **kinds: bool) -> float:
        """An epoch. One that fails leaves the values that it came to."""
        flow, batch = self.model.flow, self._batch(train_data, **kinds)
        if not self._trained:
            flow.init(batch.x, context=batch.context)
            self._trained = True
        if self._rate is not None:
            self._optimiser.lr = self._rate.lr_at(self._epoch)
        self._epoch += 1
        clip = self.training_config["clip_grad_norm"] or 0.0
        losses, ends = [], range(self._batch_size, len(batch) - 1, self._batch_size)  # no batch has a single row
        for rows in np.split(self.rng.permutation(len(batch)), ends):
            part = batch[rows]
            noise = noise_scale * self.rng.standard_normal(part.x.shape) if noise_scale else 0
            weight = None if part.weight is None else part.weight / part.weight.mean()
            seed = self._seed() if flow.config.get("dropout") else None
            try:
                losses.append(flow.train_step(part.x + noise, self._optimiser, context=part.context, seed=seed,
                                              sample_weight=weight, clip=clip))
            except NumericError as error:
                logger.warning("Epoch %d ended early: %s", self._epoch, error)
                return np.nan
        return float(np.mean(losses))

    def _validate(self, val_data: Any, **kinds: bool) -> float:
        """Infinity if a row has no density, as torch's flows give; NaN if there is none, or all weights are 0."""
        batch = self._batch(val_data, **kinds)
        if not len(batch) or (batch.weight is not None and not batch.weight.any()):
            return np.nan
        try:
            log_prob = self.model.flow.log_prob(batch.x, context=batch.context)
        except NumericError:
            return np.inf
        return float(-np.average(log_prob, weights=batch.weight))

    def reset_model(self, weights: bool = True, permutations: bool = False) -> None:
        """Draws new weights; with permutations a new model. Orders of columns stay otherwise."""
        if permutations:
            self._take(CouplingFlow(self.flow_config["n_inputs"], **self._settings, seed=self._seed()), False)
        elif weights:
            self.model.flow.reset(self._seed())
            self._take(self.model.flow, False)

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
                raise wrong(ConfigError, WHERE, name, f"expected weights of a flow with {name}={wanted.get(name)!r}, "
                            f"as flow_config says, got {flow.config.get(name)!r} in {weights_file}")
        self._take(flow, True)
        self.weights_file = weights_file

    # Density and samples, float64

    def forward_and_log_prob(self, x: np.ndarray,
                             conditional: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        z, logdet = each(self.model.flow, "forward", x, conditional)
        return z, _normal(z) + logdet

    def inverse(self, z: np.ndarray, conditional: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        found: tuple[np.ndarray, np.ndarray] = each(self.model.flow, "inverse", z, conditional)
        return found

    def log_prob(self, x: np.ndarray, conditional: np.ndarray | None = None) -> np.ndarray:
        return self.forward_and_log_prob(x, conditional)[1]

    def sample(self, n: int = 1, conditional: np.ndarray | None = None) -> np.ndarray:
        return self.inverse(self.sample_latent_distribution(n), conditional)[0]

    def sample_latent_distribution(self, n: int = 1) -> np.ndarray:
        return np.asarray(self.rng.standard_normal((int(n), self.model.flow.dims)))

    def sample_and_log_prob(self, N: int = 1, z: Any = None, alt_dist: Any = None,
                            conditional: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        if self.model is None:
            raise RuntimeError("Model is not initialised yet!")
        if z is None:
            z, alt_dist = self.sample_latent_distribution(N), None
        z = np.asarray(z)
        log_prob = _normal(z) if alt_dist is None else alt_dist.log_prob(torch.from_numpy(z)).numpy()
        x, logdet = self.inverse(z, conditional)
        return x, log_prob - logdet


def _normal(z: np.ndarray) -> np.ndarray:
    """The base's log-density, NaN for rows that have none."""
    return np.asarray(-0.5 * (z * z).sum(1) - 0.5 * np.log(2 * np.pi) * z.shape[1])


class EvenflowProposal(FlowProposal):
    """nessai's FlowProposal with an evenflow flow: the same settings, populations and plots."""

    _FlowModelClass = EvenflowModel
