"""Results of many runs as tables that DuckDB queries: `runs`, `cells`, `samples`, `positions`.

| table | one row is | of runs |
|---|---|---|
| runs | a run folder | all |
| cells | a task at a length: mean, interval, counts | eval |
| samples | an answer, read from samples.jsonl as the query needs it; a failed one has score 0 | eval |
| positions | a bin of positions: perplexity and its interval | measure |

DuckDB is the extra `sql`; it is imported when a query is made.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lengthwise.errors import InputError
from lengthwise.evaluate.records import sample_files
from lengthwise.report.evals.records import EvalGroup
from lengthwise.report.load import load_groups
from lengthwise.runs import RunFolder

if TYPE_CHECKING:
    import duckdb

RUNS = {
    "run": "VARCHAR",
    "kind": "VARCHAR",
    "status": "VARCHAR",
    "model": "VARCHAR",
    "label": "VARCHAR",
    "started": "TIMESTAMP",
    "finished": "TIMESTAMP",
    "path": "VARCHAR",
    "config": "JSON",
    "manifest": "JSON",
}
CELLS = {
    "run": "VARCHAR",
    "name": "VARCHAR",
    "model": "VARCHAR",
    "task": "VARCHAR",
    "length": "BIGINT",
    "score": "DOUBLE",
    "low": "DOUBLE",
    "high": "DOUBLE",
    "count": "BIGINT",
    "failures": "BIGINT",
    "published": "DOUBLE",
}
POSITIONS = {
    "run": "VARCHAR",
    "name": "VARCHAR",
    "start": "BIGINT",
    "end": "BIGINT",
    "perplexity": "DOUBLE",
    "low": "DOUBLE",
    "high": "DOUBLE",
    "tokens": "BIGINT",
}
SAMPLES = {
    "id": "VARCHAR",
    "task": "VARCHAR",
    "length": "BIGINT",
    "index": "BIGINT",
    "num_tokens": "BIGINT",
    "max_new_tokens": "BIGINT",
    "prompt_sha256": "VARCHAR",
    "prompt_head": "VARCHAR",
    "prompt_tail": "VARCHAR",
    "answers": "VARCHAR[]",
    "meta": "JSON",
    "continuation": "BOOLEAN",
    "num_prompt_tokens_seen": "BIGINT",
    "output": "VARCHAR",
    "output_tokens": "BIGINT[]",
    "finish": "VARCHAR",
    "error": "VARCHAR",
    "logprob": "DOUBLE",
    "score": "DOUBLE",
    "scorer": "VARCHAR",
    "scores": "MAP(VARCHAR, DOUBLE)",
}
"""Keys of a line of samples.jsonl, and their types."""
TABLES = {
    "runs": RUNS,
    "cells": CELLS,
    "samples": {"run": "VARCHAR", **SAMPLES, "failed": "BOOLEAN"},
    "positions": POSITIONS,
}
"""Columns of the tables."""


@dataclass(frozen=True)
class Answer:
    """What a query gave: names of columns, and rows of plain values."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def query(runs: Sequence[str | Path], sql: str) -> Answer:
    """Ask something of run folders.

    Args:
        runs: folders of any kind.
        sql: a statement in DuckDB's SQL over `runs`, `cells`, `samples` and `positions`.

    Raises:
        InputError: DuckDB is not installed, a run cannot be read, or the statement is wrong.
    """
    duckdb = _duckdb()
    connection = duckdb.connect(":memory:", config={"autoinstall_known_extensions": "false"})
    try:
        _fill(connection, [RunFolder.open(path) for path in runs])
        try:
            result = connection.execute(sql)
            columns = tuple(column[0] for column in result.description or ())
            return Answer(columns, tuple(result.fetchall()))
        except duckdb.Error as error:
            raise _wrong(error, sql) from error
    finally:
        connection.close()


def _duckdb() -> Any:
    try:
        import duckdb
    except ImportError as error:
        raise InputError(
            expected="DuckDB, which answers --sql",
            got=str(error),
            where="--sql",
            fix="pip install 'lengthwise[sql]', or read samples.jsonl with a tool of your own",
        ) from error
    return duckdb


