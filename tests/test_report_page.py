"""The report of a small snapshot: what it says, what it does not hide, and that it opens anywhere."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from florence.errors import DataError, StoreError
from florence.label_report import LabelSetReport, LossCount
from florence.records import Annotation, Claim, ImageRecord, Region, annotate, annotations_table
from florence.report import LoopFacts, RoundFacts, build_report, evidence, gallery
from florence.report.facts import (
    AgreementAlpha,
    AnnotatorActivity,
    AnnotatorQuality,
    CalibrationBin,
    Churn,
    DropCount,
    EvidenceWeighing,
    FailedImages,
    FileCount,
    ImageCount,
    LabelConfidence,
    LabelGain,
    LabelScore,
    ReliabilityByName,
    SourceListing,
    TaskScore,
    TypeCount,
)
from florence.report.gallery import find_label_changes, mark_phrases, match_objects
from florence.report.summary import summarize_rounds
from florence.report.tables import tabulate_annotator_activity
from florence.report.unused import tabulate_files
from florence.store import Store
from florence.workspace.layout import REJECTED_FILES

EVIL = "<script>alert('x')</script>&\"quoted\""
LABEL_SETS = (
    LabelSetReport(
        "people",
        "coco",
        "instances.json",
        human=True,
        images=22,
        labelled=14,
        empty=3,
        not_listed=4,
        listed=30,
        matched=18,
        refused=(LossCount("image", "labels of another size", 1, ("b.jpg: 640 × 480",)),),
        used={"<OD>": 40, "<CAPTION>": 2},
        unread={"<DETAILED_CAPTION>": 5},
        losses=(
            LossCount("label", "no area", 3, ("annotations[3]: " + EVIL,)),
            LossCount("label", "of images that are not here", 9, ("x.jpg",)),
            LossCount("part", "mask not understood", 6, ("annotations[9]",)),
            LossCount("file", "not XML", 1, ("c.xml",)),
        ),
        not_listed_examples=("d.jpg",),
        unmatched_examples=("x.jpg", "y.jpg"),
    ),
    LabelSetReport("voc_rf", "voc", "rf", images=3, not_listed=3, listed=3, remedy="base_names: true would match 3"),
)

WEIGHING = tuple(
    EvidenceWeighing(task, "scores", (("first", "second"), ("third",)), 900, 0, 0, EVIL + " decides")
    for task in ("<OD>", "<OCR_WITH_REGION>")
)
BINS = (CalibrationBin(0.25, 0.1, 0.07, 0.14, 800), CalibrationBin(0.95, 0.96, 0.94, 0.98, 840))


def facts(rounds: int = 2) -> LoopFacts:
    loop = LoopFacts("loop-1")
    for number in range(rounds):
        loop = loop.with_round(
            RoundFacts(
                round=number,
                snapshot_id=f"snap-{number}",
                parent=f"snap-{number - 1}" if number else None,
                dvc_hash="d41d8cd9.dir",
                run_id="run-7",
                model_version=str(number + 1),
                decision="accepted",
                reason="<OD> rose from 0.310 to 0.355; no task fell",
                images=(
                    ImageCount("photos", "train", 3),
                    ImageCount("scenes", "train", 8),
                    ImageCount("scenes", "gold", 2),
                ),
                counts=(
                    TypeCount("<OD>", 1230, 410),
                    TypeCount("<CAPTION>", 13, 0),
                    TypeCount("<OCR_WITH_REGION>", 0, 0),
                ),
                drops=(DropCount("<OD>", "low_confidence", 400), DropCount("<OD>", "near_full", 10)),
                listings=(
                    SourceListing(
                        "photos",
                        "/data/photos",
                        20,
                        3,
                        2,
                        (
                            FileCount("truncated", 8, (EVIL + ".jpg", "b.jpg")),
                            FileCount("not read: .heic", 7, ("c.heic",), "pip install florence[heic]"),
                        ),
                    ),
                ),
                label_sets=LABEL_SETS,
                weighing=WEIGHING,
                without_detector=("photos",),
                alpha=(
                    AgreementAlpha(("first", "second", "third"), 0.412, 900),
                    AgreementAlpha(("first", "second"), None, 3),
                    AgreementAlpha(("first", "third"), 0.733, 800),
                ),
                label_confidence=(
                    LabelConfidence("<OD>", "", "truth", 1640, 0.034, 0.121, 700, 0.914, BINS),
                    LabelConfidence("<OD>", "photos", "truth", 40, 0.2, 0.25, 0, None, BINS[:1]),
                    LabelConfidence("<OCR_WITH_REGION>", "", "truth", 19, 0.1, 0.1, 1, 1.0, BINS),
                ),
                failed_images=(FailedImages("second", "UnicodeError", 2, ("a.jpg: a torn answer",)),),
                label_quality=(
                    LabelScore(
                        "<OD>",
                        "f1",
                        "gold",
                        "truth",
                        0.861 + 0.04 * number,
                        0.84 + 0.04 * number,
                        0.88 + 0.04 * number,
                        400,
                    ),
                    LabelScore(
                        "<OD>",
                        "f1",
                        "train",
                        "truth",
                        0.857 + 0.04 * number,
                        0.853 + 0.04 * number,
                        0.861 + 0.04 * number,
                        6000,
                    ),
                    LabelScore(
                        "<CAPTION>",
                        "cider",
                        "gold",
                        "truth",
                        1.91 + 0.3 * number,
                        1.8 + 0.3 * number,
                        2.0 + 0.3 * number,
                        400,
                    ),
                ),
                label_quality_gain=(LabelGain("<OD>", "f1", "gold", 0, 0.04, 0.031, 0.049, 400, 0.0),)
                if number
                else (),
                scores=(
                    TaskScore(
                        "<OD>",
                        "map50",
                        0.31 + 0.045 * number,
                        0.29 + 0.045 * number,
                        0.33 + 0.045 * number,
                        600,
                        0.0021,
                        "truth",
                        0.021,
                    ),
                    TaskScore(
                        "<REGION_TO_CATEGORY>",
                        "balanced_accuracy",
                        0.52 + 0.02 * number,
                        0.5,
                        0.57,
                        600,
                        0.0,
                        "truth",
                        0.05,
                    ),
                    TaskScore("<OCR>", "exact", None, None, None, 0, 0.0, "consensus"),
                ),
                churn=(Churn("<OD>", 0.083, 1100, 60, 20, 50, 7, 0.01),) if number else (),
                annotator_quality=(
                    AnnotatorQuality("first", "a1", "<OD>", 4000, 0.81, 0, "f1", 0.7654),
                    AnnotatorQuality("second", "b2", "<OD>", 3700, None, 2),
                    AnnotatorQuality("third", "c3", "<OD>", 12),
                    AnnotatorQuality("third", "c3", "<CAPTION>", 7),
                ),
                reliability_by_name=(
                    ReliabilityByName("first", EVIL, 0.913, 0.8, 25),
                    ReliabilityByName("first", "dog", 0.5),
                    ReliabilityByName("second", "dog", 0.25, 0.0, 4),
                ),
                annotator_activity=(
                    AnnotatorActivity("first", "a1", "annotator", "cuda:1", 16, 1200, 0, 4000),
                    AnnotatorActivity(
                        "second", "b2", "ranker", "auto", 8, 900, 300, 3700, "the budget is spent", 45, 91000, 0.182
                    ),
                ),
                seconds={"annotate": 81.25, "train": 713.5},
            )
        )
    return loop


class Page(HTMLParser):
    """Tags, attributes and text of a page, as a browser would read them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def links(self) -> list[str]:
        return [a[key] for _, a in self.tags for key in ("src", "href") if key in a]


