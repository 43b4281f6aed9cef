"""Completes commands, options and their values in bash, zsh and fish, as click asks and answers it."""

from collections.abc import Sequence

import click
from click import shell_completion

SHELLS = ("bash", "zsh", "fish")
ASKED = "_TRAPGATE_COMPLETE"  # the environment variable by which the shell's script asks


def script(command: click.Command, shell: str) -> str:
    """What the shell has to read once, so that Tab asks us."""
    found = shell_completion.get_completion_class(shell)
    assert found is not None
    return found(command, {}, "trapgate", ASKED).source()


def answer(command: click.Command, asked: str) -> int:
    """Print what could come next; exit status 1 when the shell's script asks in a way that click does not know."""
    return shell_completion.shell_complete(command, {}, "trapgate", ASKED, asked)


def beginning(words: Sequence[str], typed: str) -> list[shell_completion.CompletionItem[str]]:
    """Those of some words that may become of what was typed."""
    return [shell_completion.CompletionItem(word) for word in words if word.startswith(typed)]


def cpu_models(context: click.Context, parameter: click.Parameter, typed: str) -> list[shell_completion.CompletionItem[str]]:
    """CPU models by name."""
    from trapgate.arch.models import LEVELS, MODELS

    return beginning([*MODELS, *LEVELS], typed)
