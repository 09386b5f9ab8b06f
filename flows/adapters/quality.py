"""Great Expectations over a round's labels: before they are published, and again as DVC's first stage.

The suites are data: expectations/*.json, one for each table of `quality_tables.TABLES`. docs/expectations.md is for
people who edit them.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from florence.config import Settings
from florence.errors import DataError, SettingsError, ValidationFailedError
from florence.rounds import list_rounds
from florence.store import Store
from flows.adapters.data_docs import make_offline
from flows.adapters.quality_tables import TABLES, make_tables, schema_table

if TYPE_CHECKING:
    import pandas as pd

DOCS = "build/data_docs"
METRICS = "metrics/validation.json"
FOLDER = "expectations"
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """The result of one table's expectations: how many there are, how many were met, and a line about each failure.

    ``failures`` stop a run; ``warnings`` are of expectations whose severity is warning or info.
    """

    table: str
    rows: int
    expectations: int
    passed: int
    failures: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def validate_staging(settings: Settings, store: Store, round: int, root: Path) -> dict[str, Any]:
    """Check the labels of ``round`` in the working store before they are published; return the counts.

    Raises ValidationFailedError naming each expectation that was not met, SettingsError for a suite that is wrong.
    Builds Data Docs either way.
    """
    return _validate(f"round {round} before publishing", settings, store, round, root)


def validate_snapshot(settings: Settings, data: Store, root: Path) -> dict[str, Any]:
    """Check the last round of the snapshot in ``data``; write the counts to metrics/validation.json and return them.

    Raises DataError where there is no snapshot, otherwise as `validate_staging`.
    """
    rounds = list_rounds(data)
    if not rounds:
        raise DataError(
            f"{data.uri} holds no labels: `florence loop` makes a snapshot, "
            "`dvc pull` fetches the one that data.dvc names"
        )
    counts = _validate(f"the snapshot of round {rounds[-1]}", settings, data, rounds[-1], root)
    Store(str(root)).write_json(METRICS, counts)
    return counts


def _validate(where: str, settings: Settings, store: Store, round: int, root: Path) -> dict[str, Any]:
    suites = read_suites(root / FOLDER)
    bounds = {
        "max_drop_rate": settings.validation.max_drop_rate,
        "max_shift": settings.validation.max_shift,
        "round": round,
    }
    results: list[ValidationResult] = []
    with silence_great_expectations():
        session = ValidationSession(bounds)
        try:
            results.append(session.check("schema", schema_table(store, round), suites["schema"]))
            if not results[0].failures:
                # the other tables need columns of the right types
                results += [
                    session.check(name, frame, suites[name])
                    for name, frame in make_tables(settings, store, round).items()
                ]
        finally:
            session.build_docs(root / DOCS)
    for line in (line for table in results for line in table.warnings):
        logger.warning("validation of %s: %s", where, line)
    if failures := [line for table in results for line in table.failures]:
        raise ValidationFailedError(where, failures)
    return _counts(results)


def _counts(results: list[ValidationResult]) -> dict[str, Any]:
    return {
        "expectations": sum(table.expectations for table in results),
        "passed": sum(table.passed for table in results),
        "rows": {table.table: table.rows for table in results},
        "suites": {table.table: {"expectations": table.expectations, "passed": table.passed} for table in results},
    }


# ---------------------------------------------------------------- suites


def read_suites(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the expectations of each table. Raises SettingsError naming the file and what is wrong in it."""
    missing = [name for name in TABLES if not (folder / f"{name}.json").is_file()]
    if missing:
        raise SettingsError(
            f"{folder / missing[0]}.json does not exist, so {missing[0]} cannot be checked; "
            "`florence init` in an empty folder writes one to copy, "
            'and {"expectations": []} switches the checks of a table off'
        )
    unknown = sorted(path.name for path in folder.glob("*.json") if path.stem not in TABLES)
    if unknown:
        raise SettingsError(f"{folder / unknown[0]}: there is no table of this name; tables: {', '.join(TABLES)}")
    return {name: _read_suite(folder / f"{name}.json") for name in TABLES}


def _read_suite(path: Path) -> list[dict[str, Any]]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not JSON: {error}") from None
    items = document.get("expectations") if isinstance(document, dict) else None
    if not isinstance(items, list) or set(document) - {"name", "meta", "notes", "expectations"}:
        raise SettingsError(f'{path}: a suite is {{"name": …, "expectations": [{{"type": …, "kwargs": {{…}}}}, …]}}')
    for number, item in enumerate(items, start=1):
        if (
            not isinstance(item, dict)
            or not isinstance(item.get("type"), str)
            or not isinstance(item.get("kwargs"), dict)
        ):
            raise SettingsError(
                f'{path}: expectation {number}: "type" (a name) and "kwargs" (a mapping) are needed; found {item!r}'
            )
    return items


