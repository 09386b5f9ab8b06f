"""The truth of scenes against the painted pixels."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from florence.drawn_scenes import composition
from florence.drawn_scenes.figures import COLOURS, TEXTURES, draw_shape, draw_sign
from florence.drawn_scenes.invented import invent_shapes
from florence.drawn_scenes.truth import SIZES, DrawnObject, describe_uniquely, find_relation, make_expression
from florence.drawn_scenes.vocabularies import VOCABULARIES
from florence.errors import ImageError, SettingsError, StoreError
from florence.geometry import mask_iou, polygon_area, polygon_box, rasterise
from florence.images import decode_image
from florence.records import BASE_TYPES, CAPTIONS
from florence.sources import SOURCES


def source(**options):
    return SOURCES.get("scenes")(**options)


def drawn(**options):
    return list(source(**options).images(frozenset()))


@pytest.fixture(scope="module")
def composed_scenes():
    """Return scenes with the visible pixels of each object, taken from the painter itself."""
    result = []
    for vocabulary in VOCABULARIES:
        for size in (64, 128, 200):
            maker = source(size=size, vocabulary=vocabulary, signs=0.6, seed=11)
            for index in range(40):
                owners = []
                original = composition.find_visible_objects

                def keep(placed, owner, owners=owners, original=original):
                    owners.append((placed, owner.copy()))
                    return original(placed, owner)

                composition.find_visible_objects = keep
                try:
                    found = maker._scene("x", index)
                finally:
                    composition.find_visible_objects = original
                result.append((size, vocabulary, found, *owners[-1]))
    return result


def of(found, task):
    return [claim for claim in found.truth if claim.task == task]


def test_polygons_and_boxes_cover_the_visible_pixels(composed_scenes):
    for size, _, found, placed, owner in composed_scenes:
        objects = of(found, "<OD>")
        assert len(objects) == len(placed)
        boxes = {}
        for order, item in enumerate(placed):
            mask = owner == order
            ys, xs = np.nonzero(mask)
            boxes[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] = (mask, item)
            assert mask.sum() >= composition.MIN_VISIBLE * item.figure.mask.sum()
        for claim in objects:
            (region,) = claim.regions
            mask, item = boxes[region.box]
            assert claim.text == region.label == item.words["label"]
            assert mask_iou(rasterise(region.polygons, size, size), mask) > 0.9
            assert all(polygon_area(polygon) > 0 for polygon in region.polygons)


def test_every_region_is_inside_the_picture(composed_scenes):
    for size, _, found, *_ in composed_scenes:
        assert decode_image(found.data, found.name).shape == (size, size, 3)
        for claim in found.truth:
            for region in claim.regions:
                bounds = [
                    corners
                    for corners in (
                        region.box,
                        region.quad and polygon_box(region.quad),
                        *map(polygon_box, region.polygons),
                    )
                    if corners
                ]
                assert bounds
                for x0, y0, x1, y1 in bounds:
                    assert 0 <= x0 < x1 <= size and 0 <= y0 < y1 <= size


def test_every_annotation_type_and_phrase(composed_scenes):
    annotation_types = set()
    for _, vocabulary, found, *_ in composed_scenes:
        words = VOCABULARIES[vocabulary]
        annotation_types |= {claim.task for claim in found.truth}
        assert {claim.text for claim in of(found, "<OD>")} <= set(words.objects)
        captions = [claim.text for task in CAPTIONS for claim in of(found, task)]
        assert len(captions) == 3
        spans = {}
        for claim in of(found, "<CAPTION_TO_PHRASE_GROUNDING>"):
            assert claim.text in captions and claim.regions
            for region in claim.regions:
                start, stop = region.span
                assert claim.text[start:stop] == region.label and region.box and region.polygons
                spans.setdefault(claim.text, set()).add(region.span)
                label = next(r.label for c in of(found, "<OD>") for r in c.regions if r.box == region.box)
                assert label in region.label or region.label.startswith("two ")
        assert set(spans) == set(captions)
        # No object is named outside a phrase.
        for caption, taken in spans.items():
            rest = "".join(" " if any(a <= i < b for a, b in taken) else c for i, c in enumerate(caption))
            assert not set(rest.replace(".", "").replace(",", "").split()) & set(words.objects)
    assert annotation_types == set(BASE_TYPES)


def test_written_texts_are_readable(composed_scenes):
    seen = 0
    for size, vocabulary, found, *_ in composed_scenes:
        pixels = decode_image(found.data, found.name).astype(float).mean(axis=2)
        for claim in of(found, "<OCR_WITH_REGION>"):
            (region,) = claim.regions
            corners = np.array(region.quad).reshape(4, 2)
            assert claim.text == region.label and claim.text in VOCABULARIES[vocabulary].words
            assert polygon_area(region.quad) > 0 and corners[0, 0] < corners[1, 0] and corners[0, 1] < corners[3, 1]
            assert np.linalg.norm(corners[3] - corners[0]) >= size / 10 - 1e-6
            inside = rasterise([region.quad], size, size)
            assert pixels[inside].std() > 25, "ink and panel differ inside the quad"
            boxes = [r.box for c in of(found, "<OD>") for r in c.regions if c.text in ("sign", "plate")]
            assert any(
                b[0] <= corners[:, 0].min()
                and corners[:, 0].max() <= b[2]
                and b[1] <= corners[:, 1].min()
                and corners[:, 1].max() <= b[3]
                for b in boxes
            )
            seen += 1
    assert seen > 50


@pytest.mark.parametrize("angle", [-10.0, 0.0, 7.0])
def test_quads_are_tight_around_the_ink(angle):
    """Ink found in the pixels, rotated back by the angle, fills the quad to a pixel on every side."""

    class Draws:
        def __init__(self, values):
            self.values = iter(values)

        def integers(self, *_args, **_kwargs):
            return 0

        def random(self, count=None):
            return np.full(count, 0.5) if count else next(self.values)

    # Draws in order: height, pole, whether it is rotated, by how much.
    rng = Draws([0.5, 0.9, 0.1 if angle else 0.9, (angle / 10 + 1) / 2])
    figure = draw_sign(rng, ("HOTEL",), "white", 256)
    grey = figure.rgb.mean(axis=2)
    quad = np.array(figure.quads[0]).reshape(4, 2)
    across, down = quad[1] - quad[0], quad[3] - quad[0]
    # Well inside the panel, dark pixels are ink.
    height, width = grey.shape
    reach = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 0.2 * np.linalg.norm(down)
    ys, xs = np.nonzero((grey < 100) & rasterise([tuple((quad + reach).reshape(-1))], width, height))
    points = np.stack([xs + 0.5, ys + 0.5], axis=1) - quad[0]
    u, v = points @ across / np.linalg.norm(across), points @ down / np.linalg.norm(down)
    assert abs(np.degrees(np.arctan2(across[1], across[0])) - angle) < 0.01
    assert abs(u.min()) < 2 and abs(u.max() - np.linalg.norm(across)) < 2
    assert abs(v.min()) < 2 and abs(v.max() - np.linalg.norm(down)) < 2


def test_expressions_fit_one_object_alone(composed_scenes):
    total = objects = 0
    for _, _, found, *_ in composed_scenes:
        expressions = of(found, "<REFERRING_EXPRESSION_SEGMENTATION>")
        phrases = {
            claim.regions[0].box: claim.text.split(" that says ")[0].split()[1:]
            for claim in of(found, "<DENSE_REGION_CAPTION>")
        }
        assert len({claim.text for claim in expressions}) == len(expressions)
        total, objects = total + len(expressions), objects + len(phrases)
        for claim in expressions:
            words = claim.text.split()[1:]
            if set(words) <= {*SIZES, *COLOURS, *TEXTURES, words[-1]}:
                fitting = [
                    box for box, phrase in phrases.items() if phrase[-1] == words[-1] and set(words) <= set(phrase)
                ]
                assert fitting == [claim.regions[0].box]
    assert total > 0.97 * objects


def thing(label, x, y, order=0, **words):
    return DrawnObject(
        label, (x - 10.0, y - 10.0, x + 10.0, y + 10.0), ((0.0, 0.0, 1.0, 0.0, 1.0, 1.0),), 400, order, **words
    )


def test_relations():
    a, b = thing("star", 30, 60), thing("cat", 100, 64, 1)
    assert find_relation(a, b, 128) == "left of" and find_relation(b, a, 128) == "right of"
    assert find_relation(thing("star", 60, 20), thing("cat", 62, 90), 128) == "above"
    assert find_relation(thing("star", 60, 60), thing("cat", 84, 62, 1), 128) == "next to"
    assert find_relation(thing("star", 60, 60, 1, covers=frozenset({0})), thing("cat", 68, 62), 128) == "in front of"
    assert find_relation(thing("star", 60, 40, 1, on=0), thing("cat", 60, 60), 128) == "on top of"


def test_expressions_by_relation_where_attributes_do_not_tell():
    same_label = [
        thing("star", 20, 60, 0, colour="red"),
        thing("star", 100, 60, 1, colour="red"),
        thing("cat", 60, 60, 2),
    ]
    assert describe_uniquely(same_label[0], same_label) == []
    expressions = {make_expression(np.random.default_rng(seed), same_label[0], same_label, 128) for seed in range(20)}
    assert expressions == {"the star left of the cat", "the leftmost star"}
    same = [thing("star", 60, 60, 0, colour="red"), thing("star", 61, 61, 1, colour="red")]
    assert make_expression(np.random.default_rng(0), same[0], same, 128) is None


def test_the_same_settings_give_the_same_bytes_whatever_else_is_drawn():
    few, many = drawn(count=4, seed=5), drawn(count=9, seed=5)
    assert few == many[:4]
    known = frozenset(item.name for item in many[:7])
    assert list(source(count=9, seed=5).images(known)) == many[7:]
    assert [item.name.split("-")[:3] for item in few[:2]] == [["scene", "5", "000000"], ["scene", "5", "000001"]]


@pytest.mark.parametrize(
    "options",
    [{"seed": 6}, {"signs": 0.9}, {"size": 96}, {"objects": [2, 3]}, {"scale": 1.1}, {"vocabulary": "pretrain"}],
)
def test_other_settings_give_other_scenes(options):
    plain, other = drawn(count=5, seed=5), drawn(count=5, **{"seed": 5, **options})
    assert not {item.name for item in plain} & {item.name for item in other}
    assert len({item.data for item in plain}) == len({item.data for item in other}) == 5
    assert {item.data for item in plain} != {item.data for item in other}


def test_objects_are_as_large_as_their_scale():
    def sides(scale: float) -> float:
        boxes = [
            row.regions[0].box
            for item in drawn(count=40, seed=2, objects=[1, 1], signs=0, scale=scale)
            for row in item.truth
            if row.task == "<OD>"
        ]
        return float(np.median([max(x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes]))

    assert sides(1.3) / sides(0.8) == pytest.approx(1.3 / 0.8, rel=0.12)


@pytest.mark.parametrize("other", ["pretrain", "invented"])
def test_vocabularies_are_large_and_share_nothing(other):
    main, theirs = VOCABULARIES["main"], VOCABULARIES[other]
    for vocabulary in (main, theirs):
        assert len(set(vocabulary.shapes)) >= 24 and len(set(vocabulary.words)) == len(vocabulary.words) >= 60
    assert not set(main.objects) & set(theirs.objects)
    assert not set(main.words) & set(theirs.words)
    assert not {w for p in main.backgrounds for w in p.split()[1:]} & {
        w for p in theirs.backgrounds for w in p.split()[1:]
    } - {"of"}
    assert not {shape.draw for shape in main.shapes.values()} & {shape.draw for shape in theirs.shapes.values()}
    assert not set(main.backgrounds.values()) & set(theirs.backgrounds.values())


def test_invented_shapes_differ_from_each_other_and_stay_what_they_are():
    """Drawings of one shape are nearly always more alike than those of it and its nearest other.

    A long list begins with the shapes of a short one.
    """
    few = invent_shapes(60)
    assert list(invent_shapes(80))[:60] == list(few)

    def drawing(name: str, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        figure = draw_shape(rng, few[name].draw(rng), "red", "plain", 64, 40, 0)
        canvas = np.zeros((48, 48, 3), np.float32)
        height, width = figure.mask.shape
        canvas[: min(height, 48), : min(width, 48)] = (figure.rgb * figure.alpha[..., None])[:48, :48]
        return canvas.ravel() / np.linalg.norm(canvas)

    first, second = (np.stack([drawing(name, seed) for name in few]) for seed in (0, 1))
    assert np.mean((first @ second.T).argmax(axis=1) == np.arange(60)) > 0.9


def test_all_objects_colours_and_words_occur():
    labels, words, colours = set(), set(), set()
    for found in drawn(count=900, size=64, signs=1.0):
        labels |= {claim.text for claim in of(found, "<OD>")}
        words |= {claim.text for claim in of(found, "<OCR_WITH_REGION>")}
        colours |= {word for claim in of(found, "<DENSE_REGION_CAPTION>") for word in claim.text.split()}
    assert labels == set(VOCABULARIES["main"].objects) and words == set(VOCABULARIES["main"].words)
    assert {*COLOURS, "striped", "dotted", "small", "big"} <= colours


def test_number_of_objects_and_texts():
    for found in drawn(count=30, objects=[2, 2], signs=0):
        assert len(of(found, "<OD>")) == 2 and not of(found, "<OCR_WITH_REGION>")
    for found in drawn(count=20, objects=[1, 1], signs=1):
        assert ("sign" in [claim.text for claim in of(found, "<OD>")]) == bool(of(found, "<OCR_WITH_REGION>"))
    crowded = drawn(count=5, objects=[6, 6], signs=1, size=192)
    assert all(len([c for c in of(found, "<OD>") if c.text != "sign"]) == 6 for found in crowded)


@pytest.fixture
def cutouts(tmp_path):
    """Write a ring (it has a hole), a wedge named by a text, and files that are no sprites."""
    ring = Image.new("RGBA", (120, 120))
    ImageDraw.Draw(ring).ellipse((10, 10, 110, 110), fill=(200, 30, 30, 255))
    ImageDraw.Draw(ring).ellipse((45, 45, 75, 75), fill=(0, 0, 0, 0))
    ring.save(tmp_path / "gold_ring-02.png")
    wedge = Image.new("RGBA", (90, 60))
    ImageDraw.Draw(wedge).polygon([(0, 59), (45, 0), (89, 59)], fill=(20, 30, 200, 255))
    (tmp_path / "sub").mkdir()
    wedge.save(tmp_path / "sub" / "17.png")
    (tmp_path / "sub" / "17.txt").write_text("slice of cake\n")
    Image.new("RGB", (50, 50)).save(tmp_path / "opaque.png")
    (tmp_path / "broken.png").write_bytes(b"")
    return tmp_path


def test_sprites_have_exact_truth_too(cutouts):
    grey = cutouts.parent / f"{cutouts.name}-grey"
    grey.mkdir()
    Image.new("RGB", (200, 200), (128, 128, 128)).save(grey / "g.png")
    found = drawn(count=30, sprites=str(cutouts), backgrounds=str(grey), signs=0, objects=[1, 1])
    errors, scenes = found[:2], found[2:]
    assert {(error.name, error.reason) for error in errors} == {
        ("sprites/broken.png", "empty"),
        ("sprites/opaque.png", "unreadable"),
    }
    seen = set()
    for item in scenes:
        (claim,) = of(item, "<OD>")
        (region,) = claim.regions
        seen.add(claim.text)
        pixels = decode_image(item.data, item.name).astype(int)
        red, blue = (pixels[..., c] - pixels.max(axis=2, initial=0, where=np.arange(3) != c) > 60 for c in (0, 2))
        mask = rasterise(region.polygons, 128, 128)
        assert mask_iou(mask, red if claim.text == "gold ring" else blue) > 0.85
        if claim.text == "gold ring":
            x, y = (int(v) for v in ((region.box[0] + region.box[2]) / 2, (region.box[1] + region.box[3]) / 2))
            assert not mask[y, x], "the hole is not part of the ring"
    assert seen == {"gold ring", "slice of cake"}


def test_backgrounds_from_a_folder(tmp_path):
    for number, colour in enumerate([(10, 90, 10), (90, 10, 10)]):
        Image.new("RGB", (300 + 50 * number, 220), colour).save(tmp_path / f"{number}.png")
    (tmp_path / "0.txt").write_text("a dark lawn")
    (tmp_path / "2.jpg").write_text("no image")
    found = drawn(count=25, backgrounds=str(tmp_path), objects=[1, 1], signs=0)
    assert [item.name for item in found if isinstance(item, ImageError)] == ["backgrounds/2.jpg"], "reported once"
    scenes = [item for item in found if not isinstance(item, ImageError)]
    assert len(scenes) == 25
    for item in scenes:
        corners = decode_image(item.data, item.name)[[0, 0, -1, -1], [0, -1, 0, -1]].astype(int)
        lawn = np.median(corners, axis=0)[1] > 50
        assert ("a dark lawn" in of(item, "<DETAILED_CAPTION>")[0].text) == lawn
        assert not any(word in of(item, "<MORE_DETAILED_CAPTION>")[0].text for word in ("standing", "floating")), (
            "nobody knows where its ground is"
        )


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(StoreError, match="sprites"):
        drawn(count=1, sprites=str(tmp_path / "none"))
    with pytest.raises(SettingsError, match="no usable sprite"):
        drawn(count=1, sprites=str(tmp_path))
    (tmp_path / "x.png").write_bytes(b"nothing")
    with pytest.raises(SettingsError, match="damaged"):
        drawn(count=1, backgrounds=str(tmp_path))


@pytest.mark.parametrize(
    "options",
    [
        {"count": -1},
        {"count": 2.5},
        {"count": True},
        {"size": 8},
        {"seed": -1},
        {"objects": [3, 1]},
        {"objects": [0, 2]},
        {"objects": 3},
        {"signs": 2},
        {"signs": "many"},
        {"scale": 3},
        {"scale": "big"},
        {"vocabulary": "other"},
        {"sprites": 5},
        {"colours": 3},
    ],
)
def test_wrong_options_are_named(options):
    (name,) = options
    with pytest.raises(SettingsError, match=name):
        source(**options)


def test_poses_and_standing_agree_with_the_horizon():
    maker, seen = source(size=128, seed=2, objects=[1, 2], signs=0), set()
    for index in range(150):
        rng = np.random.default_rng([2, index, 0])
        background = maker._background(rng)
        for item in maker.composer().compose(rng, background, 2)[1]:
            seen.add(item.action)
            if background.ground is None or item.on is not None:
                continue
            if item.action in ("standing", "rolling"):
                assert item.box[3] > background.ground
            if item.action == "floating":
                assert item.box[3] <= background.ground
    assert {
        "standing",
        "floating",
        "upside down",
        "lying on its side",
        "tilting to the left",
        "tilting to the right",
    } <= seen


def test_pictures_are_jpegs_of_full_colour_resolution():
    with Image.open(io.BytesIO(drawn(count=1)[0].data)) as image:
        assert image.format == "JPEG" and [layer[1:3] for layer in image.layer] == [(1, 1)] * 3
