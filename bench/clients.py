"""Runs nessai, pocoMC, aspire and sbi with their own flows and with evenflow: whole runs, times and answers.

usage: python clients.py --out FOLDER [--works nessai-gauss4,...] [--seeds 201,202,...] [--threads 1]
       python clients.py --out FOLDER --show
A run is a process of its own. The host's flow and evenflow take turns on every seed, and each result is kept at once in
FOLDER/clients.json: a second call goes on where the first one ended.
"""

import argparse
import json
import logging
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from importlib.metadata import version

import numpy as np

PACKAGES = {"nessai": "nessai", "pocomc": "pocomc", "aspire": "aspire-inference", "sbi": "sbi"}
WORKS = {name: tuple(name.split("-", 1)) for name in (
    "nessai-gauss4", "nessai-gauss8", "nessai-rosenbrock4", "pocomc-rosenbrock4", "pocomc-rosenbrock10",
    "aspire-rosenbrock4", "aspire-rosenbrock8", "sbi-two_moons", "sbi-gaussian_linear", "sbi-slcp")}
ENGINES = "host", "evenflow"
SIMULATIONS, HELD_OUT = 10_000, 5_000
OBSERVATIONS, REFERENCE = 5, 1000  # of the classifier two-sample test


# Problems of the samplers


class Gauss:
    """Independent unit normals in a box from -10 to 10."""

    half = 10.0

    def __init__(self, dims: int):
        self.dims = dims

    def log_likelihood(self, x: np.ndarray) -> np.ndarray:
        return -0.5 * (x * x).sum(-1) - 0.5 * self.dims * math.log(2 * math.pi)

    def log_evidence(self) -> float:
        return self.dims * (math.log(math.erf(self.half / math.sqrt(2))) - math.log(2 * self.half))


