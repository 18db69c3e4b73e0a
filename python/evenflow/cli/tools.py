"""Commands that measure and fill in: score, inpaint, spectrum, bench."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from evenflow import plot
from evenflow.bench import bench
from evenflow.cli.common import (command, data_given, data_given_arguments, examples, given_rows,
                                 model_and_data, model_argument, report, rows_arguments, table_arguments,
                                 unread_context)
from evenflow.errors import ConfigError
from evenflow.export import write_data
from evenflow.files import Weighted, replacing, write_rows
from evenflow.flow import Flow
from evenflow.inpaint import MASKS, hidden_pixels, inpaint
from evenflow.latent import as_floats
from evenflow.models import NICE
from evenflow.runs import open_model
from evenflow.score import log_probs, score_rows
from evenflow.stream import read_rows


def score(args: argparse.Namespace) -> int:
    flow, plan = open_model(args.path, args.device, args.threads)
    reference, weights, said = None, None, data_given(args, flow, plan)
    if args.data is None and args.reference == "":
        raise ConfigError("[score] expected data to score, other rows than those of the reference, got none")
    if args.reference is not None:
        chosen = (args.columns, args.size, args.context) if args.reference else (None, args.size, None)
        rows = read_rows(args.reference or None, plan, *chosen)
        for_all = None if said is None or said.ndim == 2 else said  # a file's rows are those of the data
        reference, weights = _scored(flow, given_rows(for_all, rows, keep=True), args.seed)
    rows = read_rows(args.data, plan, args.columns, args.size, args.context or unread_context(args.data, said))
    result = score_rows(flow, given_rows(said, rows), args.out, reference, args.seed, weights)
    report(args, {**result, "reference": None if reference is None else len(reference), "out": args.out},
           f"{result['n']} rows, log-likelihood {result['mean']:.4f} nats on average"
           f"{' (weighted)' if result['weighted'] else ''}, {result['min']:.4f} ... {result['max']:.4f}\n{args.out}")
    return 0


def _scored(flow: Flow, rows: Iterable[Weighted], seed: int) -> tuple[np.ndarray, np.ndarray | None]:
    """log_prob of all rows, and what they count for."""
    weights: list[np.ndarray] = []

    def noted() -> Iterator[Weighted]:
        for x, given, weight in rows:
            weights.extend(() if weight is None else (weight,))
            yield x, given, weight

    scores = np.concatenate(list(log_probs(flow, noted(), seed)))
    return scores, np.concatenate(weights) if weights else None


def inpaint_command(args: argparse.Namespace) -> int:
    flow, plan = open_model(args.path, args.device, args.threads)
    x, given = examples(args, flow, plan)
    masks = MASKS if args.mask == ["all"] else args.mask
    if not flow.is_image:
        raise ConfigError("[inpaint] expected a model of images, got one for tables")
    height, width, _ = flow.shape
    hidden = [hidden_pixels(mask, height, width, args.seed) for mask in masks]
    original = as_floats(flow, x)
    lines = [original]
    with write_data("inpaint", flow, args.out, columns=len(x)) as write:
        for mask in hidden:
            grey = np.where(mask[..., None], 2.0**flow.bits / 2, original).astype(flow.dtype)
            lines += [grey, inpaint(flow, x, mask, args.steps, args.seed, **flow._by_name(given))]
        write(np.stack(lines))
    error = {mask: float(np.abs(found - original)[:, h].mean())
             for mask, h, found in zip(masks, hidden, lines[2::2])}
    text = [f"{mask}: hidden pixels {value:.2f} levels from the original on average"
            for mask, value in error.items()]
    report(args, {"n": len(x), "mean_error": error, "out": args.out}, "\n".join([*text, args.out]))
    return 0


def spectrum(args: argparse.Namespace) -> int:
    flow, _ = open_model(args.path, args.device, args.threads)
    if not isinstance(flow, NICE):
        raise ConfigError("[spectrum] expected a NICE model, since others have no scaling layer, "
                          f"got {flow.config['model']}")
    sigma = flow.spectrum()
    if args.out is not None and args.out.lower().endswith((".npy", ".csv")):
        with write_rows("spectrum", args.out, ["sigma"]) as writer:
            writer.write(sigma)
    elif args.out is not None:
        with replacing("spectrum", args.out) as temporary:
            plot.spectrum(sigma, temporary)
    middle = float(np.median(sigma))
    text = [f"{len(sigma)} latent dimensions, sigma {sigma[0]:.4g} ... {sigma[-1]:.4g}, median {middle:.4g}",
            "largest: " + ", ".join(f"{s:.4g}" for s in sigma[:10])]
    report(args, {"sigma": sigma.tolist(), "median": middle, "out": args.out},
           "\n".join(text + ([args.out] if args.out is not None else [])))
    return 0


def bench_command(args: argparse.Namespace) -> int:
    flow, _ = open_model(args.path, args.device, args.threads)
    result = bench(flow, args.batch, args.seconds)
    lines = [f"{name:14} {result[f'{name}_ms']:10.3f} ms for {args.batch} rows, "
             f"{result[f'{name}_rows_per_second']:12,.0f} rows/s"
             for name in ("log_prob", "sample", "training_step")]
    report(args, result, "\n".join([*lines, f"{'log_prob':14} {result['one_row_ms']:10.3f} ms for one row"]))
    return 0


def _add_score(commands: Any) -> None:
    sub = command(commands, "score", score,
                  "Log-likelihood of every row, to a file. Large files are read piece by piece.",
                  "evenflow score runs/digits images.npy --reference --out scores.csv")
    model_and_data(sub)
    table_arguments(sub)
    data_given_arguments(sub)
    sub.add_argument("--reference", nargs="?", const="", metavar="DATA",
                     help="also p-values against these rows; without DATA: the test part of the run's own")
    sub.add_argument("--seed", type=int, default=0, help="of the noise that images get")
    sub.add_argument("--out", default="scores.csv", metavar="FILE", help=".csv or .npy (scores.csv)")


def _add_inpaint(commands: Any) -> None:
    sub = command(commands, "inpaint", inpaint_command,
                  "Fill in hidden pixels by noisy gradient ascent on the log-likelihood (NICE, section 5.2).",
                  "evenflow inpaint runs/digits --mask top random75 --out inpaint.png")
    model_and_data(sub)
    sub.add_argument("--mask", nargs="+", choices=(*MASKS, "all"), metavar="MASK", default=["top"],
                     help=f"what is hidden (top): {', '.join(MASKS)}; all: one after the other")
    rows_arguments(sub, 10)
    data_given_arguments(sub)
    sub.add_argument("--steps", type=int, default=2000, help="2000; the authors took 111895")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--out", default="inpaint.png", metavar="FILE",
                     help="originals, then a line of hidden and one of filled images a mask: .png, .npy or a "
                          "new folder (inpaint.png)")


def add_commands(commands: Any) -> None:
    _add_score(commands)
    _add_inpaint(commands)
    sub = command(commands, "spectrum", spectrum, "Sorted scales of NICE's scaling layer.",
                  "evenflow spectrum runs/nice --out spectrum.png")
    model_argument(sub)
    sub.add_argument("--out", metavar="FILE", help=".npy, .csv, or a plot: .png .pdf .svg (none)")
    sub = command(commands, "bench", bench_command, "How fast a model runs on this machine.",
                  "evenflow bench runs/digits --batch 64")
    model_argument(sub)
    sub.add_argument("--batch", type=int, default=64, help="rows a call (64)")
    sub.add_argument("--seconds", type=float, default=1.0, help="time for each measurement (1.0)")
