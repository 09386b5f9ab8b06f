"""Texts that came with pictures from the web: what stands around a description, and what is none."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_FILE = r"[\w-]+\.(?:jpe?g|png|gif|webp|tiff?|bmp|heic)\b"
_BEFORE = re.compile(
    rf"\s*(?:(?:an?\s+|the\s+)?(?:stock\s+)?(?:photo|picture|image|photograph|pic)s?\s*(?:of\b|:)|{_FILE}\s*[-–|:]?|(?:https?://|www\.)\S+|[-–|:]\s+)\s*",
    re.IGNORECASE,
)
_AFTER = re.compile(
    r"\s*(?:\|.*|(?<=\s)[-–]\s*(?:buy|shop|order|stock|royalty|free|download)\b.*|#\d+|\(\d+\s*[x×]\s*\d+\)|(?:https?://|www\.)\S+"
    rf"|{_FILE})\s*$",
    re.IGNORECASE,
)
_SIGNS = re.compile(r"[|#(/]|[-–] ?(?:buy|shop|order|stock|royalty|free|download)|www|\.\w{3,4}\s*$", re.IGNORECASE)


@lru_cache(maxsize=1 << 16)
def find_description(text: str) -> tuple[int, int]:
    """Start and end of ``text`` without what web pages put around a description: file names, "photo of", names of shops and sites, numbers."""
    start, end = 0, len(text)
    while found := _BEFORE.match(text, start, end):
        start = found.end()
    # the search is slow on long texts, and few have anything that it could find
    while _SIGNS.search(text, start, end) and (found := _AFTER.search(text, start, end)):
        end = found.start()
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


# ---------------------------------------------------------------- what is no description


_ADDRESS = re.compile(
    rf"\w+://|\bwww\.|\b[\w-]+\.(?:com|org|net|info|shop|io|co\.uk|example)\b|\b{_FILE}|\b\w+\.(?:html?|php|aspx?|svg|pdf)\b|\b[a-z]:\\",
    re.IGNORECASE,
)
_MARKUP = re.compile(
    r"</?[a-z][^<>]*>|&#?\w+;|\{\{|\}\}|\$\{|!\[|\]\(|\[\w+ \w+=|%[0-9a-f]{2}|\b(?:alt|src|href|class)=", re.IGNORECASE
)
_HASHTAG = re.compile(r"#[^\W\d]\w*")
_SHOP = re.compile(
    r"\b(?:(?:buy|shop|order|book)\s+(?:now|online|today)|add to (?:cart|basket|bag)|free (?:shipping|delivery|download|returns)|(?:best|lowest) (?:price|deal|offer)s?"
    r"|(?:in|out of) stock|click (?:here|to|for|on)|(?:read|see|learn|view) more|link in bio|follow (?:us|me)\b|subscribe|sign up (?:now|for|to|here|today)|royalty.free"
    r"|stock (?:photo|vector|image|illustration)|vector (?:illustration|image|art)|all rights reserved|copyright|getty images|shutterstock|alamy|istock(?:photo)?"
    r"|image may contain|no (?:image|photo|picture) available|cheap)\b",
    re.IGNORECASE,
)
_SIGN = re.compile(r"[:/\\#<>&{}$\[\]%=©]|\w\.\w")
"""One of these is in every address, mark-up and hashtag."""
_SHOPS = frozenset(
    "buy shop order book add free best lowest stock click read see learn view link follow subscribe sign royalty vector rights copyright getty shutterstock alamy istock "
    "istockphoto image no cheap".split()
)
"""One of these words is in every phrase of a shop or site."""
_NOTHING = frozenset(
    "image images photo photos picture pictures pic img logo icon banner thumbnail placeholder untitled undefined null none nan default avatar header footer hero desktop "
    "mobile screenshot screen shot copy final version file slide figure gallery attachment preview no not available at am pm top left right bottom of the a an and in to my our your "
    "here this featured main full size alt text title caption description insert project post article blog page site website home menu search close open back next previous prev "
    "arrow button link play pause loading edit update delete share user profile account test sample example demo lorem ipsum dolor sit amet consectetur adipiscing elit".split()
)
"""Words of which a text that has no others says nothing of a picture."""
_WORD = re.compile(r"(?<![\w.])[^\W\d_]{2,}(?:['’][^\W\d_]+)?(?![\w])")
_PROSE = frozenset("a an the of in on at with and or by to from for is are near under over behind".split())
_FIGURE = re.compile(r"\d")
_SEGMENT = re.compile(r"\s*[,|;/•·]\s*|\s+[-–]\s+")
LETTERS = 0.6
"""Least share of a description's characters, spaces apart, that are letters."""
SEGMENTS = 5
"""Short pieces between commas or bars, without words that join them, from which a text is a list for search engines."""
CODES = 1 / 3
"""Share of a text's words, two at least, that have figures in them, from which it is a number of something."""


