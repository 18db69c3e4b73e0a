"""Commands on latents and by gradients: encode, decode, reconstruct, interpolate, edit, inpaint."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from evenflow import latent
from evenflow.cli.common import (chosen_rows, class_number, command, examples, given_arguments, given_context,
                                 given_label, model_and_data, model_argument, report, rows_arguments, table_arguments)
from evenflow.data import Dataset
from evenflow.errors import ConfigError
from evenflow.runs.export import decode_rows, encode_rows, write_data
from evenflow.flow import Flow
from evenflow.inpaint import MASKS, hidden_pixels, inpaint
from evenflow.runs import held_out, open_model, part_for
from evenflow.runs.stream import read_latents, read_rows

PICTURE = "a picture (.png), an array (.npy) or, for images, a new folder"
LINES = "a picture (.png), a new folder or, as tables need, an array (.npy)"


def encode(args: argparse.Namespace) -> int:
    flow, plan = open_model(args.path, args.device, args.threads)
    n = encode_rows(flow, read_rows(args.data, flow, plan, args.columns, args.size, args.context), args.out)
    report(args, {"n": n, "dims": flow.dims, "out": args.out}, args.out)
    return 0


def decode(args: argparse.Namespace) -> int:
    flow, plan = open_model(args.path, args.device, args.threads)
    n = decode_rows(flow, read_latents(args.latents), args.out, given_label(args, flow, plan),
                    flow.columns, given_context(args, flow, plan, needed=False))
    report(args, {"n": n, "out": args.out}, args.out)
    return 0


def reconstruct(args: argparse.Namespace) -> int:
    flow, plan = open_model(args.path, args.device, args.threads)
    x, given = examples(args, flow, plan)
    keeps = args.keep or [len(flow._core.levels())]
    shown, rows = [latent.as_floats(flow, x)], []
    out = _out(args, flow, "reconstruct")
    with write_data("reconstruct", flow, out, columns=len(x)) as write:
        for keep in keeps:
            shown.append(latent.reconstruct(flow, x, keep=keep, rest=args.rest, seed=args.seed,
                                            **flow._by_name(given)))
            error = np.abs(shown[-1].astype(np.float64) - shown[0])
            rows.append({"keep": keep, "worst_error": float(error.max()),
                         "mean_error": float(error.mean())})
        write(np.stack(shown))
    unit = "levels" if flow.is_image else "units of the data"
    lines = [f"keep {r['keep']} of {len(flow._core.levels())} levels: worst error {r['worst_error']:.3g}, "
             f"mean error {r['mean_error']:.3g} {unit}" for r in rows]
    report(args, {"n": len(x), "reconstructions": rows, "out": out}, "\n".join([*lines, out]))
    return 0


def interpolate(args: argparse.Namespace) -> int:
    flow, plan = open_model(args.path, args.device, args.threads)
    args.n = 4 if args.manifold else args.n
    x, given = examples(args, flow, plan, of_a_class=4 if args.manifold else 2)
    if not args.manifold and len(x) % 2:
        raise ConfigError(f"[interpolate] --rows are start and end in turn, an even number; got {len(x)}")
    if given is not None:
        groups = given[None] if args.manifold else given.reshape(-1, 2, *given.shape[1:])
        if (groups != groups[:, :1]).any():
            what = "context" if flow.context else "class"
            raise ConfigError(f"[interpolate] start and end have to be of one {what}; choose such --rows")
        given = groups[:, 0]
    out = _out(args, flow, "interpolate")
    with write_data("interpolate", flow, out, columns=args.steps) as write:
        if args.manifold:
            write(latent.manifold(flow, x, steps=args.steps, **flow._by_name(None if given is None else given[0])))
        else:
            write(latent.interpolate(flow, x[0::2], x[1::2], steps=args.steps, **flow._by_name(given)))
    report(args, {"samples": len(x), "steps": args.steps, "out": out}, out)
    return 0


def edit(args: argparse.Namespace) -> int:
    flow, plan = open_model(args.path, args.device, args.threads)
    part = held_out(flow, plan, args.data, args.size, labelled=True)
    positive = _marked(part, args.positive, "train")
    negative = ~positive if args.negative is None else _marked(part, args.negative, "train")
    train = part_for(flow, part, "train")
    direction = latent.attribute(flow, train.x, positive, negative, **train.conditions)
    x, given = _unmarked(args, flow, part)
    out = _out(args, flow, "edit")
    with write_data("edit", flow, out, columns=len(args.strengths)) as write:
        write(latent.edit(flow, x, direction, args.strengths, **flow._by_name(given)))
    result = {"positive": int(positive.sum()), "negative": int(negative.sum()),
              "length": float(np.linalg.norm(direction)), "strengths": args.strengths, "out": out}
    report(args, result, f"direction: {result['positive']} samples with the attribute, {result['negative']} "
                         f"without, length {result['length']:.3g}\n{out}")
    return 0


def inpaint_command(args: argparse.Namespace) -> int:
    flow, plan = open_model(args.path, args.device, args.threads)
    x, given = examples(args, flow, plan)
    masks = MASKS if args.mask == ["all"] else args.mask
    if not flow.is_image:
        raise ConfigError("[inpaint] the model is of tables, which have no pixels")
    height, width, _ = flow.shape
    hidden = [hidden_pixels(mask, height, width, args.seed) for mask in masks]
    original = latent.as_floats(flow, x)
    lines = [original]
    with write_data("inpaint", flow, args.out, columns=len(x)) as write:
        for mask in hidden:
            grey = np.where(mask[..., None], 2.0**flow.bits / 2, original).astype(flow.dtype)
            lines += [grey, inpaint(flow, x, mask, steps=args.steps, seed=args.seed, **flow._by_name(given))]
        write(np.stack(lines))
    error = {mask: float(np.abs(found - original)[:, h].mean())
             for mask, h, found in zip(masks, hidden, lines[2::2])}
    text = [f"{mask}: hidden pixels {value:.2f} levels from the original on average"
            for mask, value in error.items()]
    report(args, {"n": len(x), "mean_error": error, "out": args.out}, "\n".join([*text, args.out]))
    return 0


def _out(args: argparse.Namespace, flow: Flow, name: str) -> str:
    """--out, else a picture, or for a table an array."""
    return args.out or name + (".png" if flow.is_image else ".npy")


def _marked(part: Dataset, names: list[str], which: str) -> np.ndarray:
    """Which samples of one part, "train" or "test", have one of some attributes or classes, (N,) bool."""
    if part.attributes:
        unknown = [name for name in names if name not in part.attributes]
        if unknown:
            raise ConfigError(f"[edit] expected an attribute out of {', '.join(part.attributes)}, "
                              f"got {unknown[0]!r}")
        values: np.ndarray = getattr(part, f"{which}_attributes")
        return np.asarray(values[:, [part.attributes.index(name) for name in names]].any(axis=1))
    labels = getattr(part, f"{which}_labels")
    if labels is None:
        raise ConfigError("[edit] the data have no labels and no attributes to edit by")
    return np.isin(labels, [class_number(name, part.classes) for name in names])


def _unmarked(args: argparse.Namespace, flow: Flow, part: Dataset) -> tuple[np.ndarray, np.ndarray | None]:
    """The samples to edit: --rows of the test part, else its first ones without the attribute."""
    which = "train" if part.test is None else "test"
    data = part_for(flow, part, which)
    x, given = data.x, data.given
    without = ~_marked(part, args.positive, which)
    if args.negative is not None:
        without &= _marked(part, args.negative, which)
    if args.rows is None and not without.any():
        raise ConfigError(f"[edit] no sample of the {which} part is without the attribute; choose --rows to edit")
    rows = chosen_rows(args, np.flatnonzero(without), len(x))
    return x[rows], None if given is None else given[rows]


def _add_reconstruct(commands: Any) -> None:
    sub = command(commands, "reconstruct", reconstruct,
                  "Data through the latent space and back; with --keep, from the coarsest levels alone.",
                  "evenflow reconstruct runs/digits --keep 2 1 --out reconstruct.png")
    model_and_data(sub)
    rows_arguments(sub, 10)
    sub.add_argument("--keep", type=int, nargs="+", metavar="K",
                     help="keep the coarsest K levels; several K: one line of pictures each (all levels)")
    sub.add_argument("--rest", choices=("zero", "redraw"), default="zero", help="the other levels (zero)")
    sub.add_argument("--seed", type=int, default=0, help="of --rest redraw")
    sub.add_argument("--out", metavar="FILE",
                     help=f"originals, then reconstructions: {LINES}; default: reconstruct.png or reconstruct.npy")


def _add_interpolate(commands: Any) -> None:
    sub = command(commands, "interpolate", interpolate,
                  "From sample to sample through latent space: start and end in turn.",
                  "evenflow interpolate runs/digits --rows 0 4 9 2 --steps 9 --out interpolate.png")
    model_and_data(sub)
    rows_arguments(sub, 8, "the first, of one class where the model has classes")
    sub.add_argument("--manifold", action="store_true",
                     help="Real NVP's manifold of four samples, on steps x steps angles")
    sub.add_argument("--steps", type=int, default=9, help="samples a line (9)")
    sub.add_argument("--out", metavar="FILE",
                     help=f"one line a pair: {LINES}; default: interpolate.png or interpolate.npy")


def _add_edit(commands: Any) -> None:
    sub = command(commands, "edit", edit,
                  "Move samples along an attribute vector: mean latent with the attribute minus without.",
                  "evenflow edit runs/digits --positive 0 --negative 6 --out edit.png")
    model_and_data(sub)
    sub.add_argument("--positive", nargs="+", required=True, metavar="NAME",
                     help="attributes of the data (CelebA), or classes")
    sub.add_argument("--negative", nargs="+", metavar="NAME", help="those without; default: all others")
    rows_arguments(sub, 8, "the first without the attribute")
    sub.add_argument("--strengths", type=float, nargs="+", metavar="S", default=[-1, -0.5, 0, 0.5, 1, 1.5],
                     help="multiples of the vector (-1 to 1.5 by 0.5)")
    sub.add_argument("--out", metavar="FILE",
                     help=f"one line a sample: {LINES}; default: edit.png or edit.npy")


def _add_inpaint(commands: Any) -> None:
    sub = command(commands, "inpaint", inpaint_command,
                  "Fill in hidden pixels by noisy gradient ascent on the log-likelihood (NICE, section 5.2).",
                  "evenflow inpaint runs/digits --mask top random75 --out inpaint.png")
    model_and_data(sub)
    sub.add_argument("--mask", nargs="+", choices=(*MASKS, "all"), metavar="MASK", default=["top"],
                     help=f"what is hidden (top): {', '.join(MASKS)}; all: one after the other")
    rows_arguments(sub, 10)
    sub.add_argument("--steps", type=int, default=2000, help="2000; the authors took 111895")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--out", default="inpaint.png", metavar="FILE",
                     help="originals, then a line of hidden and one of filled images a mask: .png, .npy or a "
                          "new folder (inpaint.png)")


def add_commands(commands: Any) -> None:
    sub = command(commands, "encode", encode, "Data to latents. Large files are read piece by piece.",
                  "evenflow encode runs/digits images.npy --out latents.npy")
    model_and_data(sub)
    table_arguments(sub)
    sub.add_argument("--out", default="latents.npy", metavar="FILE",
                     help=".npy, .csv, or .npz with labels or the context too (latents.npy)")
    sub = command(commands, "decode", decode, "Latents to data.",
                  "evenflow decode runs/digits latents.npy --out decoded.png")
    model_argument(sub)
    sub.add_argument("latents", metavar="LATENTS", help="file of `evenflow encode`: .npy, .csv or .npz")
    given_arguments(sub, "for latents without labels", "a row for each sample")
    sub.add_argument("--out", default="decoded.npy", metavar="FILE",
                     help=f"{PICTURE}; .csv for tables (decoded.npy)")
    _add_reconstruct(commands)
    _add_interpolate(commands)
    _add_edit(commands)
    _add_inpaint(commands)
