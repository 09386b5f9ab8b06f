"""Alternative texts of web images: the boilerplate around a description, and texts that describe nothing.

The rules are written by hand: regular expressions for addresses, markup, hashtags and phrases of shops, and bounds on
the shares of letters, codes and list items. Their precision and recall on texts that were held back while they were
written are tested in tests/test_engine_text_filters.py.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_FILE = r"[\w-]+\.(?:jpe?g|png|gif|webp|tiff?|bmp|heic)\b"
_SHOP_VERB = r"(?:buy|shop|order|stock|royalty|free|download)"
_BEFORE = re.compile(
    r"\s*(?:(?:an?\s+|the\s+)?(?:stock\s+)?(?:photo|picture|image|photograph|pic)s?\s*(?:of\b|:)"
    rf"|{_FILE}\s*[-–|:]?|(?:https?://|www\.)\S+|[-–|:]\s+)\s*",
    re.IGNORECASE,
)
_AFTER = re.compile(
    rf"\s*(?:\|.*|(?<=\s)[-–]\s*{_SHOP_VERB}\b.*|#\d+|\(\d+\s*[x×]\s*\d+\)|(?:https?://|www\.)\S+"
    rf"|{_FILE})\s*$",
    re.IGNORECASE,
)
_AFTER_MARKS = re.compile(rf"[|#(/]|[-–] ?{_SHOP_VERB}|www|\.\w{{3,4}}\s*$", re.IGNORECASE)
"""One of these is in every text that `_AFTER` matches."""


@lru_cache(maxsize=1 << 16)
def find_description(text: str) -> tuple[int, int]:
    """Return start and end of ``text`` without boilerplate: file names, "photo of", names of sites, numbers."""
    start, end = 0, len(text)
    while found := _BEFORE.match(text, start, end):
        start = found.end()
    # the search is slow on long texts, and few have anything that it could find
    while _AFTER_MARKS.search(text, start, end) and (found := _AFTER.search(text, start, end)):
        end = found.start()
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


# ---------------------------------------------------------------- texts that describe nothing


_ADDRESS = re.compile(
    r"\w+://|\bwww\.|\b[\w-]+\.(?:com|org|net|info|shop|io|co\.uk|example)\b"
    rf"|\b{_FILE}|\b\w+\.(?:html?|php|aspx?|svg|pdf)\b|\b[a-z]:\\",
    re.IGNORECASE,
)
_MARKUP = re.compile(
    r"</?[a-z][^<>]*>|&#?\w+;|\{\{|\}\}|\$\{|!\[|\]\(|\[\w+ \w+=|%[0-9a-f]{2}|\b(?:alt|src|href|class)=", re.IGNORECASE
)
_HASHTAG = re.compile(r"#[^\W\d]\w*")
_SHOP = re.compile(
    r"\b(?:(?:buy|shop|order|book)\s+(?:now|online|today)|add to (?:cart|basket|bag)"
    r"|free (?:shipping|delivery|download|returns)|(?:best|lowest) (?:price|deal|offer)s?"
    r"|(?:in|out of) stock|click (?:here|to|for|on)|(?:read|see|learn|view) more|link in bio|follow (?:us|me)\b"
    r"|subscribe|sign up (?:now|for|to|here|today)|royalty.free"
    r"|stock (?:photo|vector|image|illustration)|vector (?:illustration|image|art)|all rights reserved|copyright"
    r"|getty images|shutterstock|alamy|istock(?:photo)?"
    r"|image may contain|no (?:image|photo|picture) available|cheap)\b",
    re.IGNORECASE,
)
_MARKS = re.compile(r"[:/\\#<>&{}$\[\]%=©]|\w\.\w")
"""One of these is in every address, markup and hashtag."""
_SHOP_WORDS = frozenset(
    (
        "buy shop order book add free best lowest stock click read see learn view link follow subscribe sign royalty "
        "vector rights copyright getty shutterstock alamy istock istockphoto image no cheap"
    ).split()
)
"""One of these words is in every phrase of a shop or site."""
_GENERIC_WORDS = frozenset(
    (
        "image images photo photos picture pictures pic img logo icon banner thumbnail placeholder untitled undefined "
        "null none nan default avatar header footer hero desktop mobile screenshot screen shot copy final version file "
        "slide figure gallery attachment preview no not available at am pm top left right bottom of the a an and in to "
        "my our your here this featured main full size alt text title caption description insert project post article "
        "blog page site website home menu search close open back next previous prev arrow button link play pause "
        "loading edit update delete share user profile account test sample example demo lorem ipsum dolor sit amet "
        "consectetur adipiscing elit"
    ).split()
)
"""A text of these words alone describes no picture."""
_WORD = re.compile(r"(?<![\w.])[^\W\d_]{2,}(?:['’][^\W\d_]+)?(?![\w])")
_JOINING_WORDS = frozenset("a an the of in on at with and or by to from for is are near under over behind".split())
_DIGIT = re.compile(r"\d")
_SEGMENT = re.compile(r"\s*[,|;/•·]\s*|\s+[-–]\s+")
MIN_LETTER_SHARE = 0.6
"""Least share of a description's characters, spaces apart, that are letters."""
MIN_LIST_ITEMS = 5
"""Short pieces between commas or bars, without words that join them, from which a text is a list for search engines."""
MIN_CODE_SHARE = 1 / 3
"""Share of a text's words, two at least, that have digits in them, from which it is a code or number."""


