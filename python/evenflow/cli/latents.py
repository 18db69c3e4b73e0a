"""Commands on latents and by gradients: encode, decode, reconstruct, interpolate, edit, inpaint."""

from __future__ import annotations

import argparse
import contextlib
from typing import Any

import numpy as np

from evenflow import latent
from evenflow._border.batch import Batch
from evenflow._border.files import Write
from evenflow.cli.common import (MODEL, MODEL_AND_DATA, SEED, TABLE, Answer, argument, chosen, class_number,
                                 conditions_arguments, examples, given_context, given_label, model_command,
                                 rows_arguments, switch)
from evenflow.data import Dataset
from evenflow.density import core_of, for_flow
from evenflow.errors import ConfigError
from evenflow.flow import Flow
from evenflow.inpaint import MASKS, hidden_pixels, inpaint
from evenflow.runs import Plan, held_out
from evenflow.runs.export import decode_rows, encode_rows, write_data
from evenflow.runs.stream import read_latents, read_rows

PICTURE = "a picture (.png), an array (.npy) or, for images, a new folder"
LINES = "a picture (.png), a new folder or, as tables need, an array (.npy)"


def encode(args: argparse.Namespace, flow: Flow, plan: Plan | None) -> Answer:
    rows = read_rows(args.data, flow, plan, args.columns, args.size, args.context)
    return {"n": encode_rows(flow, rows, args.out), "dims": flow.dims, "out": args.out}, args.out


def decode(args: argparse.Namespace, flow: Flow, plan: Plan | None) -> Answer:
    label, context = given_label(args, plan), given_context(args, flow, needed=False)
    n = decode_rows(flow, read_latents(args.latents), args.out, label, flow.columns, context)
    return {"n": n, "out": args.out}, args.out


def reconstruct(args: argparse.Namespace, flow: Flow, plan: Plan | None) -> Answer:
    data, levels = examples(args, flow, plan), len(core_of(flow).levels())
    shown, rows, keeps = [latent.as_floats(flow, data.x)], [], args.keep or [levels]
    with _lines(args, flow, "reconstruct", len(data)) as write:
        for keep in keeps:
            shown.append(latent.reconstruct(flow, data.x, keep=keep, rest=args.rest, seed=args.seed, **data.conditions))
            error = np.abs(shown[-1].astype(np.float64) - shown[0])
            rows.append({"keep": keep, "worst_error": float(error.max()), "mean_error": float(error.mean())})
        write(np.stack(shown))
    unit = "levels" if flow.is_image else "units of the data"
    lines = [f"keep {r['keep']} of {levels} levels: worst error {r['worst_error']:.3g}, "
             f"mean error {r['mean_error']:.3g} {unit}" for r in rows]
    return {"n": len(data), "reconstructions": rows, "out": args.out}, "\n".join([*lines, args.out])


def interpolate(args: argparse.Namespace, flow: Flow, plan: Plan | None) -> Answer:
    alike = 4 if args.manifold else 2
    args.n = 4 if args.manifold else args.n
    data = examples(args, flow, plan, of_a_class=alike)
    if len(data) % alike:
        raise ConfigError(f"[interpolate] expected rows in groups of {alike}, got {len(data)}")
    for values in data.conditions.values():
        groups = values.reshape(-1, alike, *values.shape[1:])
        if (groups != groups[:, :1]).any():
            raise ConfigError("[interpolate] start and end have to be of one class or context; choose such --rows")
    given = data[::alike].conditions
    with _lines(args, flow, "interpolate", args.steps) as write:
        if args.manifold:
            write(latent.manifold(flow, data.x, steps=args.steps, **{name: own[0] for name, own in given.items()}))
        else:
            write(latent.interpolate(flow, data.x[0::2], data.x[1::2], steps=args.steps, **given))
    return {"samples": len(data), "steps": args.steps, "out": args.out}, args.out


def edit(args: argparse.Namespace, flow: Flow, plan: Plan | None) -> Answer:
    part = held_out(flow, plan, args.data, args.size, labelled=True)
    positive = _marked(part, args.positive, "train")
    negative = ~positive if args.negative is None else _marked(part, args.negative, "train")
    train = for_flow(flow, part.part("train"))
    direction = latent.attribute(flow, train.x, positive, negative, **train.conditions)
    data = _unmarked(args, flow, part)
    with _lines(args, flow, "edit", len(args.strengths)) as write:
        write(latent.edit(flow, data.x, direction, args.strengths, **data.conditions))
    result = {"positive": int(positive.sum()), "negative": int(negative.sum()),
              "length": float(np.linalg.norm(direction)), "strengths": args.strengths, "out": args.out}
    return result, (f"direction: {result['positive']} samples with the attribute, {result['negative']} without, length "
                    f"{result['length']:.3g}\n{args.out}")


def inpaint_command(args: argparse.Namespace, flow: Flow, plan: Plan | None) -> Answer:
    data, masks = examples(args, flow, plan), MASKS if args.mask == ["all"] else args.mask
    if not flow.is_image:
        raise ConfigError("[inpaint] the model is of tables, which have no pixels")
    lines, error = [original := latent.as_floats(flow, data.x)], {}
    with _lines(args, flow, "inpaint", len(data)) as write:
        for mask in masks:
            hidden = hidden_pixels(mask, flow.shape[0], flow.shape[1], args.seed)
            grey = np.where(hidden[..., None], 2.0**flow.bits / 2, original).astype(flow.dtype)
            lines += [grey, inpaint(flow, data.x, hidden, steps=args.steps, seed=args.seed, **data.conditions)]
            error[mask] = float(np.abs(lines[-1] - original)[:, hidden].mean())
        write(np.stack(lines))
    text = [f"{mask}: hidden pixels {value:.2f} levels from the original on average" for mask, value in error.items()]
    return {"n": len(data), "mean_error": error, "out": args.out}, "\n".join([*text, args.out])


