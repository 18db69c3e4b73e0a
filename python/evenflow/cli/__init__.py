"""The command line, `evenflow COMMAND`; docs/cli.md shows every command.

One file a group of commands; each declares its arguments in `add_commands`.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys

from evenflow import _core
from evenflow.cli import latents, models, tools, train
from evenflow.errors import ConfigError, DeviceError, IoError, NumericError, ShapeError


def main(argv: list[str] | None = None) -> int:
    """Runs one command.

    0: done; 1: a numeric or other failure; 2: usage or bad input; 130: interrupted; 141: nobody reads the
    output any more.
    """
    args = build_parser().parse_args(argv)
    args.command = shlex.join(["evenflow", *(sys.argv[1:] if argv is None else argv)])
    try:
        code = args.run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("evenflow: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # As in `evenflow info RUN --tensors | head`. What is still in the buffer must not fail at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except TypeError as error:
        # Ours say where; any other is a defect and keeps its traceback.
        if not str(error).startswith("["):
            raise
        print(f"evenflow: error: {error}", file=sys.stderr)
        return 2
    except (ConfigError, DeviceError, IoError, ShapeError) as error:
        print(f"evenflow: error: {error}", file=sys.stderr)
        return 2
    except (NumericError, MemoryError) as error:
        print(f"evenflow: failed: {error or 'out of memory'}", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="evenflow",
                                     description="Normalizing flows: train, evaluate, sample, edit, score.")
    parser.add_argument("--version", action="version", version=f"evenflow {_core.version}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    train.add_commands(commands)
    models.add_commands(commands)
    latents.add_commands(commands)
    tools.add_commands(commands)
    return parser
