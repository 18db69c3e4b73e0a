"""Self-test of a model on data: inverse, log-determinant, gradients, precision."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from evenflow._border import bounds, checks
from evenflow._border.batch import Batch
from evenflow.density import Density, bounds_of, check, compiled, core_of, floats
from evenflow.errors import NumericError

SAMPLES = 16
PROBED_DIMS = 512
ROUND_TRIP = {"float32": 1e-3, "float64": 1e-9}
PRECISION, BFLOAT16_PRECISION = 1e-3, 5e-2
"""The second with nets of bfloat16. They round to eight bits, and every coupling adds the error of its own: trained
models of up to 16 couplings were up to 1.2e-2 off."""
EXACT = 1e-7
TAYLOR = 1e-4
TAYLOR_STEPS = [1e-4, 1e-5, 1e-6, 1e-7, 1e-8]
PROBE_STEPS = (1e-5, 1e-6, 1e-7)


@dataclass(frozen=True, repr=False)
class Report:
    """What Flow.verify found. Errors are relative to max(1, size of the exact quantity).

    The Jacobian and the gradient are tested on a float64 copy of the model, so that these numbers show wrong
    formulas and not rounding; `precision` compares the model with that copy.
    """

    samples: int
    dtype: str
    probed: bool
    """Whether `jacobian` tests the log-determinant itself; done with up to 512 dimensions."""
    bfloat16: bool = False
    """Whether the model's nets compute in it: those of the copy don't, which `precision` shows."""
    finite: bool = False
    """No value on the way was NaN or infinity, or too far off to go on; else `error` says what was."""
    error: str = ""
    round_trip_x: float = math.inf
    """max |inverse(forward(x)) - x|."""
    round_trip_z: float = math.inf
    """max |forward(inverse(z)) - z|, z drawn from the base. Samples whose distance from a bound of their column the
    model's type does not resolve are left out; 0 where that leaves none."""
    logdet_sum: float = math.inf
    """max |logdet of forward + logdet of inverse|."""
    precision: float = math.inf
    """max |log_prob - log_prob of the float64 copy|."""
    jacobian: float = math.inf
    """|logdet - log |det J||, J from unit vectors through `backward`; where not `probed`, the error of one
    directional derivative of z and logdet."""
    gradient: float = math.inf
    """Derivative of the loss along a random change of all parameters, against differences; relative."""
    taylor_ratio: float = math.nan
    """Remainder of the first-order Taylor expansion at a step, over that at half of it: near 4."""
    worst_level: int = 0
    """The level of the latent with the largest round-trip error of z; that error; its largest |z| of x."""
    worst_level_error: float = math.inf
    worst_level_z: float = math.inf

    @property
    def failures(self) -> list[str]:
        """The checks that failed, in words."""
        bound, precision = ROUND_TRIP[self.dtype], BFLOAT16_PRECISION if self.bfloat16 else PRECISION
        if not self.finite:
            return [f"finite: {self.error}"]
        checks = [("round_trip_x", self.round_trip_x <= bound, f"<= {bound:g}"),
                  ("round_trip_z", self.round_trip_z <= bound, f"<= {bound:g}"),
                  ("logdet_sum", self.logdet_sum <= bound, f"<= {bound:g}"),
                  ("precision", self.precision <= precision, f"<= {precision:g}"),
                  ("jacobian", self.jacobian <= (EXACT if self.probed else TAYLOR),
                   f"<= {EXACT if self.probed else TAYLOR:g}"),
                  ("gradient", self.gradient <= TAYLOR, f"<= {TAYLOR:g}")]
        return [f"{name}: expected {wanted}, got {getattr(self, name)}"
                for name, good, wanted in checks if not good]

    @property
    def ok(self) -> bool:
        return not self.failures

    def __str__(self) -> str:
        how = "unit vectors" if self.probed else "one direction"
        lines = [f"{'ok' if self.ok else 'FAILED'}: {self.samples} samples, {self.dtype}"
                 + (", nets of bfloat16" if self.bfloat16 else ""),
                 f"  finite                  {'yes' if self.finite else 'NO'}",
                 f"  inverse(forward(x)) = x {self.round_trip_x:.1e}",
                 f"  forward(inverse(z)) = z {self.round_trip_z:.1e}",
                 f"  logdet both ways        {self.logdet_sum:.1e}",
                 f"  against float64         {self.precision:.1e}",
                 f"  logdet against Jacobian {self.jacobian:.1e} ({how})",
                 f"  gradient                {self.gradient:.1e} (Taylor ratio {self.taylor_ratio:.2f})",
                 f"  worst level             {self.worst_level} (error {self.worst_level_error:.1e}, "
                 f"max |z| {self.worst_level_z:.2f})"]
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
    bounds.require_inside("verify", bounds_of(flow), data.x)
    report = Report(samples=len(data), dtype=flow.dtype.name, probed=flow.dims <= PROBED_DIMS,
                    bfloat16=flow.config.get("conditioner_dtype") == "bfloat16")
    try:
        numbers = _measure(flow, data, np.random.default_rng(seed))
        return dataclasses.replace(report, finite=True, **numbers)
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
    kept = _resolved(flow, drawn)
    errors = [_error(b[kept], a[kept]) for a, b in zip(flow.split_latent(z0), flow.split_latent(z2))]
    worst = int(np.argmax(errors))
    exact = _float64_copy(flow)
    precision = _error(flow.log_prob(x, **named), exact.log_prob(x, **named))
    probe = _probe_jacobian if flow.dims <= PROBED_DIMS else _probe_direction
    wide = dataclasses.replace(data, x=x.astype(np.float64))
    jacobian = probe(exact, wide[:1], rng)
    gradient, ratio = _taylor(exact, wide, rng)
    return dict(
        round_trip_x=_error(x2, x), round_trip_z=_error(z2[kept], z0[kept]), logdet_sum=_error(-logdet2, logdet),
        precision=precision, jacobian=jacobian, gradient=gradient, taylor_ratio=ratio, worst_level=worst,
        worst_level_error=errors[worst], worst_level_z=float(np.abs(flow.split_latent(z)[worst]).max()))


