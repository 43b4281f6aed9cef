"""Says how findings can be told: the options that all commands with reports have."""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from trapgate.cli.completion import beginning
from trapgate.cli.options import FILE

if TYPE_CHECKING:
    from trapgate.cli.reporting import Format


class ReportFormat(click.ParamType["Format"]):
    """A format by its name, with :FILE behind it or without."""

    name = "format"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> "Format":
        """The format; a usage error when there is none such."""
        from trapgate.cli.reporting import Format
        from trapgate.finder.formats.registry import FORMATS

        if isinstance(value, Format):
            return value
        name, colon, path = str(value).partition(":")
        if name not in FORMATS or (colon and not path):
            self.fail(f"{value!r} is none of {', '.join(FORMATS)}, each alone or as FORMAT:FILE", param, ctx)
        return Format(name, path or None)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        """The names."""
        from trapgate.finder.formats.registry import FORMATS

        return beginning(FORMATS, incomplete)


_OPTIONS = (
    click.option(
        "--format",
        "formats",
        type=ReportFormat(),
        multiple=True,
        default=("text",),
        metavar="FORMAT[:FILE]",
        help="text (if none is named), json, jsonl, sarif, html, junit, github, collapsed, valgrind-xml, suppressions; repeatable.",
    ),
    click.option(
        "--output", "-o", metavar="FILE", type=FILE, help="Where a format without a file goes; the last lines are told in any case."
    ),
    click.option(
        "--suppressions",
        multiple=True,
        metavar="FILE",
        type=FILE,
        help="Findings that are not told; may be repeated. --format suppressions writes such a file.",
    ),
    click.option("--baseline", metavar="FILE", type=FILE, help="A JSON report: what it has is told, and makes nothing fail."),
    click.option(
        "--error-exitcode",
        "failure",
        type=click.IntRange(1, 255),
        default=1,
        show_default=True,
        metavar="N",
        help="Exit status where something is found.",
    ),
    click.option("--exit-zero", "lenient", is_flag=True, help="Findings change no exit status."),
)


def reports(command: Callable[..., int]) -> Callable[..., int]:
    """A command's options where it reports findings: it gets them as one `Reporting`, by the name `reporting`."""

    @wraps(command)
    def chosen(
        *arguments: object,
        formats: "tuple[Format, ...]",
        output: str | None,
        suppressions: tuple[str, ...],
        baseline: str | None,
        failure: int,
        lenient: bool,
        **more: object,
    ) -> int:
        from trapgate.cli.reporting import Reporting

        made = Reporting(formats, output, None if lenient else failure, suppressions, baseline)
        if sum(one.path is None for one in formats) > 1:
            raise click.UsageError("several formats need a file each: --format FORMAT:FILE")
        return command(*arguments, reporting=made, **more)

    for one in reversed(_OPTIONS):
        chosen = one(chosen)
    return chosen
