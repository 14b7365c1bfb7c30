"""`python -m benchmarks NAME | all`: measure a claim, print the figure and its bar, exit 0 when the bar holds."""

from __future__ import annotations

import importlib
import sys

from benchmarks._common import write

# Name of the claim: module and function. A function returns {"holds", "line", figures, "setting"}, or {"skipped": why}
# where it needs files that are not there.
CLAIMS = {
    "ssd-train-fp32": ("ssd_train", "run_fp32"),
    "ssd-train-bf16": ("ssd_train", "run_bf16"),
    "ssd-roofline": ("roofline", "run"),
    "gla-chunked": ("linear_attention", "run_gla"),
    "rwkv6-chunked": ("linear_attention", "run_rwkv6"),
    "mamba1-train": ("mamba1", "run_train"),
    "mamba1-forward": ("mamba1", "run_forward"),
    "passing-overhead": ("passing_overhead", "run"),
    "measure-stream": ("measure_stream", "run"),
    "remembrance": ("remembrance", "run"),
    "stream-all": ("stream_all", "run"),
    "checkpoint-load": ("checkpoint_load", "run"),
    "babilong-1m": ("babilong", "run"),
    "griffin": ("griffin", "run"),
    "demo": ("demo", "run"),
    "native-engine": ("evaluate", "run_engine"),
    "prefix-reuse": ("evaluate", "run_prefixes"),
    "eval-start": ("evaluate", "run_start"),
    "ruler-cold": ("ruler", "run_cold"),
    "ruler-cached": ("ruler", "run_cached"),
    "tasks-128k": ("ruler", "run_128k"),
}


def main(arguments: list[str]) -> int:
    """Run the claims named; 0 when all bars hold, 1 when one falls short, 2 for an unknown name."""
    names = list(CLAIMS) if arguments == ["all"] else arguments
    unknown = [name for name in names if name not in CLAIMS]
    if not names or unknown:
        print(
            f"expected names of claims or all; got {unknown or 'nothing'}; known: {', '.join(CLAIMS)}", file=sys.stderr
        )
        return 2
    held = []
    for name in names:
        module, function = CLAIMS[name]
        result = getattr(importlib.import_module(f"benchmarks.{module}"), function)()
        if "skipped" in result:
            print(f"{name}: skipped: {result['skipped']}", flush=True)
            continue
        path = write(name, result)
        held.append(bool(result["holds"]))
        verdict = "holds" if result["holds"] else "FALLS SHORT"
        print(
            f"{name}: {result['line']}: {verdict} (setting and figures in {path.parent.name}/{path.name})", flush=True
        )
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
