"""Self-test of a model on data: inverse, log-determinant, gradients, precision."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from evenflow._border import bounds, checks
from evenflow._border.batch import Batch
from evenflow.density import Density, check, compiled, core_of, floats, limits_of
from evenflow.errors import NumericError

SAMPLES = 16
PROBED_DIMS = 512
ROUND_TRIP = {"float32": 1e-3, "float64": 1e-9}
RESOLUTION = 1e-2
PRECISION, BFLOAT16_PRECISION = 1e-3, 5e-2
"""The second with nets of bfloat16. They round to eight bits, and every coupling adds the error of its own: trained
models of up to 16 couplings were up to 1.2e-2 off."""
EXACT, DIFFERENCES = 1e-7, 1e-4
PROBED_ROWS = 3
"""For a derivative in one direction: a wrong one is wrong for all rows, a kink disturbs some."""
STEPS = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
"""Of differences. A large step crosses kinks of the nets, a small one drowns in rounding; a wrong derivative is wrong
at all of them."""


@dataclass(frozen=True, repr=False)
class Report:
    """What `Flow.verify` found: `print` it, or ask `report.ok`.

    Each check has a number, which is 0 for a perfect model, and a bound. Errors are relative to max(1, size of the
    exact quantity). The Jacobian and the gradient are tested on a float64 copy of the model, so that these numbers show
    wrong formulas and not rounding; `precision` compares the model with that copy.

    Examples
    --------
    >>> x, _ = ef.data.two_moons(1000, seed=0)
    >>> flow = ef.CouplingFlow(2)
    >>> flow.init(x)
    >>> report = flow.verify(x)
    >>> report.ok, report.failures, report.round_trip_x < 1e-3
    (True, [], True)

    See Also
    --------
    evenflow.Flow.verify : Makes one.
    """

    samples: int
    dtype: str
    probed: bool
    """Whether `jacobian` tests the log-determinant itself; done with up to 512 dimensions."""
    bfloat16: bool = False
    """Whether the model's nets compute in it: those of the copy don't, which `precision` shows."""
    error: str = ""
    """The error that ended the test, if there was one; the numbers are then NaN."""
    round_trip_x: float = np.nan
    """max |inverse(forward(x)) - x|."""
    round_trip_z: float = np.nan
    """max |forward(inverse(z)) - z|, z drawn from the base, beyond what the rounding of inverse(z) explains."""
    resolution: float = np.nan
    """How far z moves when the last digit of x changes: the median over the drawn samples."""
    logdet_sum: float = np.nan
    """max |logdet of forward + logdet of inverse|."""
    precision: float = np.nan
    """max |log_prob - log_prob of the float64 copy|."""
    jacobian: float = np.nan
    """|logdet - log |det J||, J from unit vectors through `backward`; where not `probed`, the error of one
    directional derivative of z and logdet."""
    gradient: float = np.nan
    """Derivative of the loss along a random change of all parameters, against differences; relative."""

    def _checks(self) -> list[tuple[str, str, float, str]]:
        """Of each check: what is printed, field, bound, and what to do if it fails."""
        trip = ROUND_TRIP[self.dtype]
        narrow = "the flow stretches the data too far for its precision: train with a lower lr, or clip, or use float64"
        kink = "try other rows: a row at a kink of a net disturbs the differences"
        return [("inverse(forward(x)) = x", "round_trip_x", trip, narrow),
                ("forward(inverse(z)) = z", "round_trip_z", trip, narrow),
                ("z by the last digit of x", "resolution", RESOLUTION,
                 f"{self.dtype} hardly tells the data apart: subtract an offset, or use float64"),
                ("logdet both ways", "logdet_sum", trip, narrow),
                ("against float64", "precision", BFLOAT16_PRECISION if self.bfloat16 else PRECISION,
                 "numbers are too large for float32: subtract an offset, take another unit, or use float64"),
                (f"logdet against {'Jacobian' if self.probed else 'one slope'}", "jacobian",
                 EXACT if self.probed else DIFFERENCES, kink),
                ("gradient", "gradient", DIFFERENCES, kink)]

    @property
    def failures(self) -> list[str]:
        """The checks that failed, in words."""
        if self.error:
            return [self.error]
        return [f"{name}: expected <= {bound:g}, got {getattr(self, name):.3g}; {hint}"
                for _, name, bound, hint in self._checks() if not getattr(self, name) <= bound]

    @property
    def ok(self) -> bool:
        """Whether every check is within its bound."""
        return not self.failures

    def __str__(self) -> str:
        nets = ", nets of bfloat16" if self.bfloat16 else ""
        lines = [f"{'ok' if self.ok else 'FAILED'}: {self.samples} samples, {self.dtype}{nets}"]
        for text, name, bound, _ in self._checks() if not self.error else ():
            lines.append(f"  {text:24} {getattr(self, name):.1e} (at most {bound:g})")
        return "\n".join(lines + [f"  failed: {text}" for text in self.failures])

    __repr__ = __str__  # a notebook shows it


def verify(flow: Density, x: Any, *, label: Any = None, context: Any = None, seed: int = 0) -> Report:
    """Tests `flow` on the first samples of x (uint8 images as whole levels). The flow is left as it was.

    ConfigError for an uninitialised model, NumericError for a sample that is not finite or not within the bounds; one
    on the way ends up in the report.
    """
    seed = checks.whole("verify", "seed", seed, low=0)
    data = check(flow, "verify", x, label, context, least=1)[:SAMPLES]
    data = dataclasses.replace(data, x=floats(flow, "verify", data.x))
    bounds.require_inside("verify", limits_of(flow), data.x)
    report = Report(samples=len(data), dtype=flow.dtype.name, probed=flow.dims <= PROBED_DIMS,
                    bfloat16=flow.config.get("conditioner_dtype") == "bfloat16")
    try:
        return dataclasses.replace(report, **_measure(flow, data, np.random.default_rng(seed)))
    except NumericError as error:
        return dataclasses.replace(report, error=str(error))


def _measure(flow: Density, data: Batch, rng: np.random.Generator) -> dict[str, Any]:
    x, named = data.x, data.conditions
    z, logdet = flow.forward(x, **named)
    x2, logdet2 = flow.inverse(z, **named)
    draws: dict[str, Callable[..., Any]] = {"gaussian": rng.standard_normal, "logistic": rng.logistic,
                                            "uniform": rng.random}
    z0 = draws[core_of(flow).base](size=z.shape).astype(flow.dtype)
    drawn, _ = flow.inverse(z0, **named)
    z2, _ = flow.forward(drawn, **named)
    # Towards x, which lies within the bounds.
    rounding = np.abs(flow.forward(np.nextafter(drawn, x), **named)[0] - z2).max(axis=1, keepdims=True)
    unexplained = np.maximum(np.abs(z2 - z0) - 2 * rounding, 0)
    exact = float64_copy(flow)
    # The pixels of a flat image lie on kinks of a net together, unless noise moves each as in training.
    wide = dataclasses.replace(data, x=x.astype(np.float64) + (rng.random(x.shape) if flow.is_image else 0))
    return dict(
        round_trip_x=_error(x2, x), round_trip_z=_error(z0 + unexplained, z0), resolution=float(np.median(rounding)),
        logdet_sum=_error(-logdet2, logdet), precision=_error(flow.log_prob(x, **named), exact.log_prob(x, **named)),
        jacobian=_probe_jacobian(exact, wide[:1]) if flow.dims <= PROBED_DIMS else min(
            _probe_direction(exact, wide[i:i + 1], rng) for i in range(min(len(wide), PROBED_ROWS))),
        gradient=_probe_gradient(exact, wide, rng))


def _error(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(np.asarray(got, np.float64) - wanted).max() / max(1.0, float(np.abs(wanted).max())))


def float64_copy(flow: Density) -> Density:
    """A flow of the same values that computes in float64, its nets too."""
    config = {**flow.config, "dtype": "float64"}
    if "bounds" in config:
        config["bounds"] = bounds.rounded(config["bounds"], flow.dtype)
    if "conditioner_dtype" in config:
        config["conditioner_dtype"] = "float32"  # which is float64 here: the nets compute as the model does
    copy = Density(compiled("verify", config, "cpu", 0))
    values, theirs = copy.named_parameters(), flow.named_parameters()
    for name, value in values.items():
        value[...] = theirs[name]
    # What whitening derives from its matrix is only right to the precision of the model.
    if "preprocess.inverse" in values:
        values["preprocess.inverse"][...] = np.linalg.inv(values["preprocess.matrix"])
        values["preprocess.logdet"][...] = np.linalg.slogdet(values["preprocess.matrix"])[1]
    return copy


def _probe_jacobian(flow: Density, row: Batch) -> float:
    """Row i of dz/dx is what backward returns for dz = unit vector i."""
    z, logdet = flow.forward(row.x, **row.conditions)
    d = flow.dims
    rows = [flow.backward(np.repeat(z, len(unit), 0), unit, np.zeros(len(unit)),
                          **row[np.zeros(len(unit), int)].conditions)[1].reshape(len(unit), d)
            for unit in np.array_split(np.eye(d), -(-d // 64))]
    return _error(logdet, np.linalg.slogdet(np.concatenate(rows))[1])


def _probe_direction(flow: Density, row: Batch, rng: np.random.Generator) -> float:
    """d/dt (g z + logdet)(x + t v) by backward and by differences."""
    x, named = row.x, row.conditions
    z, _ = flow.forward(x, **named)
    g, v = rng.standard_normal(z.shape) / np.sqrt(flow.dims), rng.standard_normal(x.shape) * max(1.0, np.abs(x).max())
    _, dx = flow.backward(z, g, np.ones(1), **named)

    def value(t: float) -> float:
        z, logdet = flow.forward(x + t * v, **named)
        return float((g * z).sum() + logdet.sum())

    return _against_differences(float((dx * v).sum()), value)


def _probe_gradient(flow: Density, data: Batch, rng: np.random.Generator) -> float:
    """The loss along a change of all parameters, by their gradient and by differences."""
    start = flow.params.copy()

    def loss(t: float) -> float:
        flow.params[:] = start + t * direction
        flow.zero_grad()
        return flow.loss_and_grad(data.x, seed=0, **data.conditions)  # one seed: dropout's masks stay

    direction = np.zeros_like(start)
    loss(0.0)
    # Half along the gradient: in a random direction alone the slope may be small by chance.
    noise = np.where(flow.grads != 0, rng.standard_normal(len(start)), 0)
    direction = flow.grads / np.linalg.norm(flow.grads) + noise / np.linalg.norm(noise)
    return _against_differences(float(flow.grads @ direction), loss)


def _against_differences(slope: float, value: Callable[[float], float]) -> float:
    """The relative error of value's slope at 0, by the best of several differences."""
    return min(abs((value(t) - value(-t)) / (2 * t) - slope) for t in STEPS) / abs(slope)
