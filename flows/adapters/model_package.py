"""A model as MLflow keeps it: code, weights, the florence package, requirements and signature."""

from __future__ import annotations

import base64
import io
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

import florence
from florence.errors import ModelError
from florence.model.checkpoint import MAX_TOKENS

REQUIREMENTS = (
    "huggingface-hub",
    "mlflow",
    "numpy",
    "opencv-python-headless",
    "pandas",
    "pillow",
    "pyarrow",
    "pydantic",
    "pyyaml",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)
"""Packages that the served model imports; MLflow would take a quarter of a minute to find them out."""
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".ckpt", ".msgpack", ".h5")


@contextmanager
def package_model(model_dir: Path, beside: tuple[Path, ...], record: Any) -> Iterator[Path]:
    """Yield a temporary folder with the model in ``model_dir``, as MLflow's ``record`` of it describes.

    ``beside``: files that are kept beside the weights.
    """
    import mlflow.pyfunc

    with tempfile.TemporaryDirectory() as folder:
        source, result, weights, served = (
            Path(folder, name) for name in ("code/florence", "packed", "model", "served.py")
        )
        copy_library(source)
        # Copies: DVC may have made links of the weights, which MLflow does not take, and it notes the path of the code.
        shutil.copytree(model_dir, weights, ignore=shutil.ignore_patterns(".*"))
        for file in beside:
            shutil.copy(file, weights)
        shutil.copy(Path(__file__).with_name("served.py"), served)
        with warnings.catch_warnings(action="ignore"):
            mlflow.pyfunc.save_model(
                str(result),
                mlflow_model=record,
                python_model=str(served),
                artifacts={"model": str(weights)},
                code_paths=[str(source)],
                pip_requirements=requirements(),
                signature=signature(read_max_tokens(weights)),
                input_example=make_example(),
            )
        for cache in result.rglob("__pycache__"):
            shutil.rmtree(cache)
        yield result


def check_model_folder(model_dir: Path) -> None:
    """Raise ModelError where ``model_dir`` is no whole model, or holds a file that may be a pickle."""
    if not (model_dir / "config.json").is_file() or not any(model_dir.glob("*.safetensors")):
        raise ModelError(f"{model_dir} holds no model (config.json and *.safetensors): `florence train` makes one")
    if bad := sorted(p.name for p in model_dir.rglob("*") if p.suffix in PICKLES):
        raise ModelError(
            f"{model_dir} holds {bad[0]}, which may be a pickle: only *.safetensors are registered; remove it"
        )


def copy_library(target: Path) -> None:
    """Copy the source of the florence package: a registered model runs with it, wherever it is loaded."""
    # The weights that come with the package would only double the registered ones.
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "tests", "*.safetensors")
    shutil.copytree(Path(florence.__file__).parent, target, ignore=ignored)


def requirements() -> list[str]:
    """Return the requirements of the served model, at the versions installed here."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS]


def make_example() -> Any:
    """Return a request: two tasks about a small picture, in base64."""
    import pandas as pd

    sink = io.BytesIO()
    Image.new("RGB", (8, 6), (200, 60, 40)).save(sink, "PNG")
    image = base64.b64encode(sink.getvalue()).decode()
    box = "<loc_0><loc_0><loc_999><loc_999>"
    return pd.DataFrame(
        [
            {"image": image, "task": "<OD>", "input": ""},
            {"image": f"data:image/png;base64,{image}", "task": "<REGION_TO_CATEGORY>", "input": box},
        ]
    )


def read_max_tokens(model_dir: Path) -> int:
    """Return the most tokens of an answer of the model in ``model_dir``, as `Checkpoint.max_tokens`."""
    file = model_dir / "generation_config.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return int(found.get("max_new_tokens") or MAX_TOKENS)


def signature(max_tokens: int) -> Any:
    """Return MLflow's signature of rows and their answers (`flows.adapters.served`).

    ``max_tokens``: of an answer, where a request does not say.

    Columns are of any type: a wrong one costs the answer of its row, not that of the request.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, Schema
    from mlflow.types import ParamSpec as Param
    from mlflow.types.schema import AnyType

    return ModelSignature(
        Schema(
            [
                ColSpec(AnyType(), "image"),
                ColSpec(AnyType(), "task"),
                ColSpec(AnyType(), "input", required=False),
            ]
        ),
        Schema(
            [
                ColSpec("string", "text"),
                ColSpec(AnyType(), "regions"),
                ColSpec("double", "score", required=False),
                ColSpec("double", "confidence", required=False),
                ColSpec("boolean", "truncated"),
                ColSpec("string", "error"),
            ]
        ),
        ParamSchema([Param("max_tokens", DataType.long, max_tokens)]),
    )
