"""Images of a folder and its subfolders, on local disk or in a bucket."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from florence.errors import DataError, ImageError
from florence.images import FORMATS, can_open_heic, is_image, sniff_format
from florence.sources import SOURCES, Listing, Source, SourceImage, UnusedFiles, check_options, option_error
from florence.sources._files import EXAMPLES, Tally, Tree, TreeFile
from florence.text_files import decode_text, explain_non_caption

NOT_READ = "not read"
HEIC = "pip install 'florence[heic]'"
_HEIC_ENDINGS = (".heic", ".heif", ".hif")
_REMEDIES = {
    "unpack it": ".zip .tar .tgz .gz .bz2 .xz .zst .7z .rar .tbz .txz .lzma",
    "save its pages as pictures": ".pdf .djvu .ps",
    "save frames as pictures": ".mp4 .mov .avi .mkv .webm .mts .m2ts .m4v .3gp .wmv .mpg .mpeg .flv .insv",
    "develop to JPEG": ".cr2 .cr3 .crw .nef .nrw .arw .sr2 .dng .orf .rw2 .raf .pef .srw .raw .rwl .x3f .erf .3fr .iiq",
    "finish the download": ".crdownload .part .partial .download .opdownload",
    "save as PNG or JPEG": ".svg .psd .psb .xcf .ai .eps .ico .icns .tga .pcx .exr .hdr .dds .emf .wmf .jxl .dcm .fits",
}
_REMEDY_OF = {ending: remedy for remedy, endings in _REMEDIES.items() for ending in endings.split()}
_TEXTS = frozenset(
    ".txt .xml .json .jsonl .csv .tsv .yaml .yml .md .html .htm .py .ipynb .parquet .npy .npz .names .cfg .log .ini "
    ".toml .doc .docx .xls .xlsx .odt .exe .sh .bat .lnk .url .db .sqlite .mat .pkl .pt .onnx .safetensors".split()
)
"""Endings of files that are no pictures, whose content need not be looked at."""


@SOURCES.register("folder")
class FolderSource(Source):
    """The images below ``uri``, a local path (relative to the workspace) or ``s3://bucket/prefix``.

    Credentials come from the environment. ``licence``: the licence note of every image. ``moved_from``: the address
    that the folder had before; its files are the same ones, also where they have changed since. Files with an ending of
    `florence.images.IMAGE_SUFFIXES` are read, and files without any ending that are pictures by their content, in the
    order of their names. Left out and counted are other files, hidden ones, thumbnails, and what Florence writes. A
    .txt beside an image (``cat.txt`` or ``cat.jpg.txt`` for ``cat.jpg``) is its alt text, unless it holds labels. Each
    run reads every file again, since its content may have changed: the hash decides what is new.

    Raises SettingsError for a wrong option, StoreError if the folder is missing or not permitted.
    """

    def __init__(self, **options: Any) -> None:
        values = check_options("folder", options, {"uri": None, "licence": "not stated", "moved_from": ""})
        self.tree = Tree("folder", "uri", values["uri"])
        self.uri = values["uri"]
        if not isinstance(values["licence"], str) or not values["licence"].strip():
            raise option_error("folder", "licence", values["licence"], "a text")
        if not isinstance(values["moved_from"], str):
            raise option_error("folder", "moved_from", values["moved_from"], "the folder's earlier uri")
        self.licence: str = values["licence"]
        self.moved_from = values["moved_from"]
        self._count: int | None = None

    def count(self) -> int | None:
        """Return how many image files the last listing found; None before it."""
        return self._count

    def images(self, known: frozenset[str]) -> Iterator[SourceImage | ImageError]:
        """Yield every image file, known or not; an ImageError for what cannot be read, or has 0 bytes."""
        self.listing = None
        entries, failed, unused = self._list()
        texts = {entry.name: entry for entry in entries if entry.name.lower().endswith(".txt")}
        image_files = [entry for entry in entries if entry.name not in texts]
        self._count = len(image_files) + len(failed)
        yield from failed
        used: set[str] = set()
        refused: dict[str, str] = {}
        for entry in image_files:
            try:
                data = self.tree.read(entry)
            except ImageError as error:
                yield error
                continue
            alt = self._read_note(_find_note(entry.name, texts), used, refused)
            yield (
                SourceImage(entry.name, data, self.licence, alt or None)
                if data
                else ImageError(entry.name, "empty", "0 bytes")
            )
        for name in texts:
            if name not in used:
                unused.add(f".txt\0{refused.get(name, '')}", name)
        is_whole = not any(error.detail.startswith("folder") for error in failed)
        self.listing = Listing(len(used), (*self._list_unread(unused), *self._list_skipped()), is_whole)

    def read_named(self, names: Collection[str]) -> Iterator[SourceImage | ImageError]:
        """Yield the images with these names, of those that are there; no other file is read."""
        for entry in self._list()[0]:
            if entry.name in names:
                try:
                    yield SourceImage(entry.name, self.tree.read(entry), self.licence)
                except ImageError as error:
                    yield error

    def _list(self) -> tuple[list[TreeFile], list[ImageError], Tally]:
        """Return the files that are read (pictures and .txt), those that cannot be, and all others by ending."""
        self.tree.own_paths = self.own_paths
        entries, failed = self.tree.entries()
        kept, unused = [], Tally()
        for entry in entries:
            ending = posixpath.splitext(entry.name)[1].lower()
            reason = "" if ending == ".txt" else self._explain(entry, ending)
            if reason is None:
                unused.add(f"{ending}\0{_REMEDY_OF.get(ending, '')}", entry.name)
            elif reason:
                unused.add(f"{ending}\0{reason}", entry.name)
            else:
                kept.append(entry)
        return kept, failed, unused

    def _explain(self, entry: TreeFile, ending: str) -> str | None:
        """Return "" for a picture, None for what is none, else what would have the file read."""
        if ending in _HEIC_ENDINGS and not can_open_heic():
            return HEIC if sniff_format(self.tree.head(entry)) == "HEIF" else ""
        if is_image(entry.name):
            return ""
        if ending in _TEXTS or ending in _REMEDY_OF or (ending and not self.tree.local):
            return None
        form = sniff_format(self.tree.head(entry))
        if form in FORMATS and (form != "HEIF" or can_open_heic()):
            return f"by content {form}: rename to .{form.lower()}" if ending else ""
        return HEIC if form == "HEIF" else None

    def _read_note(self, note: TreeFile | None, used: set[str], refused: dict[str, str]) -> str | None:
        """Return the text of a file beside an image, None where it is no caption."""
        if note is None or note.name in refused:
            return None
        try:
            text = decode_text(self.tree.read(note))
        except (DataError, ImageError) as error:
            refused[note.name] = f"no alt text: {error.detail if isinstance(error, ImageError) else error}"
            return None
        if why := explain_non_caption(text, note.name):
            refused[note.name] = f"no alt text: {why}"
            return None
        used.add(note.name)
        return " ".join(text.split())

    def _list_unread(self, unused: Tally) -> Iterator[UnusedFiles]:
        for key, count in sorted(unused.counts.items(), key=lambda item: (-item[1], item[0])):
            ending, _, remedy = key.partition("\0")
            yield UnusedFiles(NOT_READ, count, tuple(unused.examples[key]), remedy, ending or "no ending")

    def _list_skipped(self) -> Iterator[UnusedFiles]:
        skipped = self.tree.skipped
        for reason, count in sorted(skipped.counts.items(), key=lambda item: (-item[1], item[0])):
            yield UnusedFiles(reason, count, tuple(skipped.examples[reason][:EXAMPLES]))


def _find_note(name: str, texts: Mapping[str, TreeFile]) -> TreeFile | None:
    """Return the text file beside an image: ``cat.txt`` or ``cat.jpg.txt`` for ``cat.jpg``, in either case."""
    stems = (posixpath.splitext(name)[0], name)
    return next((texts[s + end] for s in stems for end in (".txt", ".TXT", ".Txt") if s + end in texts), None)