def _parameter_names(value: Any) -> Iterator[str]:
    """Yield every name in a ``{"$PARAMETER": name}`` within ``value``."""
    if isinstance(value, dict):
        if "$PARAMETER" in value:
            yield str(value["$PARAMETER"])
        else:
            for inner in value.values():
                yield from _parameter_names(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _parameter_names(inner)


# ---------------------------------------------------------------- Great Expectations


@contextmanager
def silence_great_expectations() -> Iterator[None]:
    """Run Great Expectations without analytics, warnings and logs; failures are explained here in plain words."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "False")
    noisy = logging.getLogger("great_expectations")
    level = noisy.level
    noisy.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        noisy.setLevel(level)


class ValidationSession:
    """One run of suites in a context of its own, of which only the Data Docs remain.

    ``parameters``: the values that $PARAMETER may name.
    """

    def __init__(self, parameters: Mapping[str, float]) -> None:
        import great_expectations as gx
        from great_expectations.data_context.types.base import (
            DataContextConfig,
            InMemoryStoreBackendDefaults,
            ProgressBarsConfig,
        )

        self.parameters = dict(parameters)
        self.results: dict[str, ValidationResult] = {}
        nowhere = InMemoryStoreBackendDefaults(init_temp_docs_sites=False)
        self.context = gx.get_context(
            mode="ephemeral", project_config=DataContextConfig(store_backend_defaults=nowhere, analytics_enabled=False)
        )
        self.context.variables.progress_bars = ProgressBarsConfig(globally=False)  # type: ignore[assignment]
        source = self.context.data_sources.add_pandas("florence")
        self.batches = {
            table: source.add_dataframe_asset(table).add_batch_definition_whole_dataframe("all") for table in TABLES
        }

    def check(self, table: str, frame: pd.DataFrame, items: list[dict[str, Any]]) -> ValidationResult:
        """Check ``frame`` against the expectations ``items``. Raises SettingsError for an expectation that is wrong."""
        import great_expectations as gx

        suite = gx.ExpectationSuite(name=table, expectations=[self._expectation(table, frame, item) for item in items])
        definition = self.context.validation_definitions.add_or_update(
            gx.ValidationDefinition(
                name=table, data=self.batches[table], suite=self.context.suites.add_or_update(suite)
            )
        )
        run = definition.run(
            batch_parameters={"dataframe": frame}, expectation_parameters=self.parameters, result_format="SUMMARY"
        )
        lines: dict[bool, list[str]] = {True: [], False: []}
        for result in run.results:
            if not result.success:
                config: Any = result.expectation_config
                stops = getattr(config.severity, "value", config.severity) not in ("warning", "info")
                lines[stops].append(_format_failure(table, frame, config, result))
        failed = len(lines[True]) + len(lines[False])
        self.results[table] = ValidationResult(
            table, len(frame), len(items), len(items) - failed, tuple(sorted(lines[True])), tuple(sorted(lines[False]))
        )
        return self.results[table]

    def _expectation(self, table: str, frame: pd.DataFrame, item: dict[str, Any]) -> Any:
        from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
        from great_expectations.expectations.registry import list_registered_expectation_implementations

        where = f"{FOLDER}/{table}.json: {item['type']}"
        known = list_registered_expectation_implementations()
        if item["type"] not in known:
            near = difflib.get_close_matches(item["type"], known, 1)
            raise SettingsError(
                f"{where}: there is no such expectation" + (f"; did you mean {near[0]}?" if near else "")
            )
        for name in _parameter_names(item["kwargs"]):
            if name not in self.parameters:
                raise SettingsError(f"{where}: unknown $PARAMETER {name!r}; known: {', '.join(self.parameters)}")
        for name in _column_names(item["kwargs"]):
            if name not in frame.columns:
                raise SettingsError(f"{where}: the table has no column {name!r}; it has: {', '.join(frame.columns)}")
        try:
            return ExpectationConfiguration(**item).to_domain_obj()
        except Exception as error:  # of many types, from pydantic's to TypeError
            raise SettingsError(f"{where}: {' '.join(str(error).split())}") from None

    def build_docs(self, folder: Path) -> None:
        """Write the pages about all checks of this session to ``folder``, in place of earlier pages.

        They need no network.
        """
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder.resolve())}
        builder = {
            "class_name": "SiteBuilder",
            "store_backend": store,
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        }
        self.context.add_data_docs_site("local_site", builder)  # type: ignore[arg-type]
        self.context.build_data_docs()
        counts = {table: (found.expectations, found.passed) for table, found in self.results.items()}
        make_offline(
            folder, counts, [line for found in self.results.values() for line in (*found.failures, *found.warnings)]
        )


def _column_names(kwargs: Mapping[str, Any]) -> list[str]:
    """Return the columns that an expectation is about."""
    found = [kwargs[key] for key in ("column", "column_A", "column_B") if isinstance(kwargs.get(key), str)]
    listed = kwargs.get("column_list")
    return found + [name for name in (listed if isinstance(listed, list) else []) if isinstance(name, str)]


# ---------------------------------------------------------------- messages


def _format_failure(table: str, frame: pd.DataFrame, config: Any, result: Any) -> str:
    """Return what was expected of ``table`` and what was found, with one row as an example."""
    line = f"{table}: {config.type}({_format_kwargs(config.kwargs)})"
    found = result.result
    if result.exception_info and (error := _exception_message(result.exception_info)):
        line += f" could not be computed: {error}"
    elif "element_count" in found:
        of = f"{found['unexpected_count']} of {found['element_count']} rows unexpected"
        line += f" – {of}{_format_example(table, frame, config.kwargs, found)}"
    else:
        line += f" – {_format_found(found)}"
    return line + (f". {config.notes}" if config.notes else "")


def _format_kwargs(kwargs: Mapping[str, Any]) -> str:
    """Return an expectation's arguments: its columns, its other values, its condition on rows."""
    columns = _column_names(kwargs)
    others = {
        key: value
        for key, value in sorted(kwargs.items())
        if value not in columns and key not in ("batch_id", "column_list", "row_condition")
    }
    where = [f"where {_format_condition(kwargs['row_condition'])}"] if kwargs.get("row_condition") else []
    return ", ".join([*columns, *(f"{key}={_format_value(value)}" for key, value in others.items()), *where])


def _format_condition(value: Any) -> str:
    """Return a condition on rows in words."""
    if not isinstance(value, dict) or value.get("type") not in ("comparison", "nullity", "and", "or"):
        return _format_value(value)
    if value["type"] in ("and", "or"):
        return f" {value['type']} ".join(_format_condition(part) for part in value["conditions"])
    name = value["column"]["name"]
    if value["type"] == "nullity":
        return f"{name} is {'' if value['is_null'] else 'not '}null"
    return f"{name} {value['operator']} {_format_value(value['parameter'])}"


def _format_value(value: Any) -> str:
    plain = value.item() if hasattr(value, "item") else value
    text = plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False, default=str)
    return text if len(text) <= 160 else text[:157] + "…"


