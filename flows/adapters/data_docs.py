"""Data Docs that need no network: pages of Great Expectations with a style of their own, and an index without scripts.

Its templates load style, tables and icons from other servers: without a network the index is empty and the pages bare.
They do not escape the values that they show, either. So no page may run or load anything (Content-Security-Policy).
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' file: data:"
STYLE = """
body { margin: 0 auto; max-width: 75rem; padding: 1rem; font: 15px/1.45 system-ui, sans-serif; color: #222; }
h1, h4, h5, h6 { margin: 1rem 0 .4rem; font-size: 1.15rem; } h6 { font-size: 1rem; }
a { color: #0b5cad; } nav ol, nav ul { list-style: none; margin: 0; padding: 0; }
nav li { display: inline-block; margin-right: 1rem; }
table { border-collapse: collapse; margin: .5rem 0 1rem; } [hidden] { display: none; }
td, th { border: 1px solid #ccc; padding: .3rem .6rem; text-align: left; vertical-align: top; }
td div { max-width: 60rem; overflow-wrap: anywhere; }
.alert { background: #f1f3f5; padding: .6rem .9rem; margin-top: 1rem; } .btn-group, .navbar-brand { display: none; }
.badge { background: #e6e8eb; border-radius: .2rem; padding: 0 .3rem; }
.fa-check-circle::before { content: "\\2713"; color: #1a7f37; font-weight: bold; }
.fa-times::before, .fa-exclamation-triangle::before { content: "\\2717"; color: #c1121f; font-weight: bold; }
.met { color: #1a7f37; } .unmet { color: #c1121f; font-weight: bold; }
"""
HEAD = (
    f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{html.escape(POLICY)}">'
    f"<style>{STYLE}</style>"
)
_SCRIPT = re.compile(r"<script\b.*?</script\s*>", re.IGNORECASE | re.DOTALL)
_ELSEWHERE = re.compile(r"<(?:link|img)\b[^>]*\b(?:href|src)\s*=\s*[\"']?https?://[^>]*>", re.IGNORECASE)
_FILTER = re.compile(
    r'<div class="card mb-3">\s*<div class="card-header p-2">\s*<strong>Actions</strong>.*?(?=<div class="card )',
    re.DOTALL,
)
"""Buttons that need a script."""
_NEWSLETTER = re.compile(r"<footer\b.*?</footer\s*>", re.IGNORECASE | re.DOTALL)
_HEAD = re.compile(r"<head\b[^>]*>", re.IGNORECASE)


def make_offline(folder: Path, counts: Mapping[str, tuple[int, int]], failures: Iterable[str]) -> None:
    """Give the pages in ``folder`` a style of their own, and take away what they load; write index.html anew.

    ``counts``: table → expectations, and how many of them were met; ``failures``: a line about each that was not.
    """
    for page in sorted(folder.rglob("*.html")):
        page.write_text(_make_page_offline(page.read_text(encoding="utf-8")), encoding="utf-8")
    (folder / "index.html").write_text(_build_index(folder, counts, failures), encoding="utf-8")


def _make_page_offline(text: str) -> str:
    text = _ELSEWHERE.sub("", _SCRIPT.sub("", _NEWSLETTER.sub("", _FILTER.sub("", text))))
    return _HEAD.sub(lambda found: found[0] + HEAD, text, count=1)


def _build_index(folder: Path, counts: Mapping[str, tuple[int, int]], failures: Iterable[str]) -> str:
    """Return a page with a row for each table, and its failures beneath."""
    rows = []
    for table, (expectations, met) in counts.items():
        results = sorted(folder.glob(f"validations/{table}/**/*.html"))
        suite = folder / "expectations" / f"{table}.html"
        links = [_link(folder, page, "results") for page in results[-1:]]
        links += [_link(folder, suite, "expectations")] if suite.exists() else []
        verdict = "met" if met == expectations else "unmet"
        rows.append(
            f'<tr><td>{html.escape(table)}</td><td class="{verdict}">{met} of {expectations} met</td>'
            f"<td>{' · '.join(links)}</td></tr>"
        )
    listed = "".join(f"<li>{html.escape(line)}</li>" for line in failures)
    return (
        f'<!DOCTYPE html><html lang="en"><head>{HEAD}<title>Data Docs</title></head><body><h1>Data Docs</h1>'
        "<table><thead><tr><th>table</th><th>expectations</th><th>pages</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>" + (f"<h5>Not met</h5><ul>{listed}</ul>" if listed else "")
    ) + "</body></html>\n"


def _link(folder: Path, page: Path, text: str) -> str:
    return f'<a href="{html.escape(page.relative_to(folder).as_posix())}">{text}</a>'
