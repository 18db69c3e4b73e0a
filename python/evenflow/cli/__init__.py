"""The command line, `evenflow COMMAND`; docs/cli.md shows every command.

One file a group of commands; each declares its arguments in `add_commands`.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from typing import Any

import evenflow
from evenflow import _core, signals
from evenflow.cli import latents, models, tools, train, watch
from evenflow.console import tell, tell_error, write
from evenflow.errors import ConfigError, DeviceError, IoError, NumericError, RanksError, ShapeError


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    0: done; 1: a numeric failure, a lost rank or no memory; 2: usage or bad input; 129: interrupted
    by SIGHUP; 130: by Ctrl-C or SIGTERM; 141: whoever read the output has gone.
    """
    try:
        args = build_parser().parse_args(argv)
        evenflow.set_matmul_precision(args.matmul_precision or "highest")
        args.command = shlex.join(["evenflow", *(sys.argv[1:] if argv is None else argv)])
        if argv is None and args.run in (train.train, train.resume):
            if watch.wanted():
                return watch.run()
            watch.tie()
        with signals.termination_interrupts():
            return int(args.run(args))
    except BrokenPipeError:
        return 141
    except KeyboardInterrupt as interrupt:
        tell("evenflow: interrupted")
        return signals.exit_code(interrupt)
    except TypeError as error:
        # Ours say where; any other is a defect and keeps its traceback.
        if not str(error).startswith("["):
            raise
        tell_error(f"evenflow: error: {error}")
        return 2
    except (ConfigError, DeviceError, IoError, ShapeError) as error:
        _tell_once(f"evenflow: error: {error}", error)
        return 2
    except (NumericError, RanksError, MemoryError) as error:
        _tell_once(f"evenflow: failed: {error or 'out of memory'}", error)
        return 1


def _tell_once(text: str, error: Exception) -> None:
    if not getattr(error, "told_elsewhere", False):  # by another rank; see evenflow.ranks
        tell_error(text)


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="evenflow", description="Normalizing flows: train, evaluate, sample, edit, score.")
    parser.add_argument("--version", action="version", version=f"evenflow {_core.version}")
    parser.add_argument("--cmake-dir", action=_CmakeDir, nargs=0,
                        help="print the folder for CMake's find_package(evenflow), and exit")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    train.add_commands(commands)
    models.add_commands(commands)
    latents.add_commands(commands)
    tools.add_commands(commands)
    return parser


class _Parser(argparse.ArgumentParser):
    """Writes help and usage at once: Python would do it at its end, with exit codes of its own where it can't."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if message:
            (write if file is sys.stdout else tell)(message.removesuffix("\n"))


class _CmakeDir(argparse.Action):
    """Where the wheel keeps the C++ library's CMake files; docs/embedding.md."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        folders = [os.path.join(path, "lib", "cmake", "evenflow") for path in evenflow.__path__]
        found = [folder for folder in folders if os.path.exists(os.path.join(folder, "evenflowConfig.cmake"))]
        if not found:
            parser.error(f"[cmake-dir] expected the C++ library in {folders[0]}, got a package without it")
        write(found[0])
        parser.exit()
