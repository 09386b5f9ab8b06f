"""Labels belong to the picture that they were made for, whatever is called so now."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_workspace_files import collect, photo, put
from workspaces import workspace_of

from florence.annotators.existing import Existing
from florence.config import settings_from
from florence.coverage import COVERAGE
from florence.errors import DataError, NotListedError
from florence.formats import FORMATS, LabelSet, UnusableLabelError
from florence.formats.matching import find_claims, read_label_set
from florence.image_files import list_rows, read_files
from florence.records import ImageRecord, table_annotations
from florence.store import Store
from florence.workspace.annotate import annotate_shard, count_missing, list_annotators
from florence.workspace.layout import list_shards


def write_labels(path: Path, **labels: list[str] | str) -> Path:
    """Write JSON lines: captions by the name of a .png; ``sub__a`` is ``sub/a.png``."""
    lines = []
    for name, texts in labels.items():
        rows = [{"task": "<CAPTION>", "text": text} for text in ([texts] if isinstance(texts, str) else texts)]
        lines.append(json.dumps({"image": {"name": f"{name.replace('__', '/')}.png"}, "annotations": rows}))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def answers(store: Path, labels: Path, sources: list[str] | None = None, **options) -> dict[str, list[str] | str]:
    """Annotate what is in the store; return source/name@content → texts, or the error that an image has instead."""
    section = {"use": "existing", "sources": sources or ["*"], "format": "jsonl", "uri": str(labels), **options}
    settings, opened = settings_from({"sources": {}, "annotators": {"mine": section}}), Store(str(store))
    (annotator,) = list_annotators(settings, files=opened)
    for shard in list_shards(opened):
        annotate_shard(workspace_of(settings, opened), [annotator], shard)
    result: dict[str, list[str] | str] = {}
    known = {row.image_id: row for row in reversed(list_rows(read_files(opened)))}
    for row in opened.read_tables(f"coverage/{annotator.key}", COVERAGE).to_pylist():
        file = known[row["image_id"]]
        result[f"{file.source}/{file.name}@{file.since}"] = row["error"].split(":")[0] if row["error"] else []
    for name in opened.names(f"claims/{annotator.key}", ".parquet"):
        for claim in table_annotations(opened.read_table(name)):
            file = known[claim.image_id]
            result[f"{file.source}/{file.name}@{file.since}"].append(claim.text)  # type: ignore[union-attr]
    return result


def version(store: Path, labels: Path, **options) -> str:
    section = {"use": "existing", "sources": ["*"], "format": "jsonl", "uri": str(labels), **options}
    settings = settings_from({"sources": {}, "annotators": {"mine": section}})
    return list_annotators(settings, files=Store(str(store)))[0].version


# ---------------------------------------------------------------- a photo that was replaced


def test_labels_read_before_a_photo_was_replaced_stay_with_it(tmp_path: Path):
    photos, store = put(tmp_path / "photos", a=1, b=2), tmp_path / "store"
    labels = write_labels(tmp_path / "l.jsonl", a="one", b="two")
    collect(store, mine=photos)
    assert answers(store, labels) == {"mine/a.png@1": ["one"], "mine/b.png@1": ["two"]}
    put(photos, a=3)
    collect(store, mine=photos)
    assert answers(store, labels) == {
        "mine/a.png@1": ["one"],
        "mine/b.png@1": ["two"],
        "mine/a.png@2": "NotListedError",
    }


def test_labels_first_read_when_the_name_had_two_pictures_are_asked_about(tmp_path: Path):
    photos, store = put(tmp_path / "photos", a=1, b=2), tmp_path / "store"
    labels = write_labels(tmp_path / "l.jsonl", a="one", b="two")
    collect(store, mine=photos)
    put(photos, a=3)
    collect(store, mine=photos)
    found = answers(store, labels)
    assert found["mine/b.png@1"] == ["two"]
    assert found["mine/a.png@1"] == found["mine/a.png@2"] == "UnusableLabelError"
    first, current = answers(store, labels, contents="first"), answers(store, labels, contents="current")
    assert (first["mine/a.png@1"], first["mine/a.png@2"]) == (["one"], "NotListedError")
    assert (current["mine/a.png@1"], current["mine/a.png@2"]) == ("NotListedError", ["one"])


def test_a_refusal_names_the_picture_and_the_remedy(tmp_path: Path):
    photos, store = put(tmp_path / "photos", a=1), tmp_path / "store"
    labels = write_labels(tmp_path / "l.jsonl", a="one")
    collect(store, mine=photos)
    put(photos, a=3)
    collect(store, mine=photos)
    answers(store, labels)
    names = Store(str(store)).names("coverage", ".parquet")
    errors = [error for name in names for error in Store(str(store)).read_table(name)["error"].to_pylist()]
    for error in errors:
        assert "a.png" in error and "set the option contents to first or current" in error, error


def test_a_new_label_file_of_a_file_that_is_gone_and_another_is_asked_about(tmp_path: Path):
    photos, store = put(tmp_path / "photos", a=1), tmp_path / "store"
    collect(store, mine=photos)
    (photos / "a.png").unlink()
    collect(store, mine=photos)
    put(photos, a=2)
    collect(store, mine=photos)
    assert set(answers(store, write_labels(tmp_path / "l.jsonl", a="one")).values()) == {"UnusableLabelError"}


# ---------------------------------------------------------------- one name in several sources


def test_one_name_in_two_sources_is_refused_unless_the_source_is_named(tmp_path: Path):
    store, labels = tmp_path / "store", write_labels(tmp_path / "l.jsonl", a="one", b="two", c="three")
    collect(store, jan=put(tmp_path / "jan", a=1, b=2), feb=put(tmp_path / "feb", a=3, c=4))
    found = answers(store, labels)
    assert found["jan/a.png@1"] == found["feb/a.png@1"] == "UnusableLabelError"
    assert (found["jan/b.png@1"], found["feb/c.png@1"]) == (["two"], ["three"])
    found = answers(store, labels, source="jan")
    assert (found["jan/a.png@1"], found["feb/a.png@1"]) == (["one"], "NotListedError")
    assert answers(store, labels, sources=["feb"]) == {"feb/a.png@1": ["one"], "feb/c.png@1": ["three"]}


def test_labels_read_before_the_second_source_was_there_are_of_the_first(tmp_path: Path):
    store, labels = tmp_path / "store", write_labels(tmp_path / "l.jsonl", a="one")
    collect(store, jan=put(tmp_path / "jan", a=1))
    answers(store, labels)
    collect(store, jan=tmp_path / "jan", feb=put(tmp_path / "feb", a=3))
    assert answers(store, labels) == {"jan/a.png@1": ["one"], "feb/a.png@2": "NotListedError"}


def test_a_stem_in_two_sources_is_one_name(tmp_path: Path):
    store, january, february = tmp_path / "store", put(tmp_path / "jan", a=1), tmp_path / "feb"
    february.mkdir()
    (february / "a.jpg").write_bytes(photo(5, "JPEG"))
    collect(store, jan=january, feb=february)
    lines = {"image": {"name": "a"}, "annotations": [{"task": "<CAPTION>", "text": "one"}]}
    (tmp_path / "l.jsonl").write_text(json.dumps(lines))
    assert set(answers(store, tmp_path / "l.jsonl").values()) == {"UnusableLabelError"}


def test_of_two_names_that_look_the_same_the_spelling_decides(tmp_path: Path):
    one, two, three = "\u00fc\u1e69", "u\u0308s\u0323\u0307", "\u00fcs\u0307\u0323"
    photos, store = put(tmp_path / "photos", **{one: 1}), tmp_path / "store"
    (photos / f"{two}.png").write_bytes(photo(2))
    collect(store, mine=photos)
    first = write_labels(tmp_path / "one.jsonl", x="first").read_text().replace("x.png", f"{one}.png")
    (tmp_path / "one.jsonl").write_text(first, encoding="utf-8")
    found = answers(store, tmp_path / "one.jsonl")
    assert found == {f"mine/{one}.png@1": ["first"], f"mine/{two}.png@1": "NotListedError"}
    (tmp_path / "both.jsonl").write_text(
        first + "\n" + first.replace(one, two).replace("first", "second"), encoding="utf-8"
    )
    found = answers(store, tmp_path / "both.jsonl")
    assert found == {f"mine/{one}.png@1": ["first"], f"mine/{two}.png@1": ["second"]}
    (tmp_path / "none.jsonl").write_text(first.replace(one, three), encoding="utf-8")
    refused = set(answers(store, tmp_path / "none.jsonl").values())
    assert len(refused) == 1 and "NotListedError" not in refused
    (photos / f"{one}.png").unlink()
    again = tmp_path / "again"
    collect(again, mine=photos)
    assert answers(again, tmp_path / "one.jsonl") == {f"mine/{two}.png@1": ["first"]}, "the spelling alone is no matter"


def test_a_base_name_of_two_pictures_is_refused(tmp_path: Path):
    store, labels = tmp_path / "store", write_labels(tmp_path / "l.jsonl", a="one", c="three")
    put(tmp_path / "photos" / "x", a=1, c=3)
    put(tmp_path / "photos" / "y", a=2)
    collect(store, mine=tmp_path / "photos")
    found = answers(store, labels, base_names=True)
    assert found["mine/x/a.png@1"] == found["mine/y/a.png@1"] == "UnusableLabelError"
    assert found["mine/x/c.png@1"] == ["three"]


# ---------------------------------------------------------------- one picture under two names


def test_a_picture_has_the_labels_of_any_of_its_names(tmp_path: Path):
    store, labels = tmp_path / "store", write_labels(tmp_path / "l.jsonl", twin="two")
    collect(store, mine=put(tmp_path / "photos", a=1, twin=1))
    assert answers(store, labels) == {"mine/a.png@1": ["two"]}


def test_a_picture_of_two_sources_has_the_labels_of_the_second(tmp_path: Path):
    store, labels = tmp_path / "store", write_labels(tmp_path / "l.jsonl", twin="two")
    collect(store, jan=put(tmp_path / "jan", a=1), feb=put(tmp_path / "feb", twin=1))
    assert answers(store, labels, source="feb") == {"jan/a.png@1": ["two"]}


def test_a_copy_in_a_source_that_it_annotates_is_asked_about_and_no_other_image(tmp_path: Path):
    store, labels = tmp_path / "store", write_labels(tmp_path / "l.jsonl", twin="two", a="another", b="none")
    collect(store, jan=put(tmp_path / "jan", a=1, b=2), feb=put(tmp_path / "feb", twin=1, c=4))
    assert answers(store, labels, sources=["feb"]) == {
        "jan/a.png@1": ["two"],
        "jan/b.png@1": "NotListedError",
        "feb/c.png@1": "NotListedError",
    }
    section = {"use": "existing", "sources": ["feb"], "format": "jsonl", "uri": str(labels)}
    settings = settings_from({"sources": {}, "annotators": {"m": section}})
    opened = Store(str(store))
    annotators = list_annotators(settings, files=opened)
    assert count_missing(workspace_of(settings, opened), annotators)["m"] == {"feb-00000": 1, "jan-00000": 2}


def test_equal_labels_of_two_names_are_one_and_others_are_added(tmp_path: Path):
    store = tmp_path / "store"
    collect(store, mine=put(tmp_path / "photos", a=1, twin=1))
    labels = write_labels(tmp_path / "l.jsonl", a=["one", "both"], twin=["both", "two"])
    assert answers(store, labels) == {"mine/a.png@1": ["one", "both", "two"]}
    annotator = Existing(name="mine", format="jsonl", uri=str(labels))
    (row, *_) = list_rows(read_files(Store(str(store))))
    from florence.image_files import ImageFiles

    annotator.files = ImageFiles(Store(str(store)))
    report = annotator.report_labels([ImageRecord(row.image_id, 32, 24, "mine", "a.png", "", None, "train")])
    assert {(loss.unit, loss.reason, loss.count) for loss in report.losses} == {
        ("label", "labelled again under another name of the picture", 1),
        ("part", "other labels under another name of the picture", 1),
    }


def test_a_new_copy_under_a_labelled_name_has_the_image_asked_again(tmp_path: Path):
    store, photos = tmp_path / "store", put(tmp_path / "photos", a=1, b=2)
    labels = write_labels(tmp_path / "l.jsonl", twin="two")
    collect(store, mine=photos)
    plain = version(store, labels)
    put(photos, other=2)
    collect(store, mine=photos)
    assert version(store, labels) == plain, "a copy that the labels do not name changes nothing"
    put(photos, twin=1)
    collect(store, mine=photos)
    assert version(store, labels) != plain and answers(store, labels)["mine/a.png@1"] == ["two"]
    assert Existing(name="mine", format="jsonl", uri=str(labels)).version == plain


# ---------------------------------------------------------------- known by content


def by_content(path: Path, image_id: str, name: str) -> LabelSet:
    line = {"image": {"name": name, "image_id": image_id}, "annotations": [{"task": "<CAPTION>", "text": "one"}]}
    path.write_text(json.dumps(line))
    form = FORMATS.get("jsonl")()
    return form.open(form.files(str(path)))


def record(image_id: str, name: str = "a.png", source: str = "mine") -> ImageRecord:
    return ImageRecord(image_id, 32, 24, source, name, "", None, "train")


def test_the_content_alone_decides_where_the_labels_tell_it(tmp_path: Path):
    labels = by_content(tmp_path / "l.jsonl", "a" * 64, "a.png")
    assert find_claims(labels, record("a" * 64, "renamed.png")).claims[0].text == "one"
    with pytest.raises(NotListedError, match=r"a\.png"):
        find_claims(labels, record("b" * 64))
    with pytest.raises(NotListedError):
        find_claims(labels, record("b" * 64, "x/a.png"), base_names=True)
    other = by_content(tmp_path / "m.jsonl", "IMG-17", "a.png")
    assert find_claims(other, record("b" * 64)).claims, "a number that is no hash of the content decides nothing"


def test_two_pictures_of_one_name_are_refused_without_a_store_too(tmp_path: Path):
    form = FORMATS.get("jsonl")()
    labels = form.open(form.files(str(write_labels(tmp_path / "l.jsonl", a="one"))))
    found = read_label_set(labels, [record("a" * 64), record("b" * 64)])
    assert not found.claims and set(found.errors) == {"a" * 64, "b" * 64}
    assert sum(map(len, found.entries.values())) == 1 and not found.others, "each entry is counted once"
    assert all(isinstance(error, UnusableLabelError) for error in found.errors.values())


def test_an_image_of_which_no_label_is_understood_is_refused(tmp_path: Path):
    line = {"image": {"name": "a.png"}, "annotations": [{"task": "<CAPTION>"}, {"task": "none", "text": "x"}]}
    (tmp_path / "l.jsonl").write_text(json.dumps(line))
    form = FORMATS.get("jsonl")()
    labels = form.open(form.files(str(tmp_path / "l.jsonl")))
    with pytest.raises(DataError, match="none of its 2 labels can be used"):
        find_claims(labels, record("a" * 64))
    found = read_label_set(labels, [record("a" * 64)])
    assert not found.claims and len(found.problems) == 2 and len(found.entries["a" * 64]) == 1
