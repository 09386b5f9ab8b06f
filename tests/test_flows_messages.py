"""Texts for Prefect's page are shown as they stand."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from flows.loop.messages import escape_markdown


class Shown(HTMLParser):
    """What a reader of a page sees, and the elements that it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.elements = "", set[str]()

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.elements.add(tag)


def show(markdown: str) -> Shown:
    shown = Shown()
    shown.feed(MarkdownIt("commonmark").render(markdown))
    return shown


@pytest.mark.parametrize(
    "text", ["does not name <OD>: no baseline", "a * b * c & <b>d</b> [e](f) `g` \\h", "1 < 2 > 0 &amp; _x_"]
)
def test_a_reason_is_shown_as_it_stands(text: str):
    shown = show(escape_markdown(text))
    assert (shown.text.strip(), shown.elements) == (text, {"p"})


@given(st.text("<>&`*_[]#~|\\!()ab ;", min_size=1).map(lambda text: f"x{text}x"))
def test_no_text_becomes_markup(text: str):
    shown = show(escape_markdown(text))
    assert (shown.text.strip(), shown.elements) == (text, {"p"})
