"""Pictures whose objects are known exactly: cut-outs of real photos, pasted onto photos without objects.

The cut-outs are those of installed Python packages, with outlines drawn here (`packaged_cutouts`), or the photographic
stamps of Tux Paint (`stamp_cutouts`), of which Debian has a package. Only paths and outlines are kept in this file.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from _samples import Found
from PIL import Image

LONGEST = 420
"""Pixels of a cut-out's longer side, at most."""
OUTLINES = """
person skimage/data/astronaut.png 258,22 236,16 205,21 157,57 153,68 154,92 158,105 170,118 170,146 145,155 131,167
126,180 124,204 120,206 114,201 91,226 69,242 45,280 26,342 26,366 20,386 26,484 41,511 256,511 256,490 264,479
263,438 272,433 275,394 310,355 326,356 360,348 361,330 357,323 352,287 341,264 330,251 290,151 287,121 296,107
300,92 296,58 282,36

helmet skimage/data/astronaut.png 480,387 454,360 437,351 416,344 381,345 360,353 347,355 329,363 310,381 307,391
295,406 283,433 277,460 277,495 281,511 490,511 500,479 499,475 494,478 491,473 494,467 502,461 502,456 496,452
494,424 489,406

rocket skimage/data/astronaut.png 408,0 403,9 397,30 397,72 389,82 388,99 378,115 378,183 358,208 357,221 359,223
369,223 374,227 375,242 367,260 368,268 371,268 392,243 400,242 404,248 408,248 412,240 422,240 426,246 428,282
445,282 453,272 453,268 458,261 454,250 452,222 454,212 453,125 446,117 437,113 433,97 433,61 437,54 437,40 432,17
423,0

cat skimage/data/chelsea.png 60,0 46,25 32,40 30,134 22,147 18,168 21,213 30,220 29,237 34,242 41,273 40,299 105,296
136,275 146,280 153,274 161,277 167,273 210,271 226,264 244,265 249,260 259,265 276,253 290,257 298,251 308,251
316,238 315,222 331,205 343,184 341,167 361,147 361,114 356,104 355,77 375,47 381,23 380,0

cup skimage/data/coffee.png 269,18 239,25 204,45 198,44 192,49 186,49 146,77 139,89 107,123 87,155 77,191 77,230
74,236 76,246 101,297 105,300 110,299 139,330 165,349 207,369 229,373 239,378 271,382 303,382 331,378 381,360
405,341 420,334 461,290 474,262 479,237 477,202 472,195 465,169 435,112 420,93 423,75 419,70 413,67 398,70 391,67
364,41 337,27 299,18

motorcycle skimage/data/motorcycle_left.png 642,300 575,255 613,253 615,211 597,183 571,182 558,168 563,141 527,100
543,99 521,87 498,113 444,110 399,159 362,175 348,165 331,192 291,195 222,174 176,182 148,170 150,191 104,196 92,210
97,222 112,223 112,246 157,224 156,247 133,267 122,322 152,390 223,409 332,410 337,435 403,416 458,422 501,379
536,374 588,428 632,425 647,410 648,388 614,327

person skimage/data/camera.png 234,75 219,68 193,69 186,73 165,96 163,103 148,116 53,181 42,192 30,216 19,226 16,236
0,259 0,511 150,511 148,423 141,380 173,342 206,294 247,312 263,303 288,269 289,226 293,219 297,223 297,231 302,228
303,193 284,186 244,187 241,184 245,173 254,167 250,147 263,153 278,151 278,148 271,148 265,140 257,138 261,129
269,128 268,111 255,92

flower sklearn/datasets/images/flower.jpg 323,86 305,87 283,98 249,99 232,112 215,116 207,124 205,133 190,145
189,169 178,173 178,193 169,208 170,232 174,238 172,261 187,295 202,316 212,324 226,325 235,340 248,350 266,348
290,359 335,357 395,331 406,320 408,309 425,288 443,243 444,212 431,182 431,163 421,140 410,132 408,124 399,115
388,113 374,100 334,93

building sklearn/datasets/images/china.jpg 200,30 193,62 170,90 127,109 97,109 98,130 118,142 119,160 109,161 85,182
98,191 98,228 93,244 64,265 64,274 81,281 74,328 97,336 127,335 176,363 208,364 218,384 261,385 287,401 297,377
309,370 329,375 366,343 340,303 340,266 350,250 318,206 318,187 328,172 311,169 300,156 300,138 319,125 318,119
235,81 212,48 214,34

person matplotlib/mpl-data/sample_data/grace_hopper.jpg 197,49 179,66 175,84 145,110 146,171 157,185 153,211 171,263
169,277 174,288 194,299 196,318 165,344 121,360 96,363 59,382 29,448 21,599 499,599 491,433 484,412 448,373 366,341
328,311 339,270 361,261 369,224 364,192 371,134 364,88 353,85 344,65 332,54 305,42 292,45 278,34 264,38 260,30
253,30 254,38 242,34 226,46 212,42

rocket skimage/data/rocket.jpg 319,130 314,135 311,144 311,180 309,184 311,350 308,355 309,365 304,370 304,381
308,385 308,400 315,406 338,406 340,404 340,376 343,365 335,343 335,326 337,323 335,317 335,141 327,131
"""
"""Paragraphs of a name, a photo of a package, and the corners (x,y) of the object's outline in it."""
COINS = "335,43,28 155,51,22 276,52,19 271,119,24 205,124,19 347,186,31 212,193,23 102,196,21 46,260,27 301,263,24"
"""Middles and radii of coins in skimage/data/coins.png."""
BACKGROUNDS = (
    ("skimage/data/brick.png", (0, 0, 1, 1)),
    ("skimage/data/grass.png", (0, 0, 1, 1)),
    ("skimage/data/gravel.png", (0, 0, 1, 1)),
    ("skimage/data/rocket.jpg", (0.0, 0.0, 0.45, 1.0)),
    ("skimage/data/coffee.png", (0.78, 0.0, 1.0, 1.0)),
    ("skimage/data/motorcycle_left.png", (0.0, 0.75, 1.0, 1.0)),
    ("skimage/data/camera.png", (0.55, 0.0, 1.0, 1.0)),
    ("sklearn/datasets/images/china.jpg", (0.6, 0.0, 1.0, 1.0)),
    ("sklearn/datasets/images/flower.jpg", (0.0, 0.0, 0.24, 1.0)),
)
"""Photos of packages, and the part (x0, y0, x1, y1, in shares) that shows none of the objects."""
STAMPS = {
    "bird": (5, "blackbird crow pigeon silver-gull duck hen magellanic_penguin pink_flamingo adelaide-rosella owl",
             "drake rooster seagull penguin lark gander little-penguin"),
    "flower": (4, "flower1 flower2 flower4 flower8 rose daffodil marigold whitestar-petunia",
               "flower9 flower6 adeenia red-gazania pigface"),
    "apple": (3, "apple_fuji apple_red apple_granny_smith", "apple_sierra_beauty apple_green"),
    "orange": (2, "orange mandarine", "orange_seville"),
    "cow": (3, "cow bull zebu", "cow_white"),
    "sheep": (2, "ram sheep", "sheep_lamb"),
    "pig": (2, "pig pig_golden", "pig_golden2 wildboar"),
    "dog": (2, "dog", "dingo"),
    "horse": (2, "horse donkey", "donkey_eating"),
    "rabbit": (2, "rabbit_little rabbit", "rabbit-2"),
    "lion": (1, "lion", "lion-2"),
    "bear": (1, "bear", "european-bear"),
    "mushroom": (2, "cep cep-1 mushroom", "cep-2"),
    "car": (3, "beetle sedan", "sportscar2"),
    "truck": (2, "truck firetruck", "garbagetruck"),
    "guitar": (1, "guitar_classical guitar_electric", "guitar2 guitar_electric_bass"),
}  # fmt: skip
"""Name → how often it is drawn, and the stamps that detectors are trained on and those that only tests have."""

