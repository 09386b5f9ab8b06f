"""A method of another package, run by the Python of an environment that has the package.

``python _rival_worker.py NAME`` reads one request a line and answers each with one line, both JSON. A request holds
``names`` (how many), ``annotators``, ``pictures`` (their ``size``, and ``claims``: for every annotator, lists of name,
box and score) and ``settings``. The answer is a list of objects: picture, name, box, score, votes; or {"error": text}.
It imports nothing of the project.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import Callable
from typing import Any

Request = dict[str, Any]
Rows = list[list[Any]]


def intersect_merge(request: Request) -> Rows:
    """Return the objects of Datumaro's IntersectMerge; its score says how sure and how close its claims are."""
    from datumaro.components.annotation import Bbox
    from datumaro.components.dataset import Dataset
    from datumaro.components.dataset_base import DatasetItem
    from datumaro.components.merge.intersect_merge import IntersectMerge

    settings = request["settings"]
    categories = [str(number) for number in range(request["names"])]
    sets = []
    for annotator in request["annotators"]:
        items = []
        for number, picture in enumerate(request["pictures"]):
            boxes = [
                Bbox(box[0], box[1], box[2] - box[0], box[3] - box[1], label=name, attributes={"score": score})
                for name, box, score in picture["claims"].get(annotator, ())
            ]
            items.append(DatasetItem(id=str(number), annotations=boxes))
        sets.append(Dataset.from_iterable(items, categories=categories))
    conf = IntersectMerge.Conf(pairwise_dist=settings["overlap"], quorum=settings["quorum"], close_distance=0)
    rows = []
    for item in IntersectMerge(conf=conf).merge(sets):
        for found in item.annotations:
            if found.label is not None:
                x, y, width, height = found.get_bbox()
                rows.append(
                    [
                        int(item.id),
                        int(found.label),
                        [x, y, x + width, y + height],
                        float(found.attributes["score"]),
                        1,
                    ]
                )
    return rows


def panoptes(request: Request) -> Rows:
    """Return the clusters of panoptes-aggregation's DBSCAN by overlap; the score is the share of annotators."""
    from panoptes_aggregation.reducers.shape_reducer_dbscan import shape_reducer_dbscan

    settings = request["settings"]
    sides = ("x", "y", "width", "height")
    rows = []
    for number, picture in enumerate(request["pictures"]):
        extracts = []
        for claims in picture["claims"].values():
            frame: dict[str, list[float]] = defaultdict(list)
            for name, box, _ in claims:
                values = (box[0], box[1], box[2] - box[0], box[3] - box[1])
                for side, value in zip(sides, values, strict=True):
                    frame[f"T0_toolIndex{name}_{side}"].append(value)
            extracts.append({"frame0": dict(frame), "classifier_version": "1.0"} if frame else {})
        found = shape_reducer_dbscan(
            extracts,
            shape="rectangle",
            eps=1 - settings["overlap"],
            min_samples=settings["least"],
            metric_type="IoU",
            estimate_average=True,
            user_id=list(picture["claims"]),
        )
        for key, counts in found.get("frame0", {}).items():
            matched = re.fullmatch(r"(T0_toolIndex(\d+))_clusters_count", key)
            if matched:
                parts = [found["frame0"][f"{matched[1]}_clusters_{side}"] for side in sides]
                for count, x, y, width, height in zip(counts, *parts, strict=True):
                    share = min(count / len(request["annotators"]), 1.0)
                    rows.append([number, int(matched[2]), [x, y, x + width, y + height], share, count])
    return rows


def crowd_kit(request: Request) -> Rows:
    """Return clusters of boxes, named by crowd-kit's aggregator; who is silent votes for nothing."""
    import pandas as pd
    from crowdkit.aggregation import GLAD, MACE, DawidSkene

    settings = request["settings"]
    nothing, clusters, votes = -1, [], []
    for number, picture in enumerate(request["pictures"]):
        for cluster in _clusters(picture["claims"], settings["overlap"]):
            for annotator in request["annotators"]:
                votes.append((len(clusters), annotator, cluster[annotator][0] if annotator in cluster else nothing))
            clusters.append((number, cluster))
    if not clusters:
        return []
    table = pd.DataFrame(votes, columns=["task", "worker", "label"])
    model = {
        "Dawid–Skene": lambda: DawidSkene(n_iter=50),
        "GLAD": lambda: GLAD(n_iter=10, silent=True),
        "MACE": lambda: MACE(n_restarts=2, n_iter=20, random_state=0),
    }[settings["model"]]()
    chances = model.fit_predict_proba(table)
    rows = []
    for task, values in zip(chances.index, chances.to_numpy(), strict=True):
        number, cluster = clusters[int(task)]
        boxes = [box for _, box, _ in cluster.values()]
        mean = [sum(box[k] for box in boxes) / len(boxes) for k in range(4)]
        best = max(
            (pair for pair in zip(chances.columns, values, strict=True) if pair[0] != nothing), key=lambda pair: pair[1]
        )
        rows.append([number, int(best[0]), mean, float(best[1]), len(cluster)])
    return rows


def detection_fusion(request: Request) -> Rows:
    """Return the objects of one of detection-fusion's strategies."""
    from detection_fusion.core.detection import Detection
    from detection_fusion.strategies import create_strategy

    settings = request["settings"]
    strategy = create_strategy(settings["strategy"], iou_threshold=settings["overlap"])
    rows = []
    for number, picture in enumerate(request["pictures"]):
        width, height = picture["size"]
        claims = {
            annotator: [
                Detection(
                    class_id=name,
                    x=(box[0] + box[2]) / 2 / width,
                    y=(box[1] + box[3]) / 2 / height,
                    w=(box[2] - box[0]) / width,
                    h=(box[3] - box[1]) / height,
                    confidence=score,
                    model_source=annotator,
                    image_name=str(number),
                )
                for name, box, score in found
            ]
            for annotator, found in picture["claims"].items()
        }
        for found in strategy.merge(claims):
            left, top, right, bottom = found.xyxy
            box = [left * width, top * height, right * width, bottom * height]
            rows.append([number, found.class_id, box, float(found.confidence), 1])
    return rows


def _clusters(claims: dict[str, list[list[Any]]], least: float) -> list[dict[str, list[Any]]]:
    """Return claims about one image, of any name, by what they overlap: each annotator is in a cluster once."""
    clusters: list[dict[str, list[Any]]] = []
    seeds: list[list[float]] = []
    for annotator, claim in sorted(
        ((annotator, claim) for annotator, found in claims.items() for claim in found), key=lambda pair: -pair[1][2]
    ):
        best, at = least, None
        for seed, cluster in zip(seeds, clusters, strict=True):
            overlap = _overlap(seed, claim[1])
            if overlap >= best and annotator not in cluster:
                best, at = overlap, cluster
        if at is None:
            seeds.append(claim[1])
            clusters.append({annotator: claim})
        else:
            at[annotator] = claim
    return clusters


def _overlap(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / max((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared, 1e-9)


METHODS: dict[str, Callable[[Request], Rows]] = {
    "datumaro": intersect_merge,
    "panoptes": panoptes,
    "crowd-kit": crowd_kit,
    "detection-fusion": detection_fusion,
}


def main() -> None:
    """Answer requests until the input ends; what packages print goes to the error output."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    method = METHODS[sys.argv[1]]
    for line in sys.stdin:
        try:
            answer: Any = method(json.loads(line))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
