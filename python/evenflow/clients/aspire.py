"""evenflow as a flow of aspire; neither torch nor JAX is imported.

    Aspire(log_likelihood=..., log_prior=..., dims=4, flow_backend="evenflow")
"""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np

from evenflow._border.extras import need
from evenflow.clients import rows
from evenflow.errors import DataWarning
from evenflow.models import CouplingFlow, load
from evenflow.training.settings import KINDS, Settings

need("evenflow.clients.aspire", "aspire.flows.base", "aspire-inference", "aspire")
import array_api_compat.numpy as numpy_api  # noqa: E402
from aspire.flows.base import Flow  # noqa: E402
from aspire.history import FlowHistory  # noqa: E402
from aspire.transforms import BaseTransform, IdentityTransform  # noqa: E402
from aspire.utils import load_from_h5_file, recursively_save_to_h5_file  # noqa: E402

class EvenflowFlow(Flow):
    """A `CouplingFlow` behind aspire's data transform.

    Parameters
    ----------
    dims : int
    seed : int
        For weights, the order of the data and samples.
    device, dtype
        Of the model: "cpu" or "cuda", float32 or float64.
    data_transform : aspire.transforms.BaseTransform, optional
    **settings
        Settings of `CouplingFlow`. The defaults are six spline couplings of 5 bins, nets of two layers of 32 and a
        Gaussian base.

    Attributes
    ----------
    flow : CouplingFlow
    """

    xp = numpy_api

    def __init__(self, dims: int, seed: int = 1234, device: str | None = None,
                 data_transform: BaseTransform | None = None, dtype: Any = None, **settings: Any):
        transform = IdentityTransform(self.xp) if data_transform is None else data_transform
        super().__init__(dims, device=str(device or "cpu"), data_transform=transform)
        # A dtype of numpy, torch or JAX.
        name = "float32" if dtype is None else getattr(dtype, "__name__", None) or str(dtype).rpartition(".")[2]
        given = {"couplings": 6, "bins": 5, "net": "mlp", "hidden": (32, 32), "base": "gaussian", **settings}
        self.flow: Any = CouplingFlow(dims, seed=seed, device=self.device, dtype=name, **given)
        self._rng = np.random.default_rng(seed)

    def fit(self, x: Any, n_epochs: int = 100, lr: float = 1e-3, batch_size: int = 500,
            validation_fraction: float = 0.2, clip_grad: float | None = None, lr_annealing: bool = False,
            patience: int | None = None, **options: Any) -> FlowHistory:
        """Trains the present weights by maximum likelihood, on samples (N, D).

        options: other arguments of `Flow.fit`, and settings.
        """
        x = np.asarray(self.fit_data_transform(np.asarray(x, float)))
        given = {"optimizer": "adam", "warmup": 0, "average": 0.0, "clip": clip_grad or 0.0,
                 "schedule": "cosine" if lr_annealing else "constant", "seed": int(self._rng.integers(2**31)),
                 **options}
        settings = Settings(**{name: given.pop(name) for name in KINDS.keys() & given.keys()})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)  # a sampler's points may be repeated
            history = self.flow.fit(x, epochs=n_epochs, lr=lr, batch_size=batch_size, patience=patience,
                                    settings=settings, **{"valid": validation_fraction, **given})
        return FlowHistory(training_loss=[record["loss"] for record in history],
                           validation_loss=[record["valid_loss"] for record in history if "valid_loss" in record])

    def log_prob(self, x: Any, xp: Any = numpy_api) -> Any:
        x_prime, scale = self.rescale(np.asarray(x, float))
        log_prob = rows.log_prob(self.flow, np.asarray(x_prime))
        return xp.asarray(np.where(np.isnan(log_prob), -np.inf, log_prob + np.asarray(scale)))

    def sample(self, n_samples: int, xp: Any = numpy_api) -> Any:
        return self.sample_and_log_prob(n_samples, xp)[0]

    def sample_and_log_prob(self, n_samples: int, xp: Any = numpy_api) -> tuple[Any, Any]:
        x, log_prob = self.flow.sample_and_log_prob(n_samples, seed=int(self._rng.integers(2**63)))
        x, scale = self.inverse_rescale(x.astype(float))
        return xp.asarray(x), xp.asarray(log_prob - np.asarray(scale))

    def forward(self, x: Any, xp: Any = numpy_api) -> tuple[Any, Any]:
        x_prime, scale = self.rescale(np.asarray(x, float))
        z, logdet = rows.each(self.flow, "forward", np.asarray(x_prime))
        return xp.asarray(z), xp.asarray(logdet + np.asarray(scale))

    def inverse(self, z: Any, xp: Any = numpy_api) -> tuple[Any, Any]:
        x, logdet = rows.each(self.flow, "inverse", np.asarray(z, float))
        x, scale = self.inverse_rescale(x)
        return xp.asarray(x), xp.asarray(logdet + np.asarray(scale))

    def save(self, h5_file: Any, path: str = "flow") -> None:
        """Writes the data transform and the model, as a file in an array of bytes."""
        group = h5_file.create_group(path)
        seed = self.config_dict()["seed"]
        config = {"dims": self.dims, "seed": seed, "device": self.device, "dtype": self.flow.dtype.name}
        recursively_save_to_h5_file(group, "config", config)
        self.data_transform.save(group, "data_transform")
        model = io.BytesIO()
        self.flow.save(model)
        group.create_dataset("model", data=np.frombuffer(model.getvalue(), np.uint8))

    @classmethod
    def load(cls, h5_file: Any, path: str = "flow") -> EvenflowFlow:
        group = h5_file[path]
        found = cls(**load_from_h5_file(group, "config"),
                    data_transform=BaseTransform.load(group, "data_transform", strict=False))
        found.flow = load(io.BytesIO(group["model"][()].tobytes()), device=found.device)
        return found