def _wrong(error: Exception, sql: str) -> InputError:
    """DuckDB's complaint in four parts; the columns are named, because a wrong name is the usual cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("LINE ", "^"))]
    columns = "; ".join(f"{table}({', '.join(names)})" for table, names in TABLES.items())
    return InputError(
        expected="a statement in DuckDB's SQL over the tables runs, cells, samples and positions",
        got=" ".join(told)[:300],
        where=f"--sql {' '.join(sql.split())[:120]!r}",
        fix=f"the tables have these columns: {columns}",
    )


def _fill(connection: duckdb.DuckDBPyConnection, runs: Sequence[RunFolder]) -> None:
    """Make the tables. `samples` is a view: a query reads of the files what it needs."""
    names = _names(runs)
    for table in ("runs", "cells", "positions"):
        columns = ", ".join(f'"{name}" {kind}' for name, kind in TABLES[table].items())
        connection.execute(f"CREATE TABLE {table} ({columns})")
    _insert(connection, "runs", [_run_row(run, name) for run, name in zip(runs, names, strict=True)])
    parts = []
    for run, name in zip(runs, names, strict=True):
        kind = run.manifest.get("kind")
        if kind == "eval" and (files := sample_files(run)):
            _insert(connection, "cells", _cell_rows(run, name))
            parts.append(_select(name, [str((run.path / file).resolve()) for file in files]))
        if kind == "measure" and run.read_json("summary.json") is not None:
            _insert(connection, "positions", _position_rows(run, name))
    empty = ", ".join(f'NULL::{kind} AS "{column}"' for column, kind in TABLES["samples"].items())
    connection.execute("CREATE VIEW samples AS " + (" UNION ALL ".join(parts) or f"SELECT {empty} WHERE false"))


def _names(runs: Sequence[RunFolder]) -> list[str]:
    """Folders' names, the whole path where two are the same."""
    short = [run.path.resolve().name for run in runs]
    return [name if short.count(name) == 1 else str(run.path) for name, run in zip(short, runs, strict=True)]


def _insert(connection: duckdb.DuckDBPyConnection, table: str, rows: list[tuple[Any, ...]]) -> None:
    if rows:
        marks = ", ".join("?" for _ in rows[0])
        connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _select(name: str, files: list[str]) -> str:
    """One run's answers. An answer that occurs in two parts counts once.

    Any line that is no answer is left out, wherever it stands: most often a last one that a kill has torn.
    """
    columns = ", ".join(f"{_quoted(column)}: {_quoted(kind)}" for column, kind in SAMPLES.items())
    read = f"read_json([{', '.join(map(_quoted, files))}], format = 'newline_delimited', columns = {{{columns}}}, "
    read += "ignore_errors = true, maximum_object_size = 268435456)"
    once = f"SELECT DISTINCT ON (id) * FROM {read} WHERE id IS NOT NULL" if len(files) > 1 else f"SELECT * FROM {read}"
    counted = "* REPLACE (coalesce(score, 0) AS score), score IS NULL AS failed"
    return f"SELECT {_quoted(name)} AS run, {counted} FROM ({once}) WHERE id IS NOT NULL"


def _run_row(run: RunFolder, name: str) -> tuple[Any, ...]:
    manifest = run.manifest
    config = manifest.get("config") or {}
    texts = [config.get(key) if isinstance(config.get(key), str) else None for key in ("model", "label")]
    return (
        name,
        manifest.get("kind"),
        manifest.get("status"),
        *texts,
        manifest.get("started"),
        manifest.get("finished"),
        str(run.path),
        json.dumps(config),
        json.dumps(manifest),
    )


def _cell_rows(run: RunFolder, name: str) -> list[tuple[Any, ...]]:
    (group,) = load_groups([run.path])
    assert isinstance(group, EvalGroup)
    model = group.models[0]
    return [
        (
            name,
            model.name,
            model.model,
            task,
            length,
            mean.value,
            mean.low,
            mean.high,
            mean.count,
            mean.failures,
            _share(model.published.score(task, length)) if model.published else None,
        )
        for (task, length), mean in model.cells.items()
    ]


def _share(percent: float | None) -> float | None:
    return None if percent is None else percent / 100


def _position_rows(run: RunFolder, name: str) -> list[tuple[Any, ...]]:
    (group,) = load_groups([run.path])
    assert not isinstance(group, EvalGroup)
    model = group.models[0]
    return [(name, model.name, b.start, b.end, b.value, b.low, b.high, b.tokens) for b in model.perplexity or ()]
