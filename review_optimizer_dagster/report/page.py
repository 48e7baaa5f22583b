"""The one file of a dashboard: the page that is the same for all data, and the data put into it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
from collections.abc import Mapping
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import Any, Final

from review_optimizer_dagster.errors import UserError

_HOW_TO_INSTALL: Final = (
    "the dashboard is drawn by altair and vl-convert-python, which are not installed: install the "
    "extra `ui` of this package"
)
_SOURCES: Final = (".py", ".js", ".css", ".html")
_TITLE, _DATA = "%TITLE%", "%DATA%"
# Of a chart's specification: what the page sets as signals and data sets by name.
_PARAMS: Final = (
    "first", "last", "ticks", "points", "top", "marks", "ceiling", "low", "high", "area",
)  # fmt: skip


def installed_versions() -> dict[str, str]:
    """The versions of what draws. Raises UserError where the extra is not installed."""
    try:
        return {name: metadata.version(name) for name in ("altair", "vl-convert-python")}
    except metadata.PackageNotFoundError as error:
        raise UserError(_HOW_TO_INSTALL) from error


def page_digest() -> str:
    """Changes with the sources of this package and with the versions of what draws."""
    digest = hashlib.blake2b(json.dumps(installed_versions()).encode(), digest_size=12)
    for source in sorted(_files(), key=lambda path: path.name):
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()


def _files() -> list[Path]:
    folder = Path(str(resources.files(__package__)))
    return [path for path in folder.iterdir() if path.suffix in _SOURCES]


def page_path(folder: Path) -> Path:
    """Where a folder keeps the page of this version. Raises UserError without the extra `ui`."""
    return folder / f".page-{page_digest()}.html"


def cached_page(folder: Path) -> str:
    """The page without data, drawn up once a version and kept in a folder.

    It takes seconds, and depends on no data. Raises UserError without the extra `ui`.
    """
    path = page_path(folder)
    if path.exists():
        return path.read_text(encoding="utf-8")
    page = build_page()
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.new")  # two processes may draw it up at once
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(path)
    for old in folder.glob(".page-*.html"):
        if old != path:
            old.unlink(missing_ok=True)
    return page


@cache
def build_page() -> str:
    """Style, scripts, libraries and chart specifications as one page, with places for the data.

    Nothing in it may run but its own two scripts, which the policy names by their digests, and
    nothing may be fetched. Vega interprets its expressions: none is compiled by `eval`.
    """
    try:
        import vl_convert
    except ImportError as error:
        raise UserError(_HOW_TO_INSTALL) from error
    bundle = _inert(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
    script = _inert(page_script())
    hashes = " ".join(f"'sha256-{_sha256(each)}'" for each in (bundle, script))
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {
        "%CSP%": policy,
        "%CSS%": _text("page.css"),
        "%FIGURES%": as_json(figure_specs()),
        "%BUNDLE%": bundle,
        "%SCRIPT%": script,
    }
    page = _text("page.html")
    for place, part in parts.items():
        before, _, after = page.partition(place)
        page = before + part + after
    return page


def page_script() -> str:
    """The page's own script: charts.js stands inside the function that page.js is."""
    before, _, after = _text("page.js").partition("/* %CHARTS% */\n")
    return before + _text("charts.js") + after


def filled_page(page: str, title: str, data: Mapping[str, Any]) -> str:
    """A page with its data. No text in the data can end the element that it stands in."""
    # The places stand before everything that is longer: partition finds them, and not the data.
    before, _, after = page.partition(_TITLE)
    head, _, tail = after.partition(_DATA)
    return "".join([before, html.escape(title), head, as_json(data), tail])


def as_json(value: Any) -> str:
    """JSON that is safe inside an element of HTML: no `<`, which alone could end it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return (
        text.replace("<", "\\u003c")
        .replace(">", "\\u003e")
        .replace("&", "\\u0026")
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029")
    )


def figure_specs(*, validate: bool = False) -> list[dict[str, Any]]:
    """Every figure with its words and its Vega-Lite specification.

    validate: against Vega-Lite's schema, which takes seconds; a test does. Raises UserError without
    altair.
    """
    from review_optimizer_dagster.report.figures import FIGURES

    try:
        from altair.utils.schemapi import debug_mode
    except ImportError as error:
        raise UserError(_HOW_TO_INSTALL) from error
    with debug_mode(validate):
        return [
            {
                "name": figure.name,
                "section": figure.section,
                "title": figure.title,
                "note": figure.note,
                "empty": figure.empty,
                "only": figure.only,
                "columns": [list(column) for column in figure.columns],
                "height": figure.height,
                **_spec(figure.draw(), validate),
            }
            for figure in FIGURES
        ]


def _spec(chart: Any, validate: bool) -> dict[str, Any]:
    spec: dict[str, Any] = chart.to_dict(validate=validate)
    for name in ("$schema", "config"):
        spec.pop(name, None)
    spec |= {
        "width": "container",
        "autosize": {"type": "fit-x", "contains": "padding"},
    }
    text = json.dumps(spec)
    sets = [name for name in ("rows", "lines", "forecast") if f'{{"name": "{name}"}}' in text]
    expressions = " ".join(re.findall(r'"expr": "((?:[^"\\]|\\.)*)"', text))
    params = [name for name in _PARAMS if re.search(rf"\b{name}\b", expressions)]
    return {"spec": spec, "sets": sets, "params": params}


def _text(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _inert(script: str) -> str:
    """A script that cannot end its own element."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
