"""The vocabularies of drawn scenes: objects, backgrounds and written words."""

from __future__ import annotations

from typing import NamedTuple

from florence.drawn_scenes.backgrounds import MAIN_BACKGROUNDS, PRETRAIN_BACKGROUNDS, Painter
from florence.drawn_scenes.invented import invent_shapes, invent_words
from florence.drawn_scenes.main_shapes import MAIN_SHAPES
from florence.drawn_scenes.pretrain_shapes import PRETRAIN_SHAPES
from florence.drawn_scenes.shapes import Shape

MAIN_WORDS: tuple[str, ...] = tuple(
    (
        "STOP EXIT OPEN CAFE HOTEL TAXI BUS SALE PARK ZOO BANK SHOP NEWS MILK TEA PIZZA BAKER BOOKS EAST WEST "
        "NORTH SOUTH LEFT RIGHT UP DOWN PUSH PULL GO SLOW WAIT HELP FREE HOT COLD NEW OLD YES NO FIRE WATER ROAD "
        "GATE LIFT HALL ROOM DESK SCHOOL BEACH PORT FERRY TRAIN 5 7 12 24 30 50 66 80 99 101 360 2026"
    ).split()
)
"""Words written on the signs of the main vocabulary."""


class Vocabulary(NamedTuple):
    """What scenes are made of. ``panel``: label of the object that words are written on."""

    shapes: dict[str, Shape]
    backgrounds: dict[str, Painter]
    panel: str
    words: tuple[str, ...]

    @property
    def objects(self) -> tuple[str, ...]:
        """Every label that can occur."""
        return (*self.shapes, self.panel)


_INVENTED_WORDS = invent_words(3000, frozenset(MAIN_WORDS))
VOCABULARIES: dict[str, Vocabulary] = {
    "main": Vocabulary(MAIN_SHAPES, MAIN_BACKGROUNDS, "sign", MAIN_WORDS),
    "pretrain": Vocabulary(PRETRAIN_SHAPES, PRETRAIN_BACKGROUNDS, "plate", _INVENTED_WORDS),
    "invented": Vocabulary({**PRETRAIN_SHAPES, **invent_shapes(276)}, PRETRAIN_BACKGROUNDS, "plate", _INVENTED_WORDS),
}
"""``main`` is what a loop annotates and is scored on; the others pretrain a model that must not have seen ``main``.

``main`` shares no object, background, panel or written word with them. ``invented`` has many more objects.
"""