@pytest.fixture(scope="module")
def built(small_snapshot: Store, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("report")
    build_report(facts(1), small_snapshot, out)
    path = build_report(facts(2), small_snapshot, out)
    assert path == out / "round-1" / "index.html"
    return path


def test_the_page_tells_who_annotated_what_is_missing_and_what_it_cost(built: Path):
    text = " ".join(Page(built).text.split())
    for words in (
        "Annotator Role Family Device Batch Images Missing Claims Calls Tokens Cost",
        "second b2 ranker auto 8 900 300 the budget is spent 3\u202f700 45 91\u202f000 0.18",
    ):
        assert re.sub(r"\s", "", words) in re.sub(r"\s", "", text), words


def test_the_page_tells_how_far_annotators_are_to_be_believed_and_what_has_changed(built: Path):
    text = Page(built).text
    for words in (
        "Object first second",
        "0.91 0.80 of 25 –",
        "dog 0.50 0.25 0.00 of 4",
        "first a1 <OD> 4000 0 0.810 0.765 f1",
        "<OD> 8.3 % 1100 60 20 50 7 1.0 %",
    ):
        assert re.sub(r"\s", "", words) in re.sub(r"\s", "", text), words


def test_the_page_tells_what_confidences_are_worth(built: Path):
    text = re.sub(r"\s", "", Page(built).text)
    for words in (
        "<OD> all truth 1640 0.034 0.121 700 0.914 <OD> photos truth 40 0.200 0.250 0 –",
        "stated 0.25, right 0.10 (0.07 to 0.14) of 800 labels",
    ):
        assert re.sub(r"\s", "", words) in text, words
    (svg,) = re.findall(r'<svg[^>]*aria-label="&lt;OD&gt;"[^>]*>.*?</svg>', built.read_text(), re.DOTALL)
    at = [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)]
    (ends,) = re.findall(r'class="shuffled"><polyline points="([\d.]+),([\d.]+) ([\d.]+),([\d.]+)"', svg)
    x0, y0, x1, y1 = map(float, ends)
    shares = [((x - x0) / (x1 - x0), (y - y0) / (y1 - y0)) for x, y in at]
    np.testing.assert_allclose(shares, [(0.25, 0.1), (0.95, 0.96)], atol=2e-3)
    assert "without people's claims" not in Page(built).text
    last = facts().rounds[-1]
    people = replace(last, label_confidence=(replace(last.label_confidence[0], reference="human"),))
    assert evidence.build_context(people)["by_people"]
    assert [chart.title for chart in evidence.draw_confidence_charts(people)] == ["<OD> (human)"]


