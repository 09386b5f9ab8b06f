"""Claims are fused in blocks of images, with models fitted to some images, by any number of workers."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from engine_claims import NOISE, STUDENT, Scenes, parquet_bytes, shuffle_rows, tables

from florence.config import EngineSettings
from florence.engine import fuse
from florence.engine.consensus import blocks
from florence.engine.consensus.fitting import fit_annotator_models
from florence.engine.consensus.label_matrix import ItemClaims, build_label_matrix
from florence.engine.consensus.posterior import infer_posterior
from florence.engine.reliability import estimate_reliability
from florence.errors import DataError
from florence.records import ANNOTATIONS, BASE_TYPES, AnnotatorProfile, Claim, Region, table_annotations

COUNT = 240


@pytest.fixture(scope="module")
def scenes():
    return Scenes(COUNT, seed=21)


@pytest.fixture(scope="module")
def claimed(scenes):
    """(claims, images, coverage) of three annotators and a student of scenes, and of a fourth and a person of few."""
    claims_of = {name: scenes.says(name, noise, skill=0.2) for name, noise in NOISE.items()}
    claims_of["student"] = scenes.says(
        "student",
        STUDENT,
        tasks=("<OD>", "<CAPTION>", "<OCR_WITH_REGION>", "<CAPTION_TO_PHRASE_GROUNDING>"),
        alt_noise=0.4,
    )
    rare = scenes.says("rare", (0.1, 0.1, 0.1, 0.1), tasks=("<DETAILED_CAPTION>",))
    claims_of["rare"] = {image: claims for number, (image, claims) in enumerate(rare.items()) if number % 12 == 5}
    question = Claim("<VQA>", "What is it?", (Region("a scene", box=(0, 0, 128, 128)),))
    claims_of["human"] = {image.image_id: [question] for image in scenes.images[-5:]}
    return tables(claims_of, scenes.images)


@pytest.fixture
def cut(monkeypatch):
    """Return a function that sets the number of images of a fit and of claims in a block."""

    def sizes(fit: int, block: int = 900, whole: int = 0) -> None:
        for name, value in (("FIT_IMAGES", fit), ("CLAIMS_PER_BLOCK", block), ("MAX_CLAIMS_WHOLE", whole)):
            monkeypatch.setattr(blocks, name, value)

    return sizes


def test_neither_order_nor_the_number_of_workers_shows(claimed, cut):
    claims, images, coverage = claimed
    cut(fit=30)
    first = parquet_bytes(fuse(claims, images, coverage, EngineSettings(), 1).combine_chunks())
    for workers in (2, 3):
        progress: list[tuple[int, int]] = []
        table = fuse(
            claims,
            images,
            coverage,
            EngineSettings(),
            1,
            workers=workers,
            done=lambda *k, progress=progress: progress.append(k),
        )
        assert parquet_bytes(table.combine_chunks()) == first
        assert len(progress) > 5 and progress == [(k + 1, len(progress)) for k in range(len(progress))]
    pieces = pa.concat_tables([shuffle_rows(claims, 1).slice(0, 700), shuffle_rows(claims, 1).slice(700)])
    assert (
        parquet_bytes(fuse(pieces, images, shuffle_rows(coverage, 2), EngineSettings(), 1, workers=2).combine_chunks())
        == first
    )


def test_fitting_to_all_images_is_fusing_all_in_one(claimed, cut):
    claims, images, coverage = claimed
    cut(fit=30, whole=len(claims))
    whole = fuse(claims, images, coverage, EngineSettings(), 0)
    cut(fit=COUNT)
    assert fuse(claims, images, coverage, EngineSettings(), 0).combine_chunks() == whole


@pytest.mark.parametrize("block", [1, 40, 10**9])
def test_blocks_may_be_of_any_size(claimed, cut, block):
    claims, images, coverage = (table.slice(0, 900) for table in claimed)
    images = pa.concat_tables([images.slice(0, 40), images.slice(230)])  # of which some have no claim
    cut(fit=5, block=10**9)
    whole = fuse(claims, images, coverage, EngineSettings(), 0)
    cut(fit=5, block=block)
    assert fuse(claims, images, coverage, EngineSettings(), 0, workers=2).combine_chunks() == whole.combine_chunks()


def test_the_table_is_as_that_of_one_block(claimed, cut):
    claims, images, coverage = claimed
    cut(fit=30)
    stray = claims.slice(0, 50).set_column(1, "image_id", pa.array(["f" * 64] * 50))
    table = fuse(pa.concat_tables([claims, stray]), images, coverage, EngineSettings(), 4, workers=2)
    assert table.schema == ANNOTATIONS
    rows = table_annotations(table)
    assert len({row.annotation_id for row in rows}) == len(rows) and {row.round for row in rows} == {4}
    position = {image: k for k, image in enumerate(images["image_id"].to_pylist())}
    keys = [(position[row.image_id], (*BASE_TYPES, "<VQA>").index(row.task)) for row in rows]
    assert keys == sorted(keys)
    assert {(row.image_id, row.task) for row in rows} == {
        (row["image_id"], row["task"]) for row in claims.select(["image_id", "task"]).to_pylist()
    }


def test_labels_are_as_good_as_where_models_are_fitted_to_all(scenes, claimed, cut):
    claims, images, coverage = claimed

    def quality(fit: int) -> dict[tuple[str, str], float]:
        cut(fit)
        return scenes.quality(fuse(claims, images, coverage, EngineSettings(), 0))

    some, every = quality(COUNT // 3), quality(COUNT)
    for key in (
        ("<OD>", "f1"),
        ("<DENSE_REGION_CAPTION>", "f1"),
        ("<OCR_WITH_REGION>", "spotted"),
        ("<CAPTION_TO_PHRASE_GROUNDING>", "f1"),
    ):
        assert some[key] > every[key] - 0.02, (key, some[key], every[key])
    for key in (("<CAPTION>", "cider"), ("<DETAILED_CAPTION>", "cider"), ("<MORE_DETAILED_CAPTION>", "cider")):
        assert some[key] > every[key] - 0.4, (key, some[key], every[key])


def test_images_to_fit_to_are_sought_for_each_annotator_and_type(claimed, cut):
    claims, images, coverage = claimed
    cut(fit=10)
    chosen, _ = blocks.select_fit_claims(claims, coverage)
    there = {
        (row["annotator"], row["task"], row["image_id"])
        for row in claims.select(["annotator", "task", "image_id"]).to_pylist()
    }
    taken = set(chosen["image_id"].to_pylist())
    for annotator, task in {(a, t) for a, t, _ in there if a != "human"}:
        mine = {image for a, t, image in there if (a, t) == (annotator, task)}
        assert len(mine & taken) >= min(10, len(mine)), (annotator, task)
    # annotators of all images share theirs: no more are taken than rare annotators and types need
    assert len(taken) < 0.4 * COUNT
    assert (
        set(blocks.select_fit_claims(shuffle_rows(claims, 3), shuffle_rows(coverage, 3))[0]["image_id"].to_pylist())
        == taken
    )
    people = claims.filter(pc.equal(claims["annotator"], "human"))
    assert not len(blocks.select_fit_claims(people, coverage)[0])
    # they do not stand side by side
    position = sorted(images["image_id"].to_pylist().index(image) for image in taken)
    assert np.diff(position).std() > 1 and position[-1] - position[0] > COUNT / 2


def test_reliability_is_that_of_the_models_of_blocks(claimed, cut):
    claims, _, coverage = claimed
    cut(fit=40)
    some = estimate_reliability(claims, coverage, EngineSettings())
    cut(fit=40, whole=len(claims))
    every = estimate_reliability(claims, coverage, EngineSettings())
    assert some.keys() <= every.keys()
    for name in NOISE:
        assert abs(some[name, "<OD>"].value - every[name, "<OD>"].value) < 0.1
    ranked = [some[name, "<OD>"].value for name in ("careful", "hasty", "crude", "student")]
    assert ranked == sorted(ranked, reverse=True)


def test_claims_about_no_image_at_all_give_no_labels(claimed, cut):
    claims, images, coverage = claimed
    cut(fit=20)
    for none in (images.slice(0, 0), images.schema.empty_table()):
        for some_coverage in (coverage, coverage.slice(0, 0)):
            table = fuse(claims, none, some_coverage, EngineSettings(), 0, workers=2)
            assert table.schema == ANNOTATIONS and not len(table)


def test_rankers_and_people_reach_every_block(scenes, claimed, cut):
    claims, images, coverage = claimed
    cut(fit=20)
    last, first = scenes.images[-1].image_id, scenes.images[0].image_id
    claims_of = {name: {} for name in ("anna", "clip")}
    for image in (first, last):
        claims_of["anna"][image] = [Claim("<CAPTION>", "What Anna says is so.")]
        claims_of["clip"][image] = [Claim("<DETAILED_CAPTION>", "no caption of anybody", (), 0.9)]
    more, _, more_coverage = tables(claims_of, [])
    profiles = (AnnotatorProfile("anna", "human"), AnnotatorProfile("clip", "ranker"))
    rows = table_annotations(
        fuse(
            pa.concat_tables([claims, more]),
            images,
            pa.concat_tables([coverage, more_coverage]),
            EngineSettings(),
            0,
            profiles,
            workers=2,
        )
    )
    written_by_her = [row.image_id for row in rows if row.kept and row.text == "What Anna says is so."]
    assert written_by_her == [first, last]
    assert not [row for row in rows if row.text == "no caption of anybody"]


def test_a_broken_claim_in_any_block_is_an_error(scenes, claimed, cut):
    claims, images, coverage = claimed
    cut(fit=20)
    odd = pa.array(
        [[{"label": "cat", "box": [0.0, 1.0], "quad": None, "polygons": [], "score": None, "span": None}]],
        ANNOTATIONS.field("regions").type,
    )
    row = claims.filter(
        pc.and_(pc.equal(claims["image_id"], scenes.images[-1].image_id), pc.equal(claims["task"], "<OD>"))
    ).slice(0, 1)
    broken = row.set_column(row.schema.get_field_index("regions"), ANNOTATIONS.field("regions"), odd)
    for workers in (1, 2):
        with pytest.raises(DataError, match="a claim's box has 2 numbers; 4 are expected"):
            fuse(pa.concat_tables([claims, broken]), images, coverage, EngineSettings(), 0, workers=workers)
    strange = claims.set_column(
        claims.schema.get_field_index("task"), "task", pa.array([*["<OD>"] * (len(claims) - 1), "<POSE>"])
    )
    with pytest.raises(DataError, match="<POSE>"):
        fuse(strange, images, coverage, EngineSettings(), 0)


# ---------------------------------------------------------------- models of one block serve for another


def matrix_on(rng: np.random.Generator, items: int, names: int, edges=None):
    """Return a label matrix of annotators with 90, 75 and 60 % right labels, two with scores; and what is right."""
    right = np.asarray([0.9, 0.75, 0.6])
    present = rng.random((items, 3)) < 0.8
    item, annotator = np.nonzero(present)
    truth = rng.integers(names, size=items)[item]
    good = rng.random(len(item)) < right[annotator]
    code = np.where(good, truth, (truth + 1 + rng.integers(names - 1, size=len(item))) % names)
    score = np.where(annotator == 1, np.nan, 0.4 * good + 0.6 * rng.random(len(item)))
    kept = np.unique(item, return_inverse=True)[1]
    claims = ItemClaims(kept, annotator, code, score)
    return build_label_matrix(claims, np.ones((int(kept.max()) + 1, 3), bool), level_edges=edges), good


def test_models_fitted_to_some_items_serve_for_others():
    rng = np.random.default_rng(4)
    names = [f"name {k}" for k in range(12)]
    matrix, _ = matrix_on(rng, 1500, 12)
    models = fit_annotator_models(matrix, label_names=names)
    other, good = matrix_on(rng, 1500, 12, models.level_edges)
    # the same names under other numbers
    order = rng.permutation(12)
    renamed = models.for_labels([names[k] for k in np.argsort(order)], 12)
    relabelled = build_label_matrix(*_claims(other, order), level_edges=models.level_edges)
    same = infer_posterior(other, models.for_labels(names, 12)).correct
    np.testing.assert_allclose(infer_posterior(relabelled, renamed).correct, same, rtol=1e-12)
    # and as well as models of their own
    wrong = {
        name: np.abs(found[other.present] - good[other.claim[other.present]]).mean()
        for name, found in (("known", same), ("own", infer_posterior(other, fit_annotator_models(other)).correct))
    }
    assert wrong["known"] < wrong["own"] + 0.01


def test_models_serve_for_labels_that_they_have_not_met():
    rng = np.random.default_rng(5)
    matrix, _ = matrix_on(rng, 1500, 12)
    models = fit_annotator_models(matrix, label_names=[f"name {k}" for k in range(12)])
    other, good = matrix_on(rng, 1500, 12, models.level_edges)
    posterior = infer_posterior(other, models.for_labels(["a", "b"], 12)).correct
    found = posterior[other.present]
    right = good[other.claim[other.present]]
    assert found[right].mean() > found[~right].mean() + 0.3


def _claims(matrix, order: np.ndarray) -> tuple[ItemClaims, np.ndarray]:
    """Return the claims and the coverage of a label matrix, under other labels."""
    item, annotator = np.nonzero(matrix.present)
    claim = matrix.claim[item, annotator]
    by_claim = np.argsort(claim)
    level = matrix.level[item, annotator][by_claim]
    # any score of that level
    edges = [np.concatenate([[-1.0], edge, [2.0]]) for edge in matrix.level_edges]
    score = np.asarray(
        [
            np.nan if k == 8 else (edges[a][k] + edges[a][k + 1]) / 2
            for a, k in zip(annotator[by_claim].tolist(), level.tolist(), strict=True)
        ]
    )
    label = order[matrix.label[item, annotator][by_claim]]
    return ItemClaims(item[by_claim], annotator[by_claim], label, score), np.ones(matrix.claim.shape, bool)


def test_equal_images_are_drawn_whatever_the_seed_of_hashes():
    ids = [f"{random.Random(k).getrandbits(256):064x}" for k in range(50)]
    claims = pa.table({"annotator": ["a"] * 50, "task": ["<OD>"] * 50, blocks.IMAGE: np.arange(50)})
    blocks_of = lambda: np.flatnonzero(blocks.find_fit_images(claims, pa.array(ids)))  # noqa: E731
    assert blocks_of().tolist() == blocks_of().tolist() and len(blocks_of()) == 50
