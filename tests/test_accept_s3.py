"""The whole loop on a real S3 server.

Images, working store, DVC remote and MLflow artifacts are in one bucket, credentials in the environment alone.
"""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from flow_workspaces import environment, florence, write_params
from PIL import Image
from s3_server import S3

from florence.images import decode_image
from florence.sources import SOURCES, SourceImage
from flows.init import create_workspace

pytestmark = [pytest.mark.accept, pytest.mark.timeout(1800)]


def upload(server: S3, prefix: str, number: int) -> None:
    """Put some of the photos of packages into the bucket."""
    client, done = server.client(), 0
    for found in SOURCES.get("samples")().images(frozenset()):
        if isinstance(found, SourceImage) and done < number:
            image = Image.fromarray(decode_image(found.data, found.name))
            image.thumbnail((160, 160))
            sink = io.BytesIO()
            image.save(sink, "JPEG")
            client.put_object(Bucket=server.bucket, Key=f"{prefix}/photo {done}.jpg", Body=sink.getvalue())
            done += 1
    assert done == number


def keys(server: S3, prefix: str) -> list[str]:
    pages = server.client().get_paginator("list_objects_v2").paginate(Bucket=server.bucket, Prefix=prefix)
    return [item["Key"] for page in pages for item in page.get("Contents", ())]


def dvc(folder: Path, *arguments: str, **env: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_the_loop_lives_in_a_bucket(s3: S3, tmp_path: Path):
    upload(s3, "photos", 8)
    folder = tmp_path / "w"
    create_workspace(folder)
    write_params(
        folder,
        store=f"s3://{s3.bucket}/store",
        tracking={"artifacts": f"s3://{s3.bucket}/mlflow"},
        annotators={
            **{name: {"sources": ["scenes"]} for name in ("careful", "hasty", "crude")},
            "seen": {"use": "activation", "weights": "lite0", "sources": ["images"]},
        },
    )
    dvc(folder, "remote", "add", "-d", "storage", f"s3://{s3.bucket}/dvc")
    done = florence(folder, "loop", "--images", f"s3://{s3.bucket}/photos", "--rounds", "1", "--verbose", **s3.env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "32 new images" in done.stdout and "pushed the snapshot" in done.stdout

    assert any(key.endswith("images-00000.parquet") for key in keys(s3, "store/images"))
    assert any(key.endswith("model.safetensors") for key in keys(s3, "mlflow"))
    assert keys(s3, "dvc/files")
    no_secrets(s3, [folder, tmp_path], done.stdout + done.stderr)

    again = florence(folder, "loop", **s3.env)
    assert again.returncode == 0 and "nothing new: 32 images" in again.stdout, again.stdout + again.stderr

    health = florence(folder, "doctor", **s3.env)
    assert "head, list, put, get, delete permitted" in health.stdout and health.returncode == 0, health.stdout
    wrong = florence(folder, "doctor", **{**s3.env, "AWS_SECRET_ACCESS_KEY": "x" * 20})
    assert wrong.returncode == 1 and "refused" in wrong.stdout
    no_secrets(s3, [folder], health.stdout + health.stderr + wrong.stdout + wrong.stderr)


def test_a_clone_pulls_what_was_pushed(s3: S3, tmp_path: Path):
    first, second = tmp_path / "first", tmp_path / "second"
    create_workspace(first)
    write_params(first)
    dvc(first, "remote", "add", "-d", "storage", f"s3://{s3.bucket}/shared")
    done = florence(first, "loop", "--rounds", "1", **s3.env)
    assert done.returncode == 0, done.stdout + done.stderr
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["add", "-A"], ["commit", "-q", "-m", "a round"]):
        subprocess.run([*git, *command], cwd=first, check=True, capture_output=True)
    subprocess.run(["git", "clone", "-q", str(first), str(second)], check=True, capture_output=True)
    assert "dvc pull" in florence(second, "doctor", **s3.env).stdout
    dvc(second, "pull", "-q", **s3.env)
    restored = florence(second, "loop", **s3.env)
    assert (
        restored.returncode == 0
        and "files were copied from data/" in restored.stdout
        and "nothing new: 24 images" in restored.stdout
    ), restored.stdout + restored.stderr


def no_secrets(server: S3, folders: list[Path], output: str) -> None:
    """Assert that the secret is in no file below ``folders`` and not in ``output``."""
    secret = server.env["AWS_SECRET_ACCESS_KEY"]
    assert secret not in output
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and server.folder not in path.parents:
                assert secret.encode() not in path.read_bytes(), path
