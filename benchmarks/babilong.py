"""What a BABILong sample of a million tokens costs: time, and memory beyond that of a sample a tenth as long."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks._common import child, peak_mb

SHARED = Path(__file__).parents[2] / "shared" / "data"
TOKENIZER = SHARED / "tokenizers" / "20B_tokenizer.json.xz"
BOOKS = SHARED / "text" / "books_val.jsonl.xz"
LENGTH, SHORTER = 1_000_000, 100_000
ROUNDS, SECONDS_BAR, GROWTH_BAR = 3, 5.0, 64.0
# Facts of the form of bAbI's qa1, for machines without its files; the rest of a sample is the same.
FACTS = "1 Mary went to the bathroom.\n2 John moved to the hallway.\n3 Where is Mary? \tbathroom\t1\n"


def run() -> dict[str, Any]:
    """Samples of both lengths, each in a process of its own; the least time of several rounds."""
    longer = [child("babilong", LENGTH) for _ in range(ROUNDS)]
    shorter = child("babilong", SHORTER)
    best = min(longer, key=lambda result: result["seconds"])
    growth = max(result["peak_mb"] for result in longer) - shorter["peak_mb"]
    exact = all(result["exact"] for result in [*longer, shorter])
    return {
        "seconds": best["seconds"],
        "seconds_of_rounds": [result["seconds"] for result in longer],
        "cpu_seconds": best["cpu_seconds"],
        "reading_seconds": best["reading_seconds"],
        "peak_mb": best["peak_mb"],
        "shorter_peak_mb": shorter["peak_mb"],
        "growth_mb": growth,
        "exact": exact,
        "bar_seconds": SECONDS_BAR,
        "bar_growth_mb": GROWTH_BAR,
        "holds": exact and best["seconds"] <= SECONDS_BAR and growth <= GROWTH_BAR,
        "line": f"{LENGTH:,} tokens ({best['counted_with']}) in {best['seconds']:.2f} s, reading books and tokenizer "
        f"included ({best['cpu_seconds']:.2f} s of processor time), at most {SECONDS_BAR} s; peak "
        f"{best['peak_mb']:.0f} MB, {growth:+.0f} MB against a tenth of the length, at most {GROWTH_BAR:+.0f} MB; "
        + ("exact" if exact else "NOT EXACT"),
        "setting": {
            "counted_with": best["counted_with"],
            "books": best["books"],
            "questions": best["questions"],
            "work": "reading books and tokenizer, building one qa1 sample, writing its prompt piece by piece",
            "exact": "the pieces that were written are counted again, without any count that was known",
            "statistic": f"least of {ROUNDS} processes",
        },
    }


def measure(length: int) -> dict[str, Any]:
    """One sample in this process."""
    import tempfile

    from lengthwise.data.tokenizers import load_tokenizer
    from lengthwise.tasks.babilong import BabilongConfig, BabilongTask
    from lengthwise.tasks.counting import count_tokens

    full = TOKENIZER.is_file() and BOOKS.is_file()
    with tempfile.TemporaryDirectory() as folder:
        babi = SHARED / "babilong"
        if not babi.is_dir():
            babi = Path(folder)
            (babi / "qa1_single-supporting-fact_test.txt").write_text(FACTS)
        begin, begin_cpu = time.perf_counter(), time.process_time()
        tokenizer = load_tokenizer(TOKENIZER if full else "bytes")
        task = BabilongTask(BabilongConfig(task="qa1", babi=str(babi), books=str(BOOKS) if full else "python"))
        task.parameters()  # reads everything that all samples share
        reading = time.perf_counter() - begin
        plan = task.plan(0, length, tokenizer, seed=0)
        written = 0
        with (Path(folder) / "prompt.txt").open("w", encoding="utf-8") as file:
            for piece in plan.pieces():
                written += file.write(piece)
        seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - begin_cpu
        peak = peak_mb()
        again = count_tokens(tokenizer, plan.pieces())
        return {
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "reading_seconds": reading,
            "peak_mb": peak,
            "characters": written,
            "exact": again == plan.num_tokens == length - task.config.max_new_tokens,
            "counted_with": "GPT-NeoX tokens" if full else "BYTES: the shared tokenizer and books are not here",
            "books": BOOKS.name if full else "text of the Python installation",
            "questions": "bAbI" if (SHARED / "babilong").is_dir() else "one of bAbI's form",
        }


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
