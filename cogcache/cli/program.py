"""The program: its verbs, and what becomes of errors."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import click
from click.shell_completion import shell_complete

from cogcache import __version__
from cogcache.cli.asking import explain_command
from cogcache.cli.carrying import export_command, import_command
from cogcache.cli.common import NotFoundExit
from cogcache.cli.completion import completion_command
from cogcache.cli.configuring import config_command
from cogcache.cli.diagnosis import doctor_command
from cogcache.cli.entries import get_command, put_command, show_command
from cogcache.cli.integrity import verify_command
from cogcache.cli.listing import ls_command, stats_command
from cogcache.cli.pinning import pin_command, pins_command, unpin_command
from cogcache.cli.removing import gc_command, prune_command, rm_command
from cogcache.cli.tagging import invalidate_command
from cogcache.cli.warming import warm_command
from cogcache.exceptions import CogcacheError, ConfigError, MissingExtraError

__all__ = ["program", "run_program"]

_COMPLETE = "_COGCACHE_COMPLETE"
_EXIT_FAILED, _EXIT_USAGE, _EXIT_NOT_FOUND, _EXIT_INTERRUPTED, _EXIT_PIPE = 1, 2, 3, 130, 141


@click.group(
    name="cogcache",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 failed, 2 not understood, 3 not found or damaged.",
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def program() -> None:
    """See and manage what a cache of video artifacts holds.

    The cache is the one of cogcache.toml, [tool.cogcache] or COGCACHE_TIERS; -t names another one.
    """


for _command in (
    ls_command,
    stats_command,
    show_command,
    explain_command,
    get_command,
    put_command,
    rm_command,
    prune_command,
    gc_command,
    invalidate_command,
    pins_command,
    pin_command,
    unpin_command,
    warm_command,
    verify_command,
    export_command,
    import_command,
    config_command,
    doctor_command,
    completion_command,
):
    program.add_command(_command)


def run_program(arguments: Sequence[str]) -> int:
    """Carry out a command and give its exit code. Nothing is raised."""
    _speak_to_stderr()
    try:
        return _carry_out(arguments)
    except click.ClickException as error:
        if isinstance(error, click.NoSuchOption) and getattr(error.ctx, "command", None) is program:
            hint = "Options stand after the verb, as in 'cogcache ls -t DIR'."
            error = click.UsageError(f"{error.format_message()} {hint}", error.ctx)
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _say("interrupted")
        return _EXIT_INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return _EXIT_PIPE
    except NotFoundExit as error:
        _say(str(error))
        return _EXIT_NOT_FOUND
    except MissingExtraError as error:
        _say(str(error))
        return _EXIT_FAILED
    except (ConfigError, ValueError, TypeError) as error:
        _say(str(error))
        return _EXIT_USAGE
    except (CogcacheError, OSError) as error:
        _say(str(error))
        _drop_output()
        return _EXIT_FAILED


def _carry_out(arguments: Sequence[str]) -> int:
    completing = os.environ.get(_COMPLETE)
    if completing:
        return shell_complete(program, {}, "cogcache", _COMPLETE, completing)
    colour = False if os.environ.get("NO_COLOR") else None
    code = 0
    try:
        # Not main(), which has exit codes of its own for a closed pipe and Ctrl-C.
        with program.make_context("cogcache", list(arguments), color=colour) as context:
            program.invoke(context)
    except click.exceptions.Exit as end:
        code = end.exit_code
    sys.stdout.flush()
    return code


def _drop_output() -> None:
    """What is buffered and cannot be written must not fail once more at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(text: str) -> None:
    click.echo(f"cogcache: {text}", err=True)


def _speak_to_stderr() -> None:
    """Warnings and the log as one line each."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        _say(f"warning: {message}")

    warnings.showwarning = show
    logger = logging.getLogger("cogcache")
    if not any(isinstance(one, _Lines) for one in logger.handlers):
        logger.addHandler(_Lines(logging.WARNING))


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _say(record.getMessage())
