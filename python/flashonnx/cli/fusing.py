"""What the subcommands that fuse share: their options' texts, the table of sites, the report of a refusal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flashonnx.cli.common import ANSWER_IS_NO, console, fail, is_shown, write_json

if TYPE_CHECKING:
    from flashonnx.fusion import FuseReport

PORTABLE_HELP = "Keep the file runnable without flashonnx, by a function of standard operators."
REQUIRE_ALL_HELP = "Write nothing and exit with 1 unless every attention site is fused."
VERIFY_HELP = "Compare each site before and after on random inputs; leave alone what differs."


@contextmanager
def reporting(json: str | None) -> Iterator[None]:
    """An unmet --require-all: shows every site all the same, then exits with 1."""
    from flashonnx.fusion import NotAllFused

    try:
        yield
    except NotAllFused as error:
        if json is not None:
            write_json(error.report.to_json(), json)
        if is_shown(json):
            show_sites(error.report)
        fail(f"{error}; nothing was written", ANSWER_IS_NO)


def show_step(say: Callable[[str], None]) -> Callable[[int, int, str], None]:
    """Turns the pass's progress into lines of ours."""
    return lambda done, total, step: say(f"{done} of {total} sites done, {step}" if total else step)


def show_sites(report: FuseReport) -> None:
    """A table: what each site is, or what stopped it."""
    from rich.markup import escape
    from rich.table import Table

    out = console()
    if not report.sites:
        out.print("no attention found: the model has no softmax and no attention node")
        return
    table = Table("site", "fused", "form", "mask", "reason")
    for site in report.sites:
        mark = "[green]yes" if site.fused else "[red]no"
        table.add_row(escape(site.name), mark, escape(site.form), escape(site.mask), escape(site.reason))
    out.print(table)