_PLAIN = (
    r"^\s*(?:(?:[A-Za-z]{2,}(?:['-][A-Za-z]+)*[.,;!?]?|[AaI])\s+)*(?:[A-Za-z]{2,}(?:['-][A-Za-z]+)*[.,;!?]?|[AaI])\s*$"
)
"""Words of letters, with a sign after one of two letters or more at most: letters are most of it, and no address, markup, hashtag, figure or code is in it."""
_LISTED = r"(?:[,;-][^,;-]*){4}"
"""What a list has at least."""


def flag_noise(texts: Sequence[str]) -> np.ndarray:
    """(n,) `is_noise` of each text; most are seen at a glance to be no noise."""
    # halves of a character, which Arrow does not take, become strange ones
    said = pa.array(
        [text if text.isascii() else text.encode(errors="surrogatepass").decode("latin-1") for text in texts],
        pa.string(),
    )
    plain = pc.and_(pc.match_substring_regex(said, _PLAIN), pc.match_substring_regex(said, "[a-z]"))
    plain = pc.and_not(
        plain,
        pc.or_(
            pc.match_substring_regex(said, _LISTED), pc.match_substring_regex(said, _SHOP.pattern, ignore_case=True)
        ),
    )
    rest = pc.replace_substring_regex(said, rf"(?i)\b(?:{'|'.join(sorted(_NOTHING))})\b", "")
    plain = pc.and_(plain, pc.match_substring_regex(rest, "[A-Za-z]{2}"))
    result = np.zeros(len(texts), bool)
    for k in np.flatnonzero(~plain.to_numpy(zero_copy_only=False)).tolist():
        result[k] = is_noise(texts[k])
    return result


def is_noise(text: str) -> bool:
    """Whether what is left of an alt text, see `find_description`, describes no picture: an address, markup, hashtags, a shop's or a site's phrase, the name of a file,
    a list of search terms, numbers, signs.
    """
    # most texts have none of the signs and words that the slower searches look for
    if _SIGN.search(text) and (
        _ADDRESS.search(text) or _MARKUP.search(text) or len(_HASHTAG.findall(text)) > 1 or "©" in text
    ):
        return True
    words = [word.casefold() for word in _WORD.findall(text)]
    if _NOTHING.issuperset(words) or not _SHOPS.isdisjoint(words) and _SHOP.search(text):
        return True
    return _is_list(text) or _is_shouted(text, words) or _is_code(text) or _is_signs(text)


def _is_list(text: str) -> bool:
    if sum(map(text.count, ",|;/•·-–")) < SEGMENTS - 1:
        return False
    pieces = [piece.split() for piece in _SEGMENT.split(text) if piece]
    joining = sum(word.casefold() in _PROSE for piece in pieces for word in piece)
    return len(pieces) >= SEGMENTS and not joining and sum(map(len, pieces)) <= 2 * len(pieces)


def _is_shouted(text: str, words: list[str]) -> bool:
    """Three words or more in capitals, and none that joins them."""
    return text.isupper() and len(words) > 2 and _PROSE.isdisjoint(words)


def _is_code(text: str) -> bool:
    if _FIGURE.search(text) is None:
        return False
    parts = [part for part in text.split() if any(c.isalnum() for c in part)]
    codes = sum(any(c.isdigit() for c in part) for part in parts)
    return codes > 1 and codes >= CODES * len(parts)


def _is_signs(text: str) -> bool:
    shown = "".join(text.split())
    if not text.isascii():
        shown = "".join(c for c in shown if unicodedata.category(c) not in ("Mn", "Mc", "Cf"))
        if sum(unicodedata.category(c) == "So" for c in shown) > 1:
            return True
    return sum(map(str.isalpha, shown)) < LETTERS * len(shown)