HOW_TO_GET_STAMPS = "apt-get download tuxpaint-stamps-default && dpkg-deb -x tuxpaint-stamps-default_*.deb stamps"
"""They are under the GPL, version 2: this project holds none of them."""


@dataclass(frozen=True)
class Cutouts:
    """Cut-outs (h, w, 4), RGB and alpha, by name: those to train on, and those that only tests have.

    ``weights``: how often each name is drawn.
    """

    known: Mapping[str, Sequence[np.ndarray]]
    novel: Mapping[str, Sequence[np.ndarray]]
    weights: Mapping[str, float]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all objects."""
        return tuple(self.known)


@dataclass(frozen=True)
class Composite:
    """A picture (h, w, 3), and its objects: their boxes enclose what is seen of them."""

    pixels: np.ndarray
    objects: tuple[Found, ...]


def packaged_cutouts() -> Cutouts:
    """Return the cut-outs of photos in scikit-image, scikit-learn and matplotlib: 9 names, 21 objects."""
    from PIL import ImageDraw

    shapes: list[tuple[str, str, list[tuple[int, int]] | tuple[int, ...]]] = []
    for paragraph in OUTLINES.strip().split("\n\n"):
        name, photo, *corners = paragraph.split()
        shapes.append((name, photo, [tuple(map(int, corner.split(","))) for corner in corners]))  # type: ignore[misc]
    for coin in COINS.split():
        x, y, radius = map(int, coin.split(","))
        shapes.append(("coin", "skimage/data/coins.png", (x - radius, y - radius, x + radius, y + radius)))
    found: dict[str, list[np.ndarray]] = {}
    for name, photo, shape in shapes:
        image = _photo(photo)
        mask = Image.new("L", image.size)
        draw = ImageDraw.Draw(mask)
        if isinstance(shape, list):
            draw.polygon(shape, fill=255)
        else:
            draw.ellipse(shape, fill=255)
        image.putalpha(mask)
        found.setdefault(name, []).append(_trim(image))
    return Cutouts(found, {}, dict.fromkeys(found, 1.0))


def stamp_cutouts(folder: Path) -> Cutouts:
    """Return the photographic stamps of Tux Paint in its ``folder``: 16 names, 75 objects."""
    files = {path.stem: path for path in sorted(folder.rglob("*.png")) if "cartoon" not in path.parts}
    wanted = {stem for _, known, novel in STAMPS.values() for stem in f"{known} {novel}".split()}
    if missing := sorted(wanted - files.keys()):
        raise SystemExit(f"{folder} lacks {len(missing)} stamps of Tux Paint, as {missing[0]}.png: {HOW_TO_GET_STAMPS}")

    def read(stems: str) -> list[np.ndarray]:
        return [_trim(Image.open(files[stem]).convert("RGBA")) for stem in stems.split()]

    return Cutouts(
        {name: read(known) for name, (_, known, _) in STAMPS.items()},
        {name: read(novel) for name, (_, _, novel) in STAMPS.items()},
        {name: weight for name, (weight, _, _) in STAMPS.items()},
    )


def packaged_backgrounds() -> list[np.ndarray]:
    """Return photos (h, w, 3), or parts of photos, that show none of the objects."""
    parts = []
    for photo, (x0, y0, x1, y1) in BACKGROUNDS:
        image = _photo(photo)
        width, height = image.size
        part = image.crop((round(x0 * width), round(y0 * height), round(x1 * width), round(y1 * height)))
        parts.append(np.asarray(part.convert("RGB")))
    return parts


def _photo(path: str) -> Image.Image:
    package, _, rest = path.partition("/")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{path}: package {package} is not installed")
    return Image.open(Path(spec.origin).parent / rest).convert("RGB")


def _trim(image: Image.Image) -> np.ndarray:
    """Return a picture of RGB and alpha without its empty margins."""
    image = image.crop(image.getchannel("A").point(lambda alpha: 255 * (alpha > 127)).getbbox())
    image.thumbnail((LONGEST, LONGEST))
    return np.asarray(image)


def draw_composites(
    count: int,
    seed: int,
    cutouts: Cutouts,
    backgrounds: Sequence[np.ndarray],
    novel: float = 0.0,
    unit: int = 16,
) -> Iterator[Composite]:
    """Yield pictures of 20 to 40 ``unit`` a side with 2 to 6 objects that overlap.

    ``novel``: share of objects that are cut-outs which only tests have.
    """
    rng = np.random.default_rng(seed)
    for _ in range(count):
        width, height = (int(side) * unit for side in rng.integers(20, 41, 2))
        yield _compose(rng, width, height, cutouts, backgrounds[rng.integers(len(backgrounds))], novel)


def _compose(
    rng: np.random.Generator, width: int, height: int, cutouts: Cutouts, photo: np.ndarray, novel: float
) -> Composite:
    import cv2

    pixels = _background(rng, photo, width, height)
    owner, whole, names = np.full((height, width), -1), [], []
    weights = np.asarray([cutouts.weights[name] for name in cutouts.names])
    wanted = int(rng.integers(2, 7))
    for _ in range(5 * wanted):
        if len(names) == wanted:
            break
        again = names and rng.random() < 0.3
        name = names[-1] if again else cutouts.names[rng.choice(len(weights), p=weights / weights.sum())]
        pool = cutouts.novel.get(name) if rng.random() < novel else None
        pool = pool or cutouts.known[name]
        cutout = _resize(rng, vary(rng, pool[rng.integers(len(pool))]), min(width, height))
        place = _place(rng, cutout, owner, whole)
        if place is None:
            continue
        (y0, x0), part = place
        alpha = part[..., 3:] / 255
        region = pixels[y0 : y0 + len(part), x0 : x0 + part.shape[1]]
        region[:] = region * (1 - alpha) + part[..., :3] * alpha
        owner[y0 : y0 + len(part), x0 : x0 + part.shape[1]][part[..., 3] > 127] = len(names)
        whole.append(int((cutout[..., 3] > 127).sum()))
        names.append(name)
    if rng.random() < 0.4:
        pixels = cv2.GaussianBlur(pixels, (0, 0), float(rng.uniform(0.4, 1.2)))
    pixels += rng.normal(0, rng.uniform(0, 7), pixels.shape).astype(np.float32)
    boxes = []
    for number in range(len(names)):
        ys, xs = np.nonzero(owner == number)
        boxes.append((float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)))
    return Composite(
        _compressed(np.clip(pixels, 0, 255).astype(np.uint8), int(rng.integers(60, 95))),
        tuple(Found(name, box) for name, box in zip(names, boxes, strict=True)),
    )


def _background(rng: np.random.Generator, photo: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return a part of a photo as (height, width, 3), float32: mirrored or blurred, lighter or darker."""
    import cv2

    rows = int(min(photo.shape[0], photo.shape[1] * height / width) * rng.uniform(0.35, 1))
    columns = int(rows * width / height)
    y, x = int(rng.integers(photo.shape[0] - rows + 1)), int(rng.integers(photo.shape[1] - columns + 1))
    part = cv2.resize(photo[y : y + rows, x : x + columns], (width, height), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.5:
        part = np.ascontiguousarray(part[:, ::-1])
    if rng.random() < 0.6:
        part = cv2.GaussianBlur(part, (0, 0), float(rng.uniform(0.5, 4)))
    return part.astype(np.float32) * np.float32(rng.uniform(0.75, 1.15))


def vary(rng: np.random.Generator, cutout: np.ndarray) -> np.ndarray:
    """Return a variation of a cut-out (h, w, 4): mirrored, cropped, turned, with other colours, or grey."""
    import cv2

    image = cutout[:, ::-1] if rng.random() < 0.5 else cutout
    height, width = image.shape[:2]
    if rng.random() < 0.25:
        top, left = int(height * rng.uniform(0.1, 0.35)), int(width * rng.uniform(0.1, 0.35))
        image = (image[top:], image[:-top], image[:, left:], image[:, :-left])[rng.integers(4)]
        height, width = image.shape[:2]
    angle = float(rng.normal(0, 10))
    cos, sin = np.cos(np.deg2rad(abs(angle))), np.sin(np.deg2rad(abs(angle)))
    size = int(width * cos + height * sin) + 2, int(width * sin + height * cos) + 2
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1)
    turn[:, 2] += (size[0] - width) / 2, (size[1] - height) / 2
    image = cv2.warpAffine(np.ascontiguousarray(image), turn, size, flags=cv2.INTER_LINEAR)
    colours = image[..., :3].astype(np.float32)
    colours = (colours - 128) * rng.uniform(0.65, 1.25) + 128 + rng.normal(0, 18) + rng.normal(0, 8, 3)
    if rng.random() < 0.2:
        colours = np.repeat(colours.mean(axis=-1, keepdims=True), 3, axis=-1)
    return np.dstack([np.clip(colours, 0, 255).astype(np.uint8), image[..., 3]])