def _resolved(flow: Density, x: np.ndarray) -> np.ndarray | slice:
    """The samples that lie so far from the bounds that their rounding hardly moves z."""
    ends = bounds_of(flow)
    if ends is None:
        return slice(None)
    near = 4 * np.finfo(x.dtype).eps / ROUND_TRIP[x.dtype.name]
    room = near * np.abs(x.astype(np.float64)) + np.finfo(x.dtype).tiny
    outside = bounds.outside(ends, x - room) | bounds.outside(ends, x + room)
    kept: np.ndarray = ~outside.any(1)
    return kept


def _error(got: np.ndarray, wanted: np.ndarray) -> float:
    if not np.size(wanted):
        return 0.0
    with np.errstate(invalid="ignore"):
        error = np.abs(np.asarray(got, np.float64) - wanted).max() / max(1.0, float(np.abs(wanted).max()))
    return float(error) if np.isfinite(error) else float("inf")


def _float64_copy(flow: Density) -> Density:
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


def _probe_jacobian(flow: Density, row: Batch, rng: np.random.Generator) -> float:
    """Row i of dz/dx is what backward returns for dz = unit vector i."""
    z, logdet = flow.forward(row.x, **row.conditions)
    d = flow.dims
    rows = [flow.backward(np.repeat(z, len(unit), 0), unit, np.zeros(len(unit)),
                          **row[np.zeros(len(unit), int)].conditions)[1].reshape(len(unit), d)
            for unit in np.array_split(np.eye(d), -(-d // 64))]
    sign, exact = np.linalg.slogdet(np.concatenate(rows))
    return _error(logdet, np.array([exact])) if sign != 0 else float("inf")


def _probe_direction(flow: Density, row: Batch, rng: np.random.Generator) -> float:
    """d/dt (g z + h logdet)(x + t v) by backward and by central differences."""
    x, named = row.x, row.conditions
    z, _ = flow.forward(x, **named)
    g, h, v = rng.standard_normal(z.shape) / np.sqrt(flow.dims), np.ones(1), rng.standard_normal(x.shape)
    _, dx = flow.backward(z, g, h, **named)
    slope, size = np.array(float((dx * v).sum())), max(1.0, float(np.abs(x).max()))

    def value(t: float) -> float:
        z, logdet = flow.forward(x + t * v, **named)
        return float((g * z).sum() + logdet.sum())

    # A large step crosses kinks of the nets, a small one drowns in rounding; a wrong derivative fails at all of them.
    return min(_error(np.array((value(t) - value(-t)) / (2 * t)), slope) for t in size * np.array(PROBE_STEPS))


def _taylor(flow: Density, data: Batch, rng: np.random.Generator) -> tuple[float, float]:
    """Relative error of the gradient along a random direction, and the ratio of the Taylor remainders.

    Differences are taken at several steps and the best one counts: large steps cross kinks of the nets, small
    ones drown in rounding; a wrong gradient is wrong at all of them. The ratio, of remainders that are smaller still,
    is that of the largest step at which the gradient holds.
    """
    start = flow.params.copy()
    flow.zero_grad()
    loss = flow.loss_and_grad(data.x, seed=0, **data.conditions)  # one seed: dropout's masks stay
    # Half along the gradient: in a random direction alone the slope may be small by chance.
    direction = flow.grads / max(float(np.linalg.norm(flow.grads)), 1e-300)
    noise = np.zeros_like(start)
    for _, _, group, offset, size in flow.entries():
        if group in ("decay", "no_decay"):
            noise[offset:offset + size] = rng.standard_normal(size)
    direction += noise / np.linalg.norm(noise)
    slope = float(flow.grads @ direction)

    def moved(step: float) -> float:
        flow.params[:] = start + step * direction
        flow.zero_grad()
        return flow.loss_and_grad(data.x, seed=0, **data.conditions)

    found = []
    for step in TAYLOR_STEPS:
        ahead, back, half = moved(step), moved(-step), moved(step / 2)
        error = abs((ahead - back) / (2 * step) - slope) / max(abs(slope), 1e-300)
        remainder = abs(ahead - loss - step * slope), abs(half - loss - step / 2 * slope)
        found.append((error, remainder[0] / max(remainder[1], 1e-300)))
    flow.params[:] = start
    best = min(found)
    return best[0], next((ratio for error, ratio in found if error <= TAYLOR), best[1])
