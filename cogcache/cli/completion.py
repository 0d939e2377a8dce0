"""``completion``: what a shell must know to complete our verbs and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

__all__ = ["completion_command"]

_SHELLS = ("bash", "zsh", "fish")


@click.command(
    "completion",
    short_help="Print the completion script for a shell.",
    epilog="Example: cogcache completion bash > cogcache.bash",
)
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Print the script that lets SHELL complete verbs, options and artifacts."""
    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(ctx.find_root().command, {}, "cogcache", "_COGCACHE_COMPLETE").source())