def test_the_page_tells_how_evidence_was_weighed_and_how_annotators_agree(built: Path):
    text = re.sub(r"\s", "", Page(built).text)
    for words in (
        f"<OD> and <OCR_WITH_REGION>: {EVIL} decides",
        "all first, second, third 0.412 900 first and third 0.733 800 first and second not defined 3",
        "third c3 <OD> 12 0 not estimated its scores decide",
        "second b2 <OD> 3700 2 no vote",
        "photos: no detector is named, so there are image-level tags only, and no boxes.",
        "use: detector",
    ):
        assert re.sub(r"\s", "", words) in text, words


def test_the_terminal_tells_how_far_confidences_are_off():
    lines = summarize_rounds(facts(2)).splitlines()
    (line,) = [line for line in lines if line.startswith("  <OD> (truth)")]
    assert line.split() == ["<OD>", "(truth)", "0.034", "0.034", "1640"]
    bare = summarize_rounds(LoopFacts("l", (RoundFacts(0, "s"),)))
    assert "confidences" not in bare


def test_where_nothing_cost_anything_the_page_has_no_costs():
    last = facts().rounds[-1]
    free = dataclasses.replace(last, annotator_activity=last.annotator_activity[:1])
    table = tabulate_annotator_activity(free)
    assert (
        table is not None and "Cost" not in [cell.text for cell in table.head] and len(table.head) == len(table.rows[0])
    )
    assert tabulate_annotator_activity(dataclasses.replace(last, annotator_activity=())) is None


def test_page_is_self_contained_and_links_lead_somewhere(built: Path):
    ids = {a["id"] for _, a in Page(built).tags if "id" in a}
    for link in Page(built).links():
        if link.startswith("#"):
            assert link[1:] in ids
        elif not link.startswith("data:"):
            assert (built.parent / link).exists(), link
    assert not any(tag == "script" for tag, _ in Page(built).tags)
    assert not re.search(r"url\(|@import", built.read_text(encoding="utf-8"))
    assert "../round-0/index.html" in Page(built).links()
    latest = built.parent.parent / "index.html"
    assert "round-0/index.html" in Page(latest).links() and "Round 1 ·" in Page(latest).text


def test_page_says_the_facts(built: Path):
    text = Page(built).text
    for words in (
        "0.901",
        "[0.880, 0.920] n 400",
        "+0.040",
        "[0.031, 0.049]",
        "0.355",
        "0.021",
        "0.21 %",
        "low confidence",
        "truncated",
        "pip install florence[heic]",
        "8.3 %",
        "713.5 s",
        "snap-0",
        "d41d8cd9.dir",
        "run-7",
        "not estimated",
        "<OD> rose from 0.310 to 0.355",
        "681M",
        "70.53",
        "FLD-5B",
    ):
        assert words in text, words


def test_the_page_tells_what_was_not_used_and_the_numbers_add_up(built: Path):
    page = built.read_text(encoding="utf-8")
    text = re.sub(r"\s", "", Page(built).text)
    for words in (
        "photos /data/photos all files 20 images 3 texts read beside images 2 truncated 8",
        "b.jpg and 6 more not read: .heic pip install florence[heic] 7 c.heic and 6 more",
        "people people coco instances.json 22 14 3 4 1 30 12",
        "voc_rf voc rf base_names: true would match 3 3 0 0 3 0 3 3",
        "people label all labels 59 label used 42 label <DETAILED_CAPTION>: a type that is not read 5 label no area 3",
        "label of images that are not here 9 x.jpg and 8 more part of a label mask not understood 6",
        "file not XML 1 c.xml image labels of another size 1 b.jpg: 640 × 480",
        "image the set does not list it 4 d.jpg and 3 more image of the set it is not here 12 x.jpg y.jpg and 10 more",
        "second UnicodeError 2 a.jpg: a torn answer and 1 more",
        "15 files not used 17 labels of label sets not used",
    ):
        assert re.sub(r"\s", "", words) in text, words
    for report in LABEL_SETS:
        refused = sum(loss.count for loss in report.refused)
        assert report.images == report.labelled + report.empty + report.not_listed + refused
    assert 'id="unused"' in page and page.index('id="data"') < page.index('id="unused"')


