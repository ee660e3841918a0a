"""Templates of the package, filled."""

from __future__ import annotations

from typing import Any

import jinja2
from markupsafe import Markup

import flashonnx

_BYTES_PER_MIB = 1 << 20
_NONE = "\N{EN DASH}"


def render_page(template: str, **values: Any) -> str:
    """The HTML of `templates/<template>`. Text is escaped; figures (SVG text) are inserted with the filter `svg`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("flashonnx.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = {"svg": Markup, "sig": _significant, "mib": _mebibytes, "ms": _milliseconds, "share": _share}
    environment.filters |= filters
    return environment.get_template(template).render(version=flashonnx.__version__, **values)


def _significant(value: float | None) -> str:
    """Three significant digits; a dash where there is no value."""
    return _NONE if value is None else f"{value:.3g}"


def _mebibytes(value: float | None) -> str:
    return _NONE if value is None else f"{value / _BYTES_PER_MIB:,.1f}"


def _milliseconds(value: float | None) -> str:
    return _NONE if value is None else f"{value * 1e3:,.2f}"


def _share(value: float | None) -> str:
    return _NONE if value is None else f"{value:.2f}"
