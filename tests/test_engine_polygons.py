"""Polygons with fewer vertices, and polygons given to regions without one."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import shapely
from engine_claims import NOISE, Scenes, box, fuse_claims, image, one_image, phrase, tables
from hypothesis import given, settings
from hypothesis import strategies as st

from florence.config import EngineSettings
from florence.engine import fuse
from florence.engine.enhance.polygons import simplify_polygons
from florence.geometry import box_iou, mask_iou, rasterise
from florence.records import Claim, Region, table_annotations

SQUARE = (10.0, 10.0, 50.0, 10.0, 50.0, 50.0, 10.0, 50.0)
HERE = (10.0, 10.0, 50.0, 50.0)


def column(*regions: list[list[float]]) -> pa.ListArray:
    return pa.array(list(regions), pa.list_(pa.list_(pa.float64())))


def overlap(a: list[float], b: list[float]) -> float:
    # a simplified polygon may cross itself
    one, other = (shapely.make_valid(shapely.Polygon(np.reshape(points, (-1, 2)))) for points in (a, b))
    return one.intersection(other).area / one.union(other).area


@st.composite
def star_polygons(draw) -> list[float]:
    """Return a polygon around its middle: no line crosses another."""
    radii = draw(st.lists(st.floats(2, 60), min_size=3, max_size=40))
    angle = np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    return np.stack([100 + radii * np.cos(angle), 100 + radii * np.sin(angle)], axis=1).reshape(-1).tolist()


@settings(deadline=None)
@given(st.lists(star_polygons(), max_size=5), st.sampled_from([0.8, 0.95, 0.99]))
def test_polygons_keep_their_shape_and_lose_vertices(polygons, min_polygon_iou: float):
    regions = [polygons[:2], [], polygons[2:]]
    found = simplify_polygons(column(*regions), min_polygon_iou).to_pylist()
    assert [len(region) for region in found] == [len(region) for region in regions]
    for before, after in zip(
        [p for region in regions for p in region], [p for region in found for p in region], strict=True
    ):
        corners, left = (list(map(tuple, np.reshape(points, (-1, 2)))) for points in (before, after))
        assert [corner for corner in corners if corner in set(left)] == left and len(left) >= min(len(corners), 4)
        assert overlap(before, after) >= min_polygon_iou - 1e-9
    assert simplify_polygons(column(*regions), 1.0).to_pylist() == regions


def test_needed_vertices_stay_and_vertices_on_an_edge_go():
    along = [10.0, 10.0, 30.0, 10.0, 50.0, 10.0, 50.0, 30.0, 50.0, 50.0, 10.0, 50.0]
    assert simplify_polygons(column([list(SQUARE)], [along], [[1.0, 1.0, 9.0, 1.0, 5.0, 9.0]]), 0.95).to_pylist() == [
        [list(SQUARE)],
        [list(SQUARE)],
        [[1.0, 1.0, 9.0, 1.0, 5.0, 9.0]],
    ]


def test_few_more_vertices_are_kept_than_with_exact_overlaps():
    # against the same order of corners, in which every overlap is computed
    scenes = Scenes(25, seed=2)
    whole = [
        list(polygon)
        for rows in scenes.truth.values()
        for row in rows
        for region in row.regions
        for polygon in region.polygons
    ]
    ours = [
        len(polygons[0]) // 2
        for polygons in simplify_polygons(column(*([polygon] for polygon in whole)), 0.95).to_pylist()
    ]
    assert sum(ours) < 0.8 * sum(len(polygon) // 2 for polygon in whole)
    assert sum(ours) <= 1.1 * sum(fewest(polygon, 0.95) for polygon in whole)


def fewest(polygon: list[float], min_polygon_iou: float) -> int:
    corners = [tuple(corner) for corner in np.reshape(polygon, (-1, 2)).tolist()]
    best = len(corners)
    while len(corners) > 4:
        triangles = [
            abs(shapely.Polygon([corners[k - 1], corner, corners[(k + 1) % len(corners)]]).area)
            for k, corner in enumerate(corners)
        ]
        del corners[int(np.argmin(triangles))]
        if (
            shapely.Polygon(corners).is_valid
            and overlap(polygon, [v for corner in corners for v in corner]) >= min_polygon_iou
        ):
            best = len(corners)
    return best


def expression(words: str, polygon: tuple[float, ...]) -> Claim:
    return Claim("<REFERRING_EXPRESSION_SEGMENTATION>", words, (Region(words, polygons=(polygon,), score=0.9),), 0.9)


def polygons(claims, **more) -> dict[tuple[str, str], list[tuple]]:
    return {
        (row.task, region.label): [region.polygons for region in row.regions]
        for row in fuse_claims(one_image(**claims), settings=EngineSettings(**more))
        for region in row.regions
    }


def test_objects_and_phrases_get_the_polygon_of_the_nearest_box():
    caption = "a cat on a mat"
    claims = dict(
        a=[
            box("cat", *HERE),
            Claim("<CAPTION>", caption),
            phrase(caption, "a cat", (12, 10, 52, 50)),
            phrase(caption, "a mat", (0, 40, 60, 60)),
            expression("the cat", SQUARE),
        ]
    )
    found = polygons(claims)
    assert found["<OD>", "cat"] == [(SQUARE,)]
    # carried along to the phrase's own box
    assert found["<CAPTION_TO_PHRASE_GROUNDING>", "a cat"] == [((12.0, 10.0, 52.0, 10.0, 52.0, 50.0, 12.0, 50.0),)]
    assert found["<CAPTION_TO_PHRASE_GROUNDING>", "a mat"] == [()]
    assert polygons(claims, mask_iou=0.95)["<CAPTION_TO_PHRASE_GROUNDING>", "a cat"] == [()]


def test_the_nearest_polygon_is_transferred_and_own_polygons_stay():
    own = (10.0, 10.0, 50.0, 10.0, 30.0, 50.0)
    near, far = (11.0, 10.0, 51.0, 10.0, 51.0, 50.0, 11.0, 50.0), (15.0, 10.0, 55.0, 10.0, 35.0, 50.0)
    claims = dict(a=[box("cat", *HERE), expression("the far one", far), expression("the near one", near)])
    assert len(polygons(claims, same_iou=0.99, iou=0.99)["<OD>", "cat"][0][0]) == 8
    claims = dict(a=[Claim("<OD>", "cat", (Region("cat", box=HERE, polygons=(own,)),)), expression("the cat", SQUARE)])
    assert polygons(claims)["<OD>", "cat"] == [(own,)]


def test_dropped_labels_give_and_get_no_polygons():
    claims = dict(
        a=[box("cat", *HERE), expression("the cat", SQUARE)],
        b=[box("cat", *HERE), expression("x", (60.0, 60.0, 90.0, 60.0, 90.0, 79.0))],
    )
    rows = fuse_claims(one_image(**claims), settings=EngineSettings(min_confidence=0.9))
    assert [(row.task, row.kept) for row in rows].count(("<OD>", True)) == 1
    assert all(not region.polygons for row in rows if row.task == "<OD>" for region in row.regions)


def test_transferred_polygons_are_as_good_as_the_objects_own():
    scenes = Scenes(40, seed=12)
    claims = {name: scenes.says(name, noise, skill=0.2) for name, noise in NOISE.items()}
    rows = [row for row in table_annotations(fuse(*tables(claims, scenes.images), EngineSettings(), 0)) if row.kept]
    scores: dict[str, list[float]] = {"<OD>": [], "<CAPTION_TO_PHRASE_GROUNDING>": []}
    masked = []
    for row in rows:
        truth = [other.regions[0] for other in scenes.truth[row.image_id] if other.task == "<OD>"]
        for region in row.regions if row.task in scores else ():
            overlaps = box_iou(np.asarray([region.box]), np.asarray([other.box for other in truth]))[0]
            masked.append(bool(region.polygons))
            if region.polygons and overlaps.max() >= 0.5:
                scores[row.task].append(
                    mask_iou(
                        rasterise(region.polygons, 128, 128),
                        rasterise(truth[int(overlaps.argmax())].polygons, 128, 128),
                    )
                )
    own, transferred = np.mean(scores["<OD>"]), np.mean(scores["<CAPTION_TO_PHRASE_GROUNDING>"])
    assert transferred > own - 0.03 and np.mean(masked) > 0.8 and len(masked) > 200


@pytest.mark.parametrize(
    "polygon",
    [(5.0, 5.0, 5.0, 5.0, 5.0, 5.0), tuple([1.0, 1.0] * 9), tuple(float(v) for k in range(9) for v in (k, k))],
)
def test_polygons_without_an_area_do_no_harm(polygon):
    (row,) = fuse_claims(
        one_image(a=[Claim("<OD>", "cat", (Region("cat", box=HERE, polygons=(polygon,)),))]), [image()]
    )
    assert row.kept and all(np.isfinite(v) for points in row.regions[0].polygons for v in points)