def test_the_whole_list_of_rejected_files_is_beside_the_page(small_snapshot: Store, tmp_path: Path):
    data = Store(shutil.copytree(small_snapshot.root, tmp_path / "data"))
    rows = [
        {"source": "photos", "name": f"{k},\n{EVIL}.jpg", "reason": "truncated", "detail": "é"} for k in range(1500)
    ]
    data.write_table("rejected_files.parquet", pa.Table.from_pylist(rows, schema=REJECTED_FILES))
    page = build_report(facts(2), data, tmp_path / "out")
    with (page.parent / "rejected_files.csv").open(encoding="utf-8-sig", newline="") as file:
        assert list(csv.DictReader(file)) == rows
    assert "../round-1/rejected_files.csv" in Page(page).links()
    assert "round-1/rejected_files.csv" in Page(tmp_path / "out/index.html").links()


def test_label_texts_are_escaped(built: Path):
    assert EVIL in Page(built).text
    assert "<script" not in built.read_text(encoding="utf-8")


def test_pictures_are_small_jpegs_of_the_images(built: Path):
    uris = [a["src"] for tag, a in Page(built).tags if tag == "img"]
    assert len(uris) >= 13
    for uri in uris:
        head, payload = uri.split(",", 1)
        picture = Image.open(io.BytesIO(base64.b64decode(payload)))
        assert head == "data:image/jpeg;base64" and picture.format == "JPEG"
        assert max(picture.size) == 480


def test_photos_come_before_scenes_with_truth(built: Path):
    html = built.read_text(encoding="utf-8")
    gallery = html[html.index('id="gallery"') : html.index('id="change"')]
    assert gallery.index("<h3>photos") < gallery.index("<h3>scenes")


def test_same_facts_same_bytes(built: Path, small_snapshot: Store):
    before = built.read_bytes()
    build_report(facts(2), small_snapshot, built.parent.parent)
    assert built.read_bytes() == before


def test_missing_parts_are_said(tmp_path: Path):
    path = build_report(LoopFacts("l", (RoundFacts(0, "s"),)), Store(str(tmp_path / "data")), tmp_path / "out")
    text = Page(path).text
    for words in (
        "No label quality",
        "No scores",
        "No labels were counted",
        "No label was dropped",
        "No files were counted",
        "No annotator has a label set",
        "No annotator failed",
        "no statistics.json",
        "nothing to measure confidences against",
        "No annotator with a vote claims anything",
        "no agreement to measure",
        "has no images",
        "first round",
        "not decided",
        "No times",
    ):
        assert words in text, words


def test_refusals(tmp_path: Path, small_snapshot: Store):
    with pytest.raises(DataError, match="no round"):
        build_report(LoopFacts("l"), small_snapshot, tmp_path)
    shutil.copytree(small_snapshot.root, tmp_path / "data")
    (tmp_path / "data/labels/round-00001.parquet").write_bytes(b"PAR1 half")
    with pytest.raises(StoreError, match="damaged"):
        build_report(facts(2), Store(str(tmp_path / "data")), tmp_path / "out")


def test_facts_round_trip_and_refuse_what_they_do_not_know():
    text = facts().to_json()
    assert LoopFacts.from_json(text) == facts()
    for wrong, found in (
        ('"n": 400', '"n": "400"'),
        ('"loop_id"', '"loop"'),
        ('"version": 5', '"version": 1'),
        ('"version": 5', '"version": 4'),
        ('"version": 5', '"version": 6'),
        ('"accepted"', '"maybe"'),
    ):
        with pytest.raises(DataError, match="loop.json"):
            LoopFacts.from_json(text.replace(wrong, found))
    with pytest.raises(DataError):
        LoopFacts("l", (RoundFacts(0, "s", seconds={"train": float("nan")}),)).to_json()


def test_with_round_replaces_and_keeps_order():
    loop = facts(2).with_round(RoundFacts(0, "again"))
    assert [(r.round, r.snapshot_id) for r in loop.rounds] == [(0, "again"), (1, "snap-1")]