def _format_example(table: str, frame: pd.DataFrame, kwargs: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    index = found.get("partial_unexpected_index_list")
    values = found.get("partial_unexpected_list")
    if not values:
        return ""
    if index is None or not len(index) or isinstance(index[0], dict):
        return f", e.g. {_format_value(values[0])}"
    row = frame.loc[index[0]]
    columns = [c for c in _column_names(kwargs) if c != TABLES[table]]
    shown = ", ".join(_format_value(None if row[c] is None or row[c] != row[c] else row[c]) for c in columns)
    return f", e.g. {shown + ' ' if shown else ''}({TABLES[table].removesuffix('_id')} {row[TABLES[table]]})"


def _format_found(found: Mapping[str, Any]) -> str:
    """Return the value found for a whole table or column, or the unexpected and missing members of a set."""
    sets = {"unexpected": found.get("partial_unexpected_list"), "missing": found.get("partial_missing_list")}
    differences = [f"{key}: {_format_value(list(values))}" for key, values in sets.items() if values]
    return "; ".join(differences) if differences else f"found {_format_value(found.get('observed_value'))}"


def _exception_message(info: Mapping[str, Any]) -> str:
    """Return the message of an exception within Great Expectations (nested by metric if a metric raised it), or ""."""
    if "raised_exception" in info:
        return str(info.get("exception_message") or "") if info["raised_exception"] else ""
    return next(
        (text for inner in info.values() if isinstance(inner, Mapping) and (text := _exception_message(inner))), ""
    )
