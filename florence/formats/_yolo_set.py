"""The images of a YOLO data set, the label file of each, and the names of its classes.

A picture's label file is found by Ultralytics' rule: the last folder ``images`` of its path becomes ``labels``. Else it
is beside the picture, in a folder ``labels`` beside it, or in one of the same shape at the root. A picture without a
label file has not been looked at: that nobody wrote a file does not say that nothing is there. Ultralytics trains it
as a picture without objects; the option ``unlabelled_is_empty`` does so too.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from florence.errors import DataError, NotListedError
from florence.formats import ImageClaims, LabelProblem, LabelSet, LabelSetEntry, UnusableLabelError
from florence.formats._names import check_name, explain_spellings
from florence.formats._yolo_files import (
    IMAGE_FOLDERS,
    NAME_FILES,
    NOTHING,
    YoloFiles,
    read_text,
    set_paths,
    split_lines,
    swap_folder,
)
from florence.formats._yolo_lines import Columns, LineRules, looks_like_key_points, read_labels
from florence.images import is_image
from florence.records import ImageRecord
from florence.text_files import LIST_NAMES, decode_text

SAMPLE = 100
"""About how many label files are read to see which columns they have."""
TASKS = ("detect", "segment", "pose", "obb")


class YoloSet(LabelSet):
    """The opened labels of a YOLO data set.

    ``task``: what its lines hold, of `TASKS`; empty for what the YAML file and the lines say.
    """

    def __init__(self, files: YoloFiles, task: str, unlabelled_is_empty: bool) -> None:
        self.files, self.unlabelled_is_empty = files, unlabelled_is_empty
        problems = list(files.problems)
        classes = _read_classes(files, problems)
        places = _Places.of(files)
        folders = places.find_sets(files, problems)
        self.rules = _read_rules(files, task, classes)
        if not places.labels:
            hints = "".join(f"; {problem.detail}" for problem in files.problems)
            raise DataError(f"{files.uri}: found no label file; a .txt file for each picture is expected{hints}")
        entries = list(_make_entries(places, folders, files.root, problems))
        if unlabelled_is_empty and not any(places.find_label(name, files.root) for name in places.pictures):
            raise DataError(
                f"{files.uri}: no label file belongs to a picture, so none is taken for one without objects"
            )
        labels = [entry.raw for entry in entries if entry.raw]
        sample = [self.read_text(name) for name in labels[:: max(1, len(labels) // SAMPLE)]]
        if not self.rules.task and (count := looks_like_key_points(sample)):
            raise DataError(
                f"{files.uri}: the lines look like a box and {count} key points, each with its visibility; write "
                f"kpt_shape: [{count}, 3] into the YAML file, or, if they are polygons, set task: segment"
            )
        self.rules = replace(self.rules, columns=Columns.find(sample, self.rules))
        super().__init__(files.uri, entries, classes.names.values(), problems)

    def read_claims(self, entry: LabelSetEntry, record: ImageRecord) -> ImageClaims:
        """Return the objects of an image, in the order of its file.

        Raises NotListedError if it has no label file, unless those are taken for images without objects.
        """
        if not entry.raw:
            if self.unlabelled_is_empty:
                return ImageClaims(())
            raise NotListedError(
                f"{record.name}: {self.where} has this picture, but no label file of it; if that means that nothing is "
                "there, set unlabelled_is_empty"
            )
        return read_labels(self.read_text(entry.raw), self.files.where(entry.raw), self.rules, record)

    def read_text(self, name: str) -> str:
        """Return the text of a label file."""
        data = self.files.read(name)
        try:
            return decode_text(data)
        except DataError:
            return data.decode("latin-1")  # numbers are the same in every encoding; a line of anything else is told


# ---------------------------------------------------------------- names and tasks


@dataclass(frozen=True, slots=True)
class _Classes:
    """Names by class number; ``refused``: why a class has none that can be used."""

    names: dict[int, str]
    refused: dict[int, UnusableLabelError]


def _read_classes(files: YoloFiles, problems: list[LabelProblem]) -> _Classes:
    """Return the names of the settings, else of the lists of names; adds what happens to them to ``problems``."""
    lists = {name: _read_list(files, name) for name in _name_files(files)}
    if "names" in files.values and not files.settings.lower().endswith(".data"):
        where = f"{files.where(files.settings)}: names"
        pairs = _read_pairs(files, where)
        for name, found in lists.items():
            if found != {key: value.strip() for key, value in pairs.items()}:
                detail = f"{files.where(name)} has other names than {files.where(files.settings)}, whose names are read"
                problems.append(LabelProblem("two lists of names that differ", detail, "part"))
    else:
        names = files.names_file or next(iter(_resolve(files, read_text(files.values.get("names")), lists)), "")
        if not names and len({tuple(sorted(found.items())) for found in lists.values()}) > 1:
            raise DataError(f"{files.uri}: {', '.join(lists)} differ; write a data.yaml with the names of the objects")
        if not names and not lists:
            raise DataError(
                f"{files.uri}: found no YAML file with names; a data.yaml with the names of the objects is expected "
                "beside images/ and labels/, or classes.txt, or obj.names"
            )
        names = names or next(iter(lists))
        where, pairs = files.where(names), _read_list(files, names)
        if (count := read_text(files.values.get("classes"))) not in NOTHING and count != str(len(pairs)):
            raise DataError(
                f"{where}: {len(pairs)} names, but {files.settings} says {count} classes; correct one of them"
            )
    result = _Classes({}, {})
    for key, value in pairs.items():
        try:
            result.names[key] = check_name(value, f"{where}: {key}")
        except UnusableLabelError as error:
            result.refused[key] = error
    if pairs and not result.names:
        raise DataError(f"{where}: found no name; a list of names, or numbers and names, is expected")
    problems += explain_spellings(pairs.values(), where)
    return result


def _name_files(files: YoloFiles) -> list[str]:
    return [
        name
        for name in files.names
        if posixpath.basename(name).lower() in NAME_FILES or name.lower().endswith(".names")
    ]


def _read_list(files: YoloFiles, name: str) -> dict[int, str]:
    """Return the lines of a list of names; a blank line has a number, but no name."""
    return {k: line.strip() for k, line in enumerate(split_lines(files.text(name))) if line.strip()}


def _read_pairs(files: YoloFiles, where: str) -> dict[int, str]:
    """Return the names of a YAML file by number. Raises DataError if it has none, or ``nc`` has another count."""
    values = files.values["names"]
    pairs = list(values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ())
    are_names = all(isinstance(value, str) and str(key).strip().isdecimal() for key, value in pairs)
    if not isinstance(values, dict | list) or not are_names:
        kind = "a mapping" if isinstance(values, dict) else "a list" if isinstance(values, list) else repr(values)[:60]
        raise DataError(f"{where}: found {kind}; a list of names, or numbers and names, is expected")
    result = {int(key): value for key, value in pairs}
    count = read_text(files.values.get("nc"))
    if len(result) != len(pairs) or count.lower() not in NOTHING and count != str(len(result)):
        said = f"nc: {count}, but " if len(result) == len(pairs) else "a number twice among "
        raise DataError(
            f"{where}: found {said}{len(pairs)} names: which number has which name is uncertain; correct the file"
        )
    return result


def _read_rules(files: YoloFiles, task: str, classes: _Classes) -> LineRules:
    """Return how lines are read: by the option, else by ``kpt_shape`` or ``task`` of the YAML file."""
    where = files.where(files.settings) if files.settings else files.uri
    shape = files.values.get("kpt_shape")
    points: tuple[int, int] | None = None
    if isinstance(shape, list) and len(shape) == 2 and all(read_text(v).isdecimal() for v in shape):
        points = (int(shape[0]), int(shape[1]))
    if shape is not None and (points is None or points[0] < 1 or points[1] not in (2, 3)):
        raise DataError(f"{where}: kpt_shape: the number of key points, and 2 or 3 numbers of each, are expected")
    said = read_text(files.values.get("task")).lower()
    task = task or ("pose" if points else said if said in TASKS else "")
    hints = [key for key in ("flip_idx", "kpt_names", "skeleton") if key in files.values]
    if points is None and (task == "pose" or not task and hints):
        raise DataError(
            f"{where}: {f'found {hints[0]}' if hints else 'task: pose'}, but no kpt_shape: the numbers of key points "
            "and of numbers of each, as [17, 3], are expected"
        )
    return LineRules(classes.names, classes.refused, task, points if task == "pose" else None)


# ---------------------------------------------------------------- images and their label files


@dataclass(frozen=True, slots=True)
class _Places:
    """Pictures and label files of a data set.

    ``pictures``: paths; ``labels``: label files by path without ending, a last folder ``labels`` in small letters.
    """

    pictures: tuple[str, ...]
    labels: dict[str, str]

    @classmethod
    def of(cls, files: YoloFiles) -> _Places:
        """Return the places of a data set; what its settings or its name make a list is no label file."""
        sets = {name for text in set_paths(files.values) for name in _resolve(files, text, files.names)}
        candidates = [name for name in files.names if name.lower().endswith(".txt") and name not in sets]
        every = {_label_key(name): name for name in candidates}
        pictured = {key for picture in files.others for key in _label_keys(picture, files.root)}
        labels = {key: name for key, name in every.items() if key in pictured or not _is_list(name)}
        return cls(files.others, labels)

    def find_label(self, picture: str, root: str) -> str:
        """Return the label file of a picture; empty if it has none."""
        return next((self.labels[key] for key in _label_keys(picture, root) if key in self.labels), "")

    def find_sets(self, files: YoloFiles, problems: list[LabelProblem]) -> tuple[list[str], frozenset[str]] | None:
        """Return the folders and the pictures, without ending, of the sets that the settings name; None without any."""
        here = {*self.pictures, *(stem for key in self.labels for stem in _picture_stems(key))}
        above = {folder for name in here for folder in _folders(name)}
        stems = {posixpath.splitext(name)[0] if is_image(name) else name for name in here}
        folders: list[str] = []
        listed: set[str] = set()
        for text in set_paths(files.values):
            if texts := [name for name in _resolve(files, text, files.names) if name.lower().endswith(".txt")]:
                listed |= _read_picture_list(files, texts[0], stems, problems)
            elif found := _resolve(files, text, above):
                folders.append(f"{found[0]}/" if found[0] else "")
            else:
                detail = f"{files.where(files.settings)}: {text} is neither a folder nor a list of the data set"
                problems.append(LabelProblem("a set that leads nowhere", detail, "file"))
        return (folders, frozenset(listed)) if folders or listed else None


def _make_entries(
    places: _Places, sets: tuple[list[str], frozenset[str]] | None, root: str, problems: list[LabelProblem]
) -> Iterator[LabelSetEntry]:
    """Yield the images of the sets that the settings name, or all; those without a picture by their label file."""
    folders, listed = sets or ([""], frozenset())

    def is_in(name: str) -> bool:
        return any(name.startswith(folder) for folder in folders) or posixpath.splitext(name)[0] in listed

    found = {picture: places.find_label(picture, root) for picture in places.pictures}
    used = set(found.values())
    alone = {key: name for key, name in places.labels.items() if name not in used}
    bases = {posixpath.basename(key) for key in alone}
    unlabelled: set[str] = set()
    for picture, label in found.items():
        base = posixpath.basename(posixpath.splitext(picture)[0])
        if is_in(picture) and not label:
            unlabelled.add(base)
        # a label file elsewhere may be the picture's: `base_names` decides
        if is_in(picture) and (label or base not in bases):
            yield LabelSetEntry(tuple(_possible_paths(picture, root, folders)), None, None, label)
    left_out = {label for picture, label in found.items() if label and not is_in(picture)}
    for key, label in alone.items():
        stems = _picture_stems(key)
        if posixpath.basename(key) not in unlabelled and not any(is_in(f"{stem}.") for stem in stems):
            left_out.add(label)
            continue
        names = dict.fromkeys(path for stem in stems for path in _possible_paths(stem, root, folders))
        yield LabelSetEntry(tuple(names), None, None, label)
    if left_out:
        detail = f"{min(left_out)} and others are of no set that the YAML file names; name their folder there"
        problems.append(LabelProblem("label files outside the sets of the YAML file", detail, "image", len(left_out)))


def _is_list(name: str) -> bool:
    """Return whether a text file that belongs to no picture is a list or a note by its name."""
    stem = posixpath.splitext(posixpath.basename(name))[0].lower()
    if "labels" in name.lower().split("/")[:-1]:
        return posixpath.basename(name).lower() in NAME_FILES
    return stem in LIST_NAMES or stem.startswith(("readme", "autosplit_"))


def _label_key(name: str) -> str:
    """Return the path of a label file without ending, a last folder ``labels`` in small letters."""
    parts = posixpath.splitext(name)[0].split("/")
    for k in range(len(parts) - 2, -1, -1):
        if parts[k].lower() == "labels":
            parts[k] = "labels"
            break
    return "/".join(parts)


def _label_keys(picture: str, root: str) -> Iterator[str]:
    """Yield where the label file of a picture may be, without ending, the likeliest first."""
    swapped = swap_folder(picture)
    folder, base = posixpath.split(picture)
    mirrored = f"{root}labels/{picture.removeprefix(root)}"
    for path in dict.fromkeys((swapped, picture, posixpath.join(folder, "labels", base), mirrored)):
        yield posixpath.splitext(path)[0]
        yield path  # a.jpg.txt


def _picture_stems(key: str) -> list[str]:
    """Return where the picture of a label file may be, without ending: for a label file without a picture."""
    before, labels, after = f"/{key}".rpartition("/labels/")
    if not labels:
        return [key]
    return [f"{before}/images/{after}"[1:], f"{before}/{after}"[1:], key]


def _folders(name: str) -> Iterator[str]:
    while name:
        name = posixpath.dirname(name)
        yield name


def _resolve(files: YoloFiles, text: str, known: Collection[str], start: str | None = None) -> list[str]:
    """Return the path, of those that are known, to which a path leads from ``start``, or the root; or none.

    A path of another computer leads to the longest of its ends that is there.
    """
    start = files.root if start is None else start
    path = text.replace("\\", "/").rstrip("/") or ("." if text else "")
    full = posixpath.normpath(posixpath.join(files.store.root, start, path))
    exact = posixpath.relpath(full, files.store.root) if path else ""
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    ends = ["/".join(parts[k:]) for k in range(len(parts))] or [""]
    candidates = ["" if exact == "." else exact, *(posixpath.join(start, end).rstrip("/") for end in ends)]
    return [candidate for candidate in candidates if candidate in known][:1] if path else []


def _read_picture_list(files: YoloFiles, name: str, stems: set[str], problems: list[LabelProblem]) -> set[str]:
    """Return the pictures of a list, without ending; ``stems``: those that are there."""
    found: set[str] = set()
    missing: list[str] = []
    data = files.read(name)
    try:
        text = decode_text(data)
    except DataError:
        text = data.decode("latin-1")
    for line in filter(None, map(str.strip, split_lines(text))):
        stem = posixpath.splitext(line)[0] if is_image(line) else line
        if there := _resolve(files, stem, stems, posixpath.dirname(name)) or _resolve(files, stem, stems):
            found.add(there[0])
        else:
            missing.append(line)
    if missing:
        detail = f"{files.where(name)}: {missing[0]} has neither a picture nor a label file here"
        problems.append(LabelProblem("a listed picture is not there", detail, "image", len(missing)))
    return found


def _possible_paths(name: str, root: str, folders: Iterable[str]) -> Iterator[str]:
    """Yield the possible paths of an image: below the data set's folder, its folder of images, that of its set."""
    yield name.removeprefix(root)
    parts = name.split("/")
    last = max((k for k, part in enumerate(parts[:-1]) if part.lower() in IMAGE_FOLDERS), default=-1)
    yield "/".join(parts[last + 1 :]) if last >= 0 else name.removeprefix(root)
    yield from (name[len(folder) :] for folder in folders if folder and name.startswith(folder))
