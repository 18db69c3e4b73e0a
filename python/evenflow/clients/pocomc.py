"""evenflow as the flow of a pocoMC sampler.

    sampler = pocomc.Sampler(prior, likelihood)
    sampler.flow = Flow(prior.dim)
    sampler.run()
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from evenflow._border.batch import Batch
from evenflow._border.extras import need
from evenflow.clients import rows
from evenflow.errors import ConfigError, DataWarning, wrong
from evenflow.models import CouplingFlow
from evenflow.training.settings import Settings

need("evenflow.clients.pocomc", "pocomc", "pocomc", "pocomc")
import torch  # noqa: E402  # pocoMC's own


class Flow:
    """Takes the place of `pocomc.flow.Flow`, whose nsf6 needs a pass of its net for each column of an inverse.

    Parameters
    ----------
    n_dim : int
    **settings
        Settings of `CouplingFlow`. The defaults are six spline couplings of 8 bins with residual nets of two blocks, as
        wide as nsf6's; as in nsf6 the base is Gaussian and nothing is standardised. `seed` is drawn from torch's
        generator.

    Attributes
    ----------
    flow : CouplingFlow
    """

    def __init__(self, n_dim: int, **settings: Any):
        width = max(32, 1 << (3 * int(n_dim) - 1).bit_length())
        given = {"couplings": 6, "hidden": (width, width), "base": "gaussian", "preprocess": "none",
                 "threads": torch.get_num_threads(), "seed": self._seed(), **settings}
        self.n_dim, self.flow = n_dim, CouplingFlow(n_dim, **given)

    @staticmethod
    def _seed() -> int:
        return int(torch.randint(2**63 - 1, ()))

    def fit(self, x: torch.Tensor, weights: torch.Tensor | None = None, validation_split: float = 0.0,
            epochs: int = 1000, batch_size: int = 1000, patience: int = 20, learning_rate: float = 1e-3,
            weight_decay: float = 0.0, laplace_scale: float | None = None, gaussian_scale: float | None = None,
            annealing: bool = True, noise: float | None = None, shuffle: bool = True, clip_grad_norm: float = 1.0,
            verbose: int = 0) -> dict[str, list[float]]:
        """Trains the present weights; validation_split is, as in pocoMC, the share of samples to train on.

        With annealing the rate is halved (pocoMC: times 0.2). Samples that are not finite are left out. ConfigError for
        laplace_scale, gaussian_scale and noise, which are None in pocoMC's own settings.
        """
        for name, value in (("laplace_scale", laplace_scale), ("gaussian_scale", gaussian_scale), ("noise", noise)):
            if value is not None:
                raise wrong(ConfigError, "pocomc.Flow", name, f"expected {name}=None, got {value!r}: evenflow has no "
                                                              "such setting")
        with np.errstate(over="ignore"):
            taken = x.numpy().astype(self.flow.dtype)
        order = torch.randperm(len(x)).numpy() if shuffle else np.arange(len(x))
        data = Batch(taken, weight=None if weights is None else weights.numpy().astype(float))
        data = data[order[np.isfinite(taken[order]).all(1)]]
        n = int(validation_split * len(data)) or len(data)
        train, valid = data[:n], data[n:] or data  # pocoMC then stops by the loss of training
        annealed: dict[str, Any] = {"schedule": "plateau", "lr_patience": patience} if annealing else {}
        settings = Settings(optimizer="adamw", optimizer_options={"weight_decay": weight_decay}, warmup=0, average=0.0,
                            clip=clip_grad_norm, on_nonfinite="rollback", **annealed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)  # particles that did not move are repeated
            history = self.flow.fit(
                train.x, sample_weight=train.weight, valid={"x": valid.x, "sample_weight": valid.weight}, epochs=epochs,
                batch_size=batch_size, lr=learning_rate, patience=max(1, int(1.5 * patience)), seed=self._seed(),
                verbose=bool(verbose), settings=settings)
        return {"loss": [record["loss"] for record in history],
                "val_loss": [record["valid_loss"] for record in history] if n < len(data) else []}

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents of samples, and log |det| of the map."""
        return self._map("forward", x)

    def inverse(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Samples of latents, and log |det| of the map."""
        return self._map("inverse", u)

    def _map(self, call: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, logdet = rows.each(self.flow, call, x.detach().numpy())
        return torch.from_numpy(y), torch.from_numpy(logdet)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(rows.log_prob(self.flow, x.detach().numpy()))

    def sample(self, size: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """Samples and their log density."""
        x, log_prob = self.flow.sample_and_log_prob(int(size), seed=self._seed())
        return torch.from_numpy(x.astype(np.float64)), torch.from_numpy(log_prob)