class Rosenbrock(Gauss):
    """A chain of Rosenbrock's functions in a box from -5 to 5."""

    half = 5.0

    def log_likelihood(self, x: np.ndarray) -> np.ndarray:
        return -(100 * (x[..., 1:] - x[..., :-1]**2)**2 + (1 - x[..., :-1])**2).sum(-1)

    def _messages(self, points: int = 4001) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """Grid, likelihood of neighbours, and integrals over all columns to the right, by column."""
        grid = np.linspace(-self.half, self.half, points)
        pairs = np.exp(-100 * (grid - grid[:, None]**2)**2 - (1 - grid[:, None])**2)
        right = [np.ones(points)]
        for _ in range(self.dims - 1):
            right.insert(0, pairs @ right[0] * (grid[1] - grid[0]))
        return grid, pairs, right

    def log_evidence(self) -> float:
        grid, _, right = self._messages()
        return math.log(right[0].sum() * (grid[1] - grid[0])) - self.dims * math.log(2 * self.half)

    def draws(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Of the posterior, column by column, within a step of the grid."""
        grid, pairs, right = self._messages()
        at = rng.choice(len(grid), n, p=right[0] / right[0].sum())
        columns = [at]
        for later in right[1:]:
            cumulated = (pairs[at] * later).cumsum(1)
            at = (cumulated > rng.random((n, 1)) * cumulated[:, -1:]).argmax(1)
            columns.append(at)
        return grid[np.stack(columns, 1)] + (grid[1] - grid[0]) * (rng.random((n, self.dims)) - 0.5)


def problem(name: str) -> Gauss:
    kind = name.rstrip("0123456789")
    return {"gauss": Gauss, "rosenbrock": Rosenbrock}[kind](int(name.removeprefix(kind)))


# A run in each host: wall, and its answers


def run_nessai(name: str, engine: str, seed: int, threads: int) -> dict:
    from nessai.flowsampler import FlowSampler
    from nessai.model import Model
    of = problem(name)

    class Problem(Model):
        names = [f"x{i}" for i in range(of.dims)]
        bounds = {f"x{i}": [-of.half, of.half] for i in range(of.dims)}

        def log_prior(self, x):
            return np.log(self.in_bounds(x), dtype=float) - of.dims * math.log(2 * of.half)

        def log_likelihood(self, x):
            return of.log_likelihood(self.unstructured_view(x))

    given = {}
    if engine == "evenflow":
        from evenflow.clients.nessai import EvenflowProposal
        given["flow_proposal_class"] = EvenflowProposal
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        sampler = FlowSampler(Problem(), output=folder, nlive=1000, seed=seed, plot=False, resume=False,
                              pytorch_threads=threads, signal_handling=False, **given)
        sampler.run(save=False, plot=False)
        wall = time.perf_counter() - begun
    state = sampler.ns
    return {"wall": wall, "log_evidence": float(state.log_evidence), "error": float(state.log_evidence_error),
            "truth": of.log_evidence(), "calls": int(state.model.likelihood_evaluations)}


def run_pocomc(name: str, engine: str, seed: int, threads: int) -> dict:
    import pocomc
    from scipy.stats import uniform
    of = problem(name)
    prior = pocomc.Prior(of.dims * [uniform(-of.half, 2 * of.half)])
    begun = time.perf_counter()
    sampler = pocomc.Sampler(prior, of.log_likelihood, vectorize=True, random_state=seed, pytorch_threads=threads)
    if engine == "evenflow":
        from evenflow.clients.pocomc import Flow
        sampler.flow = Flow(of.dims)
    sampler.run(progress=False)
    wall = time.perf_counter() - begun
    log_evidence, error = sampler.evidence()
    x, weights, *_ = sampler.posterior()
    mean = (weights[:, None] * x).sum(0)
    return {"wall": wall, "log_evidence": float(log_evidence), "error": float(error), "truth": of.log_evidence(),
            "calls": int(sampler.calls), "mean": mean.tolist(),
            "deviation": np.sqrt((weights[:, None] * (x - mean)**2).sum(0)).tolist()}


def run_aspire(name: str, engine: str, seed: int, threads: int) -> dict:
    import array_api_compat.numpy as numpy_api
    import torch
    from aspire import Aspire, Samples
    torch.set_num_threads(threads)
    of = problem(name)
    names = [f"x{i}" for i in range(of.dims)]

    def log_prior(samples):
        inside = (np.abs(np.asarray(samples.x)) <= of.half).all(1)
        return np.where(inside, -of.dims * math.log(2 * of.half), -np.inf)

    given = {"flow_backend": "evenflow", "threads": threads} if engine == "evenflow" else {}
    x = of.draws(4000, np.random.default_rng(seed))
    begun = time.perf_counter()
    sampler = Aspire(log_likelihood=lambda samples: of.log_likelihood(np.asarray(samples.x)), log_prior=log_prior,
                     dims=of.dims, parameters=names, prior_bounds={name: [-of.half, of.half] for name in names},
                     bounded_to_unbounded=False, xp=numpy_api, seed=seed, **given)
    sampler.fit(Samples(x, parameters=names, xp=numpy_api))
    found = sampler.sample_posterior(sampler="importance", n_samples=20_000)
    return {"wall": time.perf_counter() - begun, "log_evidence": float(found.log_evidence),
            "error": float(found.log_evidence_error), "truth": of.log_evidence(), "efficiency": float(found.efficiency)}


# Tasks of sbi: a prior, a simulator, and draws of the exact posterior of one observation


class TwoMoons:
    """The posterior has two crescents."""

    def prior(self):
        import torch
        from sbi.utils import BoxUniform
        return BoxUniform(-torch.ones(2), torch.ones(2))

    def moon(self, n: int):
        import torch
        angle, radius = math.pi * (torch.rand(n) - 0.5), 0.1 + 0.01 * torch.randn(n)
        return torch.stack([radius * angle.cos() + 0.25, radius * angle.sin()], 1)

    def simulate(self, theta):
        import torch
        shift = torch.stack([-theta.sum(1).abs(), theta[:, 1] - theta[:, 0]], 1)
        return self.moon(len(theta)) + shift / math.sqrt(2)

    def posterior(self, x, n: int):
        """Invert the shift of random moons, and keep parameters inside the prior's box."""
        import torch
        found = torch.empty(0, 2)
        while len(found) < n:
            shift = math.sqrt(2) * (x - self.moon(4 * n))
            total = shift[:, 0] * (2 * torch.randint(2, (len(shift),)) - 1)
            theta = torch.stack([total - shift[:, 1], total + shift[:, 1]], 1) / 2
            found = torch.cat([found, theta[(shift[:, 0] <= 0) & (theta.abs() <= 1).all(1)]])
        return found[:n]


class GaussianLinear:
    """Ten parameters, each seen with the noise of its own prior."""

    def prior(self):
        import torch
        return torch.distributions.MultivariateNormal(torch.zeros(10), 0.1 * torch.eye(10))

    def simulate(self, theta):
        import torch
        return theta + math.sqrt(0.1) * torch.randn_like(theta)

    def posterior(self, x, n: int):
        import torch
        return x / 2 + math.sqrt(0.05) * torch.randn(n, 10)


class Slcp:
    """Four points of a Gaussian whose moments are functions of five parameters."""

    def prior(self):
        import torch
        from sbi.utils import BoxUniform
        return BoxUniform(-3 * torch.ones(5), 3 * torch.ones(5))

    def factor(self, spread):
        """Cholesky factor of the points' covariance: theta[:, 2:] (N, 3) -> (N, 2, 2)."""
        import torch
        scale, correlation = spread[:, :2]**2, spread[:, 2].tanh()
        second = torch.stack([correlation, (1 - correlation**2).sqrt()], 1) * scale[:, 1:]
        first = torch.stack([scale[:, 0], torch.zeros(len(spread))], 1)
        return torch.stack([first, second], 1)

    def simulate(self, theta):
        import torch
        noise = torch.randn(len(theta), 4, 2)
        return (noise @ self.factor(theta[:, 2:]).mT + theta[:, None, :2]).reshape(len(theta), 8)

    def posterior(self, x, n: int):
        """Accept spreads from the prior by their likelihood, with the mean integrated out; the mean is then normal.

        It lies about the points' mean, with a quarter of their covariance, and within the prior's box.
        """
        import torch
        points, found, highest = x.reshape(4, 2), torch.empty(0, 5), torch.tensor(-math.inf)
        centred = (points - points.mean(0)).T
        while len(found) < n:
            spread = 3 * (2 * torch.rand(1_000_000, 3) - 1)
            factor = self.factor(spread)
            mean = points.mean(0) + (factor @ torch.randn(len(spread), 2, 1))[..., 0] / 2
            whitened = torch.linalg.solve_triangular(factor, centred.expand(len(spread), 2, 4), upper=False)
            likelihood = -3 * factor.diagonal(dim1=1, dim2=2).log().sum(1) - whitened.square().sum((1, 2)) / 2
            kept = likelihood.isfinite() & (mean.abs() <= 3).all(1)
            theta, likelihood = torch.cat([mean, spread], 1)[kept], likelihood[kept]
            before, highest = highest, torch.cat([highest[None], likelihood]).max()
            found = found[torch.rand(len(found)).log() < before - highest]  # as if this maximum had been known
            found = torch.cat([found, theta[torch.rand(len(theta)).log() < likelihood - highest]])
        return found[:n]


TASKS = {"two_moons": TwoMoons(), "gaussian_linear": GaussianLinear(), "slcp": Slcp()}


def run_sbi(name: str, engine: str, seed: int, threads: int) -> dict:
    import torch
    from sbi.diagnostics import check_sbc, run_sbc
    from sbi.inference import NPE
    from sbi.utils.metrics import c2st
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    task = TASKS[name]
    prior = task.prior()
    theta, held_out = prior.sample((SIMULATIONS,)), prior.sample((HELD_OUT,))
    x, held_out_x = task.simulate(theta), task.simulate(held_out)
    exact = [task.posterior(one, REFERENCE) for one in held_out_x[:OBSERVATIONS]]
    torch.manual_seed(seed)
    begun = time.perf_counter()
    if engine == "evenflow":
        from evenflow.clients import sbi
        trainer = NPE(prior, density_estimator=sbi.density_estimator(), show_progress_bars=False)
        estimator = sbi.train(trainer.append_simulations(theta, x))
    else:
        trainer = NPE(prior, density_estimator="nsf", show_progress_bars=False)
        estimator = trainer.append_simulations(theta, x).train()
    wall = time.perf_counter() - begun
    with torch.no_grad():
        log_prob = estimator.log_prob(held_out[None], held_out_x)[0]
    posterior, tested = trainer.build_posterior(), slice(0, 300)
    ranks, daps = run_sbc(held_out[tested], held_out_x[tested], posterior, num_posterior_samples=200,
                          show_progress_bar=False, use_batched_sampling=False)
    checks = check_sbc(ranks, held_out[tested], daps, num_posterior_samples=200)
    accuracies = []
    for one, draws in zip(held_out_x, exact):
        drawn = posterior.sample((REFERENCE,), x=one, show_progress_bars=False)
        accuracies.append(float(c2st(draws, drawn, classifier="mlp")))
    return {"wall": wall, "epochs": trainer.summary["epochs_trained"][-1], "log_prob": float(log_prob.mean()),
            "parameters": sum(p.numel() for p in estimator.parameters()),
            "least_p_value_of_ranks": float(checks["ks_pvals"].min()), "c2st": statistics.mean(accuracies)}


RUNS = {"nessai": run_nessai, "pocomc": run_pocomc, "aspire": run_aspire, "sbi": run_sbi}


# All runs


def load(folder: str) -> list[dict]:
    try:
        with open(os.path.join(folder, "clients.json")) as file:
            return json.load(file)
    except FileNotFoundError:
        return []


def measure(a) -> None:
    os.makedirs(a.out, exist_ok=True)
    runs, path = [run for run in load(a.out) if "failed" not in run], os.path.join(a.out, "clients.json")
    for seed in a.seeds:
        for work in a.works:
            for engine in ENGINES[::1 if seed % 2 else -1]:
                key = {"work": work, "engine": engine, "seed": seed, "threads": a.threads}
                if any(key.items() <= run.items() for run in runs):
                    continue
                with tempfile.TemporaryDirectory() as folder:  # hosts leave logs
                    done = subprocess.run(
                        [sys.executable, os.path.abspath(__file__), "--run", json.dumps(key)], capture_output=True,
                        text=True, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": str(a.threads)})
                last = (done.stderr if done.returncode else done.stdout).strip().split("\n")[-1]
                result = {"failed": last} if done.returncode else json.loads(last)
                print({**key, **result}, flush=True)
                runs.append({**key, **result})
                with open(path + ".new", "w") as file:
                    json.dump(runs, file, indent=1)
                os.replace(path + ".new", path)


def run(key: dict) -> dict:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    host, name = WORKS[key["work"]]
    result = RUNS[host](name, key["engine"], key["seed"], key["threads"])
    return {**result, "versions": {package: version(package) for package in ("evenflow", "torch", PACKAGES[host])}}


def of_mean(values: list[float]) -> str:
    error = f" ± {statistics.stdev(values) / math.sqrt(len(values)):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{error}"


def show(runs: list[dict]) -> None:
    for work in WORKS:
        found = {engine: {(r["seed"], r["threads"]): r for r in runs
                       if (r["work"], r["engine"]) == (work, engine) and "failed" not in r} for engine in ENGINES}
        both = sorted(found["host"].keys() & found["evenflow"].keys())
        if not both:
            continue
        pairs = [(found["host"][key], found["evenflow"][key]) for key in both]
        walls = [statistics.median(pair[i]["wall"] for pair in pairs) for i in (0, 1)]
        ratio = statistics.median(host["wall"] / ours["wall"] for host, ours in pairs)
        print(f"\n{work}, {len(both)} runs: host {walls[0]:.1f} s, evenflow {walls[1]:.1f} s, ratio {ratio:.1f}")
        for what in "efficiency", "log_prob", "least_p_value_of_ranks", "c2st":
            if what in pairs[0][0]:
                compare(what, [[r[what] for r in side] for side in zip(*pairs)])
        if "mean" in pairs[0][0]:
            of, rng = problem(WORKS[work][1]), np.random.default_rng(0)
            x = np.concatenate([of.draws(2000, rng) for _ in range(10)])
            for what, truth in (("mean", x.mean(0)), ("deviation", x.std(0))):
                compare(f"{what}, column farthest off, in deviations",
                        [[float(np.abs((r[what] - truth) / x.std(0)).max()) for r in side] for side in zip(*pairs)])
        if "truth" in pairs[0][0]:
            compare("log evidence - truth", [[r["log_evidence"] - r["truth"] for r in side] for side in zip(*pairs)])


def compare(what: str, values: list[list[float]]) -> None:
    """Of both engines, seed by seed."""
    host, ours = values
    print(f"  {what}: host {of_mean(host)}, evenflow {of_mean(ours)}, "
          f"difference {of_mean([o - h for h, o in zip(host, ours)])}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", help="folder for clients.json")
    parser.add_argument("--works", type=lambda text: text.split(","), default=list(WORKS))
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[1, 2, 3, 4, 5])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--show", action="store_true", help="print what the file holds, run nothing")
    parser.add_argument("--run", type=json.loads, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.run:
        return print("\n" + json.dumps(run(a.run)))  # sbi leaves the line open
    if not a.out or set(a.works) - set(WORKS):
        parser.error(f"--out is needed, and works are {', '.join(WORKS)}")
    if not a.show:
        measure(a)
    show(load(a.out))


if __name__ == "__main__":
    main()
