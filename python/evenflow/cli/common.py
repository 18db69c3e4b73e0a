"""What the commands share: how they are declared, how they report."""

from __future__ import annotations

import argparse
import json
from typing import Any


def command(commands: Any, name: str, run: Any, text: str, example: str,
            machine_readable: bool = True) -> argparse.ArgumentParser:
    """Declares one command; `run` takes its arguments and returns the exit code."""
    sub = commands.add_parser(name, help=text, description=text, epilog=f"example:\n  {example}",
                              formatter_class=argparse.RawDescriptionHelpFormatter)
    sub.set_defaults(run=run)
    sub.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    sub.add_argument("--threads", type=int, default=0, help="0 (default): all cores")
    if machine_readable:
        sub.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    return sub


def report(args: argparse.Namespace, result: dict[str, Any], text: str) -> None:
    print(json.dumps(result) if args.json else text)


def quality(result: dict[str, Any]) -> str:
    if "bits_per_dim" in result:
        return f"{result['bits_per_dim']:.4f} +- {result['bits_per_dim_error']:.4f} bits/dim"
    return f"{result['nll_nats']:.4f} +- {result['nll_nats_error']:.4f} nats"
