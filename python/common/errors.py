"""The user's mistakes: one exception, one way to print it, one table of exit codes.

A message has three parts, joined by a long dash on one line: what was wrong (with the value), what is allowed,
and the next step. All problems that are known are reported at once, and nothing of Python's traceback is shown unless
the user asks for it with ``--debug``.
"""

import argparse
import difflib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NoReturn

_TOKEN = re.compile(r"hf_[A-Za-z0-9]{8,}")
_TOKEN_OPTION = re.compile(r"--?((hf|hub|huggingface|auth|access|use[_-]auth)[_-]?)?token\b", re.IGNORECASE)


class ExitCode(IntEnum):
    """Exit codes of every command, after BSD's sysexits.h."""

    OK = 0
    GATE = 1  # a comparison ran, and --gate was not satisfied
    USAGE = 64
    DATA = 65
    NO_INPUT = 66
    UNAVAILABLE = 69
    INTERNAL = 70
    CANNOT_CREATE = 73
    IO = 74
    STOPPED = 75  # stopped and resumable, or try again later
    CONFIG = 78


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: ``what`` (with the offending value), what is ``allowed``, the ``next_step``."""

    what: str
    allowed: str = ""
    next_step: str = ""

    def __str__(self) -> str:
        return " — ".join(part for part in (self.what, self.allowed, self.next_step) if part)


class UserError(Exception):
    """Something the user can mend. Carries one or more :class:`Problem` and the exit code to leave with."""

    def __init__(self, problems: Problem | str | Iterable[Problem], exit_code: ExitCode):
        if isinstance(problems, str):
            problems = Problem(problems)
        self.problems = [problems] if isinstance(problems, Problem) else list(problems)
        self.exit_code = ExitCode(exit_code)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class StoppedRun(Exception):
    """The run was asked to stop and did so at a safe point; it can be resumed."""


class CommandParser(argparse.ArgumentParser):
    """argparse with this project's manners: exit code 64, "did you mean", no abbreviated options, ``--debug``."""

    def __init__(self, **options):
        options.setdefault("allow_abbrev", False)
        options.setdefault("formatter_class", _HelpFormatter)
        super().__init__(**options)
        self.add_argument("--debug", action="store_true", help="show the full traceback of an error")

    def parse_args(self, args: Sequence[str] | None = None, namespace=None) -> argparse.Namespace:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            raise UserError([self._unknown(word) for word in unknown], ExitCode.USAGE)
        return parsed

    def error(self, message: str) -> NoReturn:
        raise UserError(Problem(message, next_step=f"see {self.prog} --help"), ExitCode.USAGE)

    def _unknown(self, word: str) -> Problem:
        options = [option for action in self._actions for option in action.option_strings]
        return Problem(
            f"unknown {'option' if word.startswith('-') else 'argument'} '{word}'",
            did_you_mean(word.split("=")[0], options),
            f"see {self.prog} --help",
        )


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keep the line breaks of the description; show defaults, but not those that say nothing."""

    def _get_help_string(self, action):
        if action.default in (None, False, [], argparse.SUPPRESS):
            return action.help
        return super()._get_help_string(action)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "did you mean X?" for the nearest of ``known``, or "" when nothing is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else ""


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says; of one that says nothing, its name."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def refuse_tokens(words: list[str]) -> None:
    """Raise UserError (64) for a token among the options: every user of the machine can read a command line."""
    if any(_TOKEN.search(word) or _TOKEN_OPTION.match(word) for word in words):
        remedy = "set the environment variable HF_TOKEN, or log in with `.venv/bin/hf auth login`"
        raise UserError(
            Problem("a token on the command line", "command lines can be read by others", remedy), ExitCode.USAGE
        )


def print_error(error: UserError) -> None:
    """Print each problem of ``error`` on a line of its own to stderr."""
    for problem in error.problems:
        print(f"error: {problem}", file=sys.stderr)


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Run a command's ``main`` and leave with its exit code; mistakes become lines, not tracebacks.

    A token on the command line ends it before anything is done, so none gets into a manifest or a log.
    """
    debug = "--debug" in sys.argv
    try:
        refuse_tokens(sys.argv[1:])
        code = main() or ExitCode.OK
    except UserError as error:
        if debug:
            traceback.print_exc()
        print_error(error)
        code = error.exit_code
    except StoppedRun as stop:
        print(stop, file=sys.stderr)
        code = ExitCode.STOPPED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = ExitCode.STOPPED
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = ExitCode.OK
    except Exception as error:
        if debug:
            traceback.print_exc()
        hint = "" if debug else " — run again with --debug for the traceback"
        print(f"error: {type(error).__name__}: {error}{hint}", file=sys.stderr)
        code = ExitCode.INTERNAL
    sys.exit(int(code))