def test_match_is_one_to_one_and_by_label():
    cat, dog = Region("cat", box=(0, 0, 10, 10)), Region("dog", box=(0, 0, 10, 10))
    moved, far = Region("cat", box=(1, 0, 11, 10)), Region("cat", box=(50, 50, 60, 60))
    same, gone, new = match_objects((cat, dog), (moved, moved, far))
    assert same == (moved,) and gone == (dog,) and new == (moved, far)


def test_changes_rank_by_size_and_leave_out_what_is_the_same():
    def rows(*labels: tuple[str, str, bool]):
        return annotations_table(
            Annotation(
                str(i),
                image,
                "<OD>",
                "consensus",
                "v",
                0,
                label,
                (Region(label, box=(0, 0, 9, 9)),),
                kept=kept,
                reason="" if kept else "low_score",
            )
            for i, (image, label, kept) in enumerate(labels)
        )

    found = find_label_changes(
        rows(("a", "cat", True), ("b", "cat", True), ("c", "cat", True)),
        rows(("a", "cat", True), ("b", "dog", True), ("c", "cat", False)),
    )
    assert [(c.image_id, len(c.removed), len(c.added)) for c in found] == [("b", 1, 1), ("c", 1, 0)]


def test_a_card_names_the_category_of_its_photo():
    record = ImageRecord("0" * 64, 40, 30, "photos", "a.png", "", None, "train")
    region = Region("cat", box=(0.0, 0.0, 40.0, 30.0))
    rows = annotate("0" * 64, [Claim("<CAPTION>", "a picture"), Claim("<CLASSIFICATION>", "cat", (region,))], "a", "1")
    card = gallery._card(record, np.zeros((30, 40, 3), np.uint8), rows)
    assert [(text.name, text.parts[0].text) for text in card.texts] == [("category", "cat"), ("brief", "a picture")]
    assert card.drawings[0].title == "nothing located"


def test_marked_text_is_whole_whatever_the_spans():
    text = "a red cat on a mat"
    spans = [(2, 9, "red cat"), (6, 9, "cat"), (15, 18, "mat"), (17, 40, "beyond")]
    phrases = [
        Annotation(
            "1",
            "i",
            "<CAPTION_TO_PHRASE_GROUNDING>",
            "a",
            "v",
            0,
            text,
            tuple(Region(p, box=(0, 0, 1, 1), span=(s, e)) for s, e, p in spans),
        )
    ]
    parts = mark_phrases(text, phrases)
    assert "".join(p.text for p in parts) == text
    assert [p.text for p in parts if p.colour] == ["red cat", "mat"]
    assert mark_phrases("", ()) and "".join(p.text for p in mark_phrases(text, ())) == text


def test_opens_in_a_browser_without_complaint(built: Path, tmp_path: Path):
    browser = next((b for b in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if b), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    shot = tmp_path / "shot.png"
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--enable-logging=stderr",
        f"--user-data-dir={tmp_path}/profile",
        "--window-size=1200,2400",
        f"--screenshot={shot}",
        built.parent.parent.joinpath("index.html").as_uri(),
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "CONSOLE" not in run.stderr
    assert np.asarray(Image.open(shot).convert("L")).std() > 10


def test_boxes_are_plotted_where_they_are_told(built: Path):
    page = built.read_text(encoding="utf-8")
    plots = re.findall(r'<svg class="chart"[^>]*aria-label="(Area[^"]*|Width[^"]*)".*?</svg>', page, re.DOTALL)
    assert plots == ["Area, share of the image", "Width over height"]
    heights = [float(h) for h in re.findall(r'class="column"[^>]*height="([\d.]+)"', page)]
    assert (
        len(heights) == 4
        and heights[0] == pytest.approx(4 * heights[1], rel=0.02)
        and heights[3] == pytest.approx(1.5 * heights[2], rel=0.02)
    )
    assert "0.25 to 1: 20.0 %" in page


def test_endings_stay_as_they_are_and_images_that_are_not_read_any_more_are_told():
    unused = (FileCount("not read: .jpg_original", 1), FileCount("too_small", 2))
    listing = SourceListing("mine", "photos", 4, 1, 0, unused, left=3, left_examples=("a.jpg",))
    table = tabulate_files(replace(facts().rounds[0], listings=(listing,)))
    told = [(row[1].text, row[2].text) for row in table.rows]
    assert told[2:] == [
        ("not read: .jpg_original", "1"),
        ("too small", "2"),
        ("images of a folder or source that is not read any more", "3"),
    ]