def _lines(args: argparse.Namespace, flow: Flow, name: str, columns: int) -> contextlib.AbstractContextManager[Write]:
    """Takes lines of so many samples for --out, by default a picture, or for a table an array."""
    args.out = args.out or name + (".png" if flow.is_image else ".npy")
    return write_data(name, flow, args.out, columns=columns)


def _marked(part: Dataset, names: list[str], which: str) -> np.ndarray:
    """Which samples of one part, "train" or "test", have one of some attributes or classes, (N,) bool."""
    if part.attributes:
        unknown = [name for name in names if name not in part.attributes]
        if unknown:
            raise ConfigError(f"[edit] expected an attribute out of {', '.join(part.attributes)}, "
                              f"got {unknown[0]!r}")
        values: np.ndarray = getattr(part, f"{which}_attributes")
        return np.asarray(values[:, [part.attributes.index(name) for name in names]].any(axis=1))
    labels = part.part(which).label
    if labels is None:
        raise ConfigError("[edit] the data have no labels and no attributes to edit by")
    return np.isin(labels, [class_number(name, part.classes) for name in names])


def _unmarked(args: argparse.Namespace, flow: Flow, part: Dataset) -> Batch:
    """The samples to edit: --rows of the test part, else its first ones without the attribute."""
    which = "train" if part.test is None else "test"
    data, without = for_flow(flow, part.part(which)), ~_marked(part, args.positive, which)
    if args.negative is not None:
        without &= _marked(part, args.negative, which)
    if args.rows is None and not without.any():
        raise ConfigError(f"[edit] no sample of the {which} part is without the attribute; choose --rows to edit")
    return chosen(args, data, np.flatnonzero(without))


def add_commands(commands: Any) -> None:
    """Declares them."""
    model_command(commands, "encode", encode, "Data to latents. Large files are read piece by piece.",
                  "runs/digits images.npy --out latents.npy", *MODEL_AND_DATA, *TABLE,
                  argument("--out", ".npy, .csv, or .npz with labels or the context too", default="latents.npy"))
    model_command(commands, "decode", decode, "Latents to data.",
                  "runs/digits latents.npy --out decoded.png", MODEL,
                  argument("latents", "file of `evenflow encode`: .npy, .csv or .npz", metavar="LATENTS"),
                  *conditions_arguments("for latents without labels", "a row for each sample"),
                  argument("--out", f"{PICTURE}; .csv for tables", default="decoded.npy"))
    model_command(commands, "reconstruct", reconstruct,
                  "Data through the latent space and back; with --keep, from the coarsest levels alone.",
                  "runs/digits --keep 2 1 --out reconstruct.png", *MODEL_AND_DATA,
                  *rows_arguments(10), SEED,
                  argument("--keep", "keep the coarsest K levels; several K: one line of pictures each (all levels)",
                           type=int, many=True, metavar="K"),
                  argument("--rest", "the other levels", choices=("zero", "redraw"), default="zero"),
                  argument("--out", f"originals, then reconstructions: {LINES}; default: reconstruct.png or .npy"))
    model_command(commands, "interpolate", interpolate,
                  "From sample to sample through latent space: start and end in turn.",
                  "runs/digits --rows 0 4 9 2 --steps 9 --out interpolate.png", *MODEL_AND_DATA,
                  *rows_arguments(8, "the first, of one class where the model has classes"),
                  switch("--manifold", "Real NVP's manifold of four samples, on steps x steps angles"),
                  argument("--steps", "samples a line", type=int, default=9),
                  argument("--out", f"one line a pair: {LINES}; default: interpolate.png or .npy"))
    model_command(commands, "edit", edit,
                  "Move samples along an attribute vector: mean latent with the attribute minus without.",
                  "runs/digits --positive 0 --negative 6 --out edit.png", *MODEL_AND_DATA,
                  argument("--positive", "attributes of the data (CelebA), or classes", many=True, required=True,
                           metavar="NAME"),
                  argument("--negative", "those without; default: all others", many=True, metavar="NAME"),
                  *rows_arguments(8, "the first without the attribute"),
                  argument("--strengths", "multiples of the vector", type=float, many=True, metavar="S",
                           default=[-1, -0.5, 0, 0.5, 1, 1.5]),
                  argument("--out", f"one line a sample: {LINES}; default: edit.png or edit.npy"))
    model_command(commands, "inpaint", inpaint_command,
                  "Fill in hidden pixels by noisy gradient ascent on the log-likelihood (NICE, section 5.2).",
                  "runs/digits --mask top random75 --out inpaint.png", *MODEL_AND_DATA,
                  argument("--mask", f"what is hidden: {', '.join(MASKS)}; all: one after the other", many=True,
                           choices=(*MASKS, "all"), metavar="MASK", default=["top"]),
                  *rows_arguments(10), SEED, argument("--steps", "the authors took 111895", type=int, default=2000),
                  argument("--out", "originals, then a line of hidden and one of filled images a mask: .png, .npy or a "
                           "new folder; default: inpaint.png"))
