import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence.codec import grammar, locations, parsing
from florence.codec.grammar import Form, LabelledRegions
from florence.errors import EncodeError
from florence.records import Region

PLACED = [Form.BOXES, Form.LABELLED_BOXES, Form.LABELLED_QUADS, Form.POLYGONS, Form.LABELLED_SHAPES]
size = st.tuples(st.integers(1, 20_000), st.integers(1, 20_000))
words = (
    st.text(min_size=1, max_size=12)
    .map(lambda t: " ".join(t.split()))
    .filter(lambda t: t and all(token.type == "text" for token in parsing.tokenise(t)))
)
bin_ = st.integers(0, 999)
loc = bin_.map(lambda b: locations.TOKENS[b])


def tokens(bins):
    return "".join(locations.TOKENS[b] for b in bins)


boxes = st.tuples(bin_, bin_, bin_, bin_).map(
    lambda b: tokens((min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3])))
)
points = st.lists(st.tuples(bin_, bin_), min_size=3, max_size=6).map(lambda p: tokens([v for xy in p for v in xy]))
objects = st.lists(points, min_size=1, max_size=3).map("<sep>".join)
wrapped = objects.map(lambda o: f"<poly>{o}</poly>")


def labelled(shape, most=3):
    return st.lists(
        st.tuples(words, st.lists(shape, min_size=1, max_size=most).map("".join)).map("".join), max_size=4
    ).map("".join)


LEGAL = {
    Form.BOXES: st.lists(boxes, max_size=5).map("".join),
    Form.LABELLED_BOXES: labelled(boxes),
    Form.LABELLED_QUADS: labelled(st.lists(bin_, min_size=8, max_size=8).map(tokens), most=1),
    Form.POLYGONS: st.one_of(st.just(""), objects, st.lists(wrapped, min_size=2, max_size=3).map("".join)),
    Form.LABELLED_SHAPES: st.one_of(labelled(boxes), labelled(wrapped)),
}


@pytest.mark.parametrize("form", PLACED)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_legal_text_read_and_written_is_itself(form, data):
    text, extent = data.draw(LEGAL[form]), data.draw(size)
    parsed = parsing.parse(text, form, extent)
    assert parsed.position is None, parsed.reason
    assert grammar.write(parsed.groups, form, extent) == text
    assert "".join(text[a:b] for a, b in parsed.spans) == text
    assert len(parsed.regions) == len(parsed.spans) == len(parsed.label_spans)
    for region, (a, b) in zip(parsed.regions, parsed.label_spans, strict=True):
        assert " ".join(text[a:b].split()) == region.label


@given(
    st.lists(st.tuples(words, st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=3)), max_size=4), size
)
@settings(deadline=None)
def test_boxes_come_back_with_their_labels_within_half_a_bin(items, extent):
    width, height = extent
    groups = [
        LabelledRegions(
            name,
            tuple(
                Region(name, box=(min(a, c) * width, min(b, d) * height, max(a, c) * width, max(b, d) * height))
                for a, b, c, d in shares
            ),
        )
        for name, shares in items
    ]
    parsed = parsing.parse(grammar.write(groups, Form.LABELLED_BOXES, extent), Form.LABELLED_BOXES, extent)
    assert parsed.position is None
    assert [group.label for group in parsed.groups] == [group.label for group in groups]
    wanted = [region for group in groups for region in group.regions]
    for region, there in zip(parsed.regions, wanted, strict=True):
        for index, (a, b) in enumerate(zip(region.box, there.box, strict=True)):
            assert abs(a - b) <= (height if index % 2 else width) / 2000 * (1 + 1e-9)


piece = st.one_of(
    loc,
    loc,
    loc,
    st.sampled_from(
        ["<sep>", "<poly>", "</poly>", "<and>", "<s>", "</s>", "<od>", "<loc_1000>", "<loc_07>", "<", ">", "<loc_"]
    ),
    st.text(max_size=5),
    st.just("dog"),
)
garbage = st.lists(piece, max_size=25).map("".join)


@pytest.mark.parametrize("form", list(Form))
@given(text=garbage, extent=size)
@settings(max_examples=80, deadline=None)
def test_whatever_the_text_parsing_ends_and_gives_regions_that_can_be_written(form, text, extent):
    parsed = parsing.parse(text, form, extent)
    assert (parsed.position is None) == (parsed.reason == "")
    assert len(parsed.regions) == len(parsed.spans) == len(parsed.label_spans)
    if form in PLACED:
        again = (
            parsing.parse(grammar.write(parsed.groups, form, extent), form, extent) if parsed.position is None else None
        )
        assert again is None or again.regions == parsed.regions