_PLAIN = (
    r"^\s*(?:(?:[A-Za-z]{2,}(?:['-][A-Za-z]+)*[.,;!?]?|[AaI])\s+)*(?:[A-Za-z]{2,}(?:['-][A-Za-z]+)*[.,;!?]?|[AaI])\s*$"
)
"""Words of letters, a mark after one of two letters or more at most: no address, markup, hashtag, digit or code."""
_LIST_MARKS = r"(?:[,;-][^,;-]*){4}"
"""The marks that a list has at least."""


def flag_noise(texts: Sequence[str]) -> np.ndarray:
    """Return (n,) `is_noise` of each text. Fast searches accept most texts."""
    # lone surrogates, which Arrow does not take, become other characters
    column = pa.array(
        [text if text.isascii() else text.encode(errors="surrogatepass").decode("latin-1") for text in texts],
        pa.string(),
    )
    plain = pc.and_(pc.match_substring_regex(column, _PLAIN), pc.match_substring_regex(column, "[a-z]"))
    plain = pc.and_not(
        plain,
        pc.or_(
            pc.match_substring_regex(column, _LIST_MARKS),
            pc.match_substring_regex(column, _SHOP.pattern, ignore_case=True),
        ),
    )
    rest = pc.replace_substring_regex(column, rf"(?i)\b(?:{'|'.join(sorted(_GENERIC_WORDS))})\b", "")
    plain = pc.and_(plain, pc.match_substring_regex(rest, "[A-Za-z]{2}"))
    result = np.zeros(len(texts), bool)
    for k in np.flatnonzero(~plain.to_numpy(zero_copy_only=False)).tolist():
        result[k] = is_noise(texts[k])
    return result


def is_noise(text: str) -> bool:
    """Return whether an alt text without boilerplate (see `find_description`) describes no picture.

    It is an address, markup, hashtags, a phrase of a shop or site, a file name, a list of search terms, numbers, marks.
    """
    # most texts have none of the marks and words that the slower searches look for
    if _MARKS.search(text) and (
        _ADDRESS.search(text) or _MARKUP.search(text) or len(_HASHTAG.findall(text)) > 1 or "©" in text
    ):
        return True
    words = [word.casefold() for word in _WORD.findall(text)]
    if _GENERIC_WORDS.issuperset(words) or not _SHOP_WORDS.isdisjoint(words) and _SHOP.search(text):
        return True
    return _is_list(text) or _is_all_capitals(text, words) or _is_code(text) or _is_marks(text)


def _is_list(text: str) -> bool:
    if sum(map(text.count, ",|;/•·-–")) < MIN_LIST_ITEMS - 1:
        return False
    pieces = [piece.split() for piece in _SEGMENT.split(text) if piece]
    joining = sum(word.casefold() in _JOINING_WORDS for piece in pieces for word in piece)
    return len(pieces) >= MIN_LIST_ITEMS and not joining and sum(map(len, pieces)) <= 2 * len(pieces)


def _is_all_capitals(text: str, words: list[str]) -> bool:
    """Return whether the text is three words or more in capitals, without a joining word."""
    return text.isupper() and len(words) > 2 and _JOINING_WORDS.isdisjoint(words)


def _is_code(text: str) -> bool:
    if _DIGIT.search(text) is None:
        return False
    parts = [part for part in text.split() if any(c.isalnum() for c in part)]
    codes = sum(any(c.isdigit() for c in part) for part in parts)
    return codes > 1 and codes >= MIN_CODE_SHARE * len(parts)


def _is_marks(text: str) -> bool:
    shown = "".join(text.split())
    if not text.isascii():
        shown = "".join(c for c in shown if unicodedata.category(c) not in ("Mn", "Mc", "Cf"))
        if sum(unicodedata.category(c) == "So" for c in shown) > 1:
            return True
    return sum(map(str.isalpha, shown)) < MIN_LETTER_SHARE * len(shown)
