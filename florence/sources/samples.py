"""Real photos in installed packages: enough to try everything without a download."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from florence.errors import ImageError, SettingsError
from florence.images import is_image
from florence.sources import SOURCES, Source, SourceImage, check_options

NO_RESTRICTIONS = "no known copyright restrictions (scikit-image's documentation)"
NOT_STATED = "not stated by the package"


class Package(NamedTuple):
    """The folder of a package's images, their licences by its documentation, and the images that are left out, and why.

    Keys of ``licences`` and ``left_out`` are file names, or the beginning of file names if they end in ``*``.
    """

    folder: str
    licence: str
    licences: Mapping[str, str] = MappingProxyType({})
    left_out: Mapping[str, str] = MappingProxyType({})


PACKAGES: dict[str, Package] = {
    "skimage": Package(
        "data",
        NOT_STATED,
        {
            "astronaut.png": "public domain (NASA)",
            "hubble_deep_field.jpg": "public domain (NASA)",
            "rocket.jpg": "public domain (SpaceX)",
            "camera.png": "CC0 (Lav Varshney)",
            "chelsea.png": "CC0 (Stefan van der Walt)",
            "coffee.png": "CC0 (Rachel Michetti)",
            "clock_motion.png": "public domain (Stefan van der Walt)",
            "retina.jpg": "CC0",
            "cell.png": "CC0",
            "microaneurysms.png": "CC0 (Andreas Maier)",
            "coins.png": NO_RESTRICTIONS,
            "ihc.png": NO_RESTRICTIONS,
            "text.png": "public domain",
            "motorcycle_left.png": (
                "not stated by the package (Middlebury 2014 stereo data; cite Scharstein et al., GCPR 2014)"
            ),
        },
        {
            "brick.png": "texture",
            "grass.png": "texture",
            "gravel.png": "texture",
            "chessboard_*": "synthetic",
            "color.png": "synthetic",
            "phantom.png": "synthetic",
            "multipage*": "synthetic",
            "horse.png": "silhouette",
            "logo.png": "logo",
            "motorcycle_right.png": "second view of motorcycle_left.png",
            "no_time_for_that_tiny.gif": "thumbnail",
        },
    ),
    "sklearn": Package(
        "datasets/images",
        NOT_STATED,
        {"china.jpg": "CC BY 2.0 (danielbuechele, Flickr)", "flower.jpg": "CC BY 2.0 (vultilion, Flickr)"},
    ),
    "matplotlib": Package(
        "mpl-data/sample_data",
        NOT_STATED,
        {"grace_hopper.jpg": "not stated by the package (a United States Navy portrait)"},
        {"logo2.png": "logo", "Minduka_*": "drawing"},
    ),
    "foolbox": Package(
        "data",
        "not stated by the package (ImageNet photos; for research)",
        {},
        {
            "cifar*": "thumbnail",
            "mnist_*": "thumbnail",
            "fashionMNIST_*": "thumbnail",
        },
    ),
}
"""Packages are optional: one that is not installed has no images. Images that are not left out by name are read."""


@SOURCES.register("samples")
class SamplesSource(Source):
    """Every real photo in the data folders of scikit-image, scikit-learn, matplotlib and, if installed, foolbox.

    ``packages``: import names to look into, by default all. Synthetic images, logos, textures, silhouettes and
    thumbnails are left out by the list in `PACKAGES`. Raises SettingsError for an unknown package.
    """

    def __init__(self, **options: Any) -> None:
        wanted = check_options("samples", options, {"packages": tuple(PACKAGES)})["packages"]
        if not isinstance(wanted, list | tuple) or any(name not in PACKAGES for name in wanted):
            raise SettingsError(
                f"source samples: packages must be a list of some of {', '.join(PACKAGES)}; found {wanted!r}"
            )
        self.packages = tuple(dict.fromkeys(wanted))

    def count(self) -> int:
        """Return how many photos are installed."""
        return sum(1 for _ in self._photos())

    def images(self, known: frozenset[str]) -> Iterator[SourceImage | ImageError]:
        """Yield every photo as ``package/file``, known or not: the packages may have been updated."""
        for name, path, licence in self._photos():
            try:
                yield SourceImage(name, path.read_bytes(), licence)
            except OSError as error:
                yield ImageError(name, "unreadable", error.strerror or type(error).__name__)

    def _photos(self) -> Iterator[tuple[str, Path, str]]:
        for name in self.packages:
            package = PACKAGES[name]
            spec = importlib.util.find_spec(name)  # finds a top-level package without importing it
            for root in (spec.submodule_search_locations or ()) if spec else ():
                folder = Path(root) / package.folder
                for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                    if is_image(path.name) and _find_note(package.left_out, path.name) is None:
                        yield f"{name}/{path.name}", path, _find_note(package.licences, path.name) or package.licence


def _find_note(notes: Mapping[str, str], name: str) -> str | None:
    for key, text in notes.items():
        if name == key or (key.endswith("*") and name.startswith(key[:-1])):
            return text
    return None