@pytest.mark.parametrize("form", PLACED)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_what_is_cut_off_gives_the_regions_before_the_cut(form, data):
    text = data.draw(LEGAL[form])
    whole = parsing.parse(text, form, (1000, 1000))
    cut = data.draw(st.integers(0, len(text)))
    # at the end of a token: a token is never written in part
    cut = next(
        (token.start for token in parsing.tokenise(text) if token.start < cut < token.end and token.type != "text"), cut
    )
    part = parsing.parse(text[:cut], form, (1000, 1000))
    certain = [region for region, (_, end) in zip(whole.regions, whole.spans, strict=True) if end <= cut]
    assert list(part.regions)[: len(certain)] == certain
    if form is not Form.POLYGONS and form is not Form.LABELLED_SHAPES:
        assert len(part.regions) == len(certain)


CASES = [
    (Form.LABELLED_BOXES, "dog" + tokens([1, 2, 3, 4, 5, 6]), 1, 7),
    (Form.LABELLED_BOXES, tokens([1, 2, 3, 4]) + "dog" + tokens([1, 2, 3, 4]), 1, 0),
    (Form.LABELLED_BOXES, "dog" + tokens([1, 2, 3, 4]) + "cat", 1, 6),
    (Form.LABELLED_BOXES, "  " + tokens([1, 2, 3, 4]), 0, 0),
    (Form.LABELLED_BOXES, "ha<od>lf" + tokens([1, 2, 3, 4]), 0, 1),
    (Form.LABELLED_BOXES, "dog<loc_1000>" + tokens([1, 2, 3, 4]), 0, 1),
    (Form.LABELLED_BOXES, "dog<poly>" + tokens([1, 2, 3, 4, 5, 6]) + "</poly>", 0, 1),
    (Form.BOXES, "dog" + tokens([1, 2, 3, 4]), 0, 0),
    (Form.BOXES, tokens([1, 2, 3, 4, 5]), 1, 5),
    (Form.LABELLED_QUADS, "STOP" + tokens(range(16)), 1, 9),
    (Form.LABELLED_QUADS, "STOP" + tokens(range(4)), 0, 5),
    (Form.POLYGONS, tokens(range(4)), 0, 4),
    (Form.POLYGONS, tokens(range(7)), 1, 7),
    (Form.POLYGONS, "<poly>" + tokens(range(6)), 1, 7),
    (Form.POLYGONS, tokens(range(6)) + "<sep>", 1, 7),
    (Form.LABELLED_SHAPES, "a" + tokens(range(4)) + "b<poly>" + tokens(range(6)) + "</poly>", 2, 6),
]


@pytest.mark.parametrize("form,text,regions,position", CASES)
def test_the_first_token_that_does_not_fit_is_named(form, text, regions, position):
    parsed = parsing.parse(text, form, (1000, 1000))
    assert (len(parsed.regions), parsed.position) == (regions, position), parsed


def test_corners_in_the_wrong_order_are_put_right():
    assert parsing.parse("a" + tokens([9, 8, 1, 2]), Form.LABELLED_BOXES, (1000, 1000)).regions[0].box == (
        1.5,
        2.5,
        9.5,
        8.5,
    )


@pytest.mark.parametrize(
    "text", ["a<loc_5>", "<loc_1000>", "x<sep>y", "</poly>", "<and>", "</s>", "<od>", "\ud800", "", " \n\t"]
)
def test_a_label_that_would_be_misread_is_refused(text):
    with pytest.raises(EncodeError):
        grammar.clean_label(text)


@pytest.mark.parametrize("text", ["a < b > c", "<b>bold</b>", "狗", "café 🐕", "<loc>", "naïve\u0301", "a,b|c"])
def test_every_other_label_comes_back(text):
    region = Region(text, box=(1, 2, 3, 4))
    parsed = parsing.parse(
        grammar.write([LabelledRegions(text, (region,))], Form.LABELLED_BOXES, (10, 10)), Form.LABELLED_BOXES, (10, 10)
    )
    assert parsed.position is None
    assert parsed.groups[0].label == text


def test_what_does_not_fit_a_form_is_not_written():
    box = Region("a", box=(1, 2, 3, 4))
    for groups, form in [
        ([LabelledRegions("a", ())], Form.LABELLED_BOXES),
        ([LabelledRegions("a", (box, box))], Form.LABELLED_QUADS),
        ([LabelledRegions("", (box,))], Form.POLYGONS),
        ([LabelledRegions("", (Region("a", polygons=((1, 2, 3, 4),)),))], Form.POLYGONS),
        ([LabelledRegions("a", (box,))], Form.TEXT),
    ]:
        with pytest.raises(EncodeError):
            grammar.write(groups, form, (10, 10))