def _resize(rng: np.random.Generator, cutout: np.ndarray, side: int) -> np.ndarray:
    """Return a cut-out at a size of 0.11 to 0.62 of the picture's shorter side, evenly in the logarithm."""
    import cv2

    height, width = cutout.shape[:2]
    scale = side * float(np.exp(rng.uniform(np.log(0.11), np.log(0.62)))) / np.sqrt(height * width)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(cutout, (max(6, int(width * scale)), max(6, int(height * scale))), interpolation=how)


def _place(
    rng: np.random.Generator, cutout: np.ndarray, owner: np.ndarray, whole: Sequence[int]
) -> tuple[tuple[int, int], np.ndarray] | None:
    """Return a corner (y, x) and the part of a cut-out inside the picture; None where it would hide too much.

    ``owner``: number of the object that each pixel shows, else −1. ``whole``: pixels of each object. Of each object
    0.45 of its pixels stays seen.
    """
    (rows, columns), (height, width) = owner.shape, cutout.shape[:2]
    if height > rows or width > columns:
        return None
    y, x = (
        int(rng.integers(-length // 8, side - length + length // 8 + 1))
        for length, side in ((height, rows), (width, columns))
    )
    y0, x0, y1, x1 = max(y, 0), max(x, 0), min(y + height, rows), min(x + width, columns)
    part = cutout[y0 - y : y1 - y, x0 - x : x1 - x]
    seen = part[..., 3] > 127
    hidden = owner[y0:y1, x0:x1][seen]
    for number in np.unique(hidden[hidden >= 0]):
        if (owner == number).sum() - (hidden == number).sum() < 0.45 * whole[number]:
            return None
    if seen.sum() < 25:
        return None
    return (y0, x0), part


def _compressed(pixels: np.ndarray, quality: int) -> np.ndarray:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "JPEG", quality=quality)
    return np.asarray(Image.open(io.BytesIO(sink.getvalue())))
