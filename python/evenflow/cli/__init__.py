"""The command line, `evenflow COMMAND`; "Command line" in the documentation shows each.

A command is a function, by which it is declared, see `evenflow.cli.common.command`.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import evenflow
from evenflow import _core
from evenflow._border.console import tell, tell_error, write
from evenflow._border.names import nearest
from evenflow.cli import models, train
from evenflow.cli.common import Answer, command, flag
from evenflow.errors import DataWarning, Error, NumericError, RanksError
from evenflow.training import signals


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    0: done; 1: a failure in numbers, of a training or a test, a lost rank or no memory; 2: usage or bad input; 3: the
    model that was trained fails its test; 130: interrupted; 141: whoever read the output has gone.
    """
    argv, args = sys.argv[1:] if argv is None else argv, argparse.Namespace()
    try:
        _, unknown = _make_parser("--help-all" in argv).parse_known_args(argv, args)
        if unknown:
            _refuse(args.parser, unknown[0].partition("=")[0])
        evenflow.set_matmul_precision(args.matmul_precision or "highest")
        args.command = shlex.join(["evenflow", *argv])
        with signals.termination_interrupts(), warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return int(args.run(args))
    except BrokenPipeError:
        return 141
    except KeyboardInterrupt:
        tell("evenflow: interrupted")
        return 130
    except (Error, TypeError, MemoryError) as error:
        if isinstance(error, TypeError) and not str(error).startswith("["):
            raise  # ours say where; any other is a defect and keeps its traceback
        bad_input = getattr(error, "argument", None) == "x" and getattr(error, "row", None) is not None
        failed = isinstance(error, (NumericError, RanksError, MemoryError)) and not bad_input
        _tell_of(error, args, "failed" if failed else "error")
        return 1 if failed else 2


def _show_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """Warnings about data are lines like those of errors, without a place in the source."""
    tell(f"evenflow: warning: {message}" if issubclass(category, DataWarning) else
         warnings.formatwarning(message, category, *place[:2]).rstrip())


def _refuse(parser: argparse.ArgumentParser, word: str) -> NoReturn:
    """Of a word that the command does not take."""
    if not word.startswith("--"):
        parser.error(f"there is no place for {word}")
    near = nearest(word.strip("-").replace("-", "_"), [action.dest for action in parser._actions])
    parser.error(f"there is no option {word}" + (f"; did you mean {flag(near)}?" if near else ""))


def _tell_of(error: Exception, args: argparse.Namespace, what: str) -> None:
    """An error's argument is spelt as the option that it is, but for what is in a column."""
    text, name = str(error) or "out of memory", str(getattr(error, "argument", None))
    spelt = flag("depth" if name == "steps" and text.startswith("[Glow]") else name)
    if spelt in args.parser._option_string_actions and name not in ("context", "label", "weight"):
        text = re.sub(rf"(?<![\w-]){name}\b", spelt, text, count=1)
    if not getattr(error, "told_elsewhere", False):  # by another rank; see evenflow.distributed.ranks
        tell_error(f"evenflow: {what}: {text}")


def _make_parser(whole: bool) -> argparse.ArgumentParser:
    parser = _Parser(prog="evenflow", description="Normalizing flows: train, evaluate, sample, edit, score.",
                     allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"evenflow {_core.version}")
    parser.add_argument("--cmake-dir", action=_CmakeDir, nargs=0,
                        help="print the folder for CMake's find_package(evenflow), and exit")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    train.add_commands(commands, whole)
    for name, run in COMMANDS.items():
        command(commands, name, run)
    return parser


COMMANDS: dict[str, Callable[..., Answer]] = {
    "eval": models.evaluate_command, "score": models.score, "sample": models.sample, "info": models.info,
    "verify": models.verify, "encode": models.encode, "decode": models.decode,
    "reconstruct": models.reconstruct, "interpolate": models.interpolate, "edit": models.edit,
    "inpaint": models.inpaint_command}
"""Those on a model."""


class _Parser(argparse.ArgumentParser):
    """Its errors are one line: the usage of `train` would fill the screen."""

    def error(self, message: str) -> NoReturn:
        tell_error(f"evenflow: error: {message.removeprefix('argument ')} (usage: {self.prog} --help)")
        sys.exit(2)


class _CmakeDir(argparse.Action):
    """Where the wheel keeps the C++ library's CMake files ("Embedding in another program")."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        folders = [os.path.join(path, "lib", "cmake", "evenflow") for path in evenflow.__path__]
        found = [folder for folder in folders if os.path.exists(os.path.join(folder, "evenflowConfig.cmake"))]
        if not found:
            parser.error(f"--cmake-dir: this package comes without the C++ library, expected in {folders[0]}")
        write(found[0])
        parser.exit()
