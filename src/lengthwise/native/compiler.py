"""From a C file to a library in memory: find the compiler, compile once, keep the result."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from lengthwise.paths import default_cache_dir

_INCLUDE = Path(__file__).with_name("include")
# No -ffast-math: it may reorder sums, and `exp_f` needs its roundings as written.
_FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
_SECONDS = 120
_QUOTED = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)


@cache
def compiler() -> tuple[str, ...] | None:
    """The command of a C compiler that makes code for this machine: $CC, cc, gcc or clang; None where there is none."""
    for candidate in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        words = shlex.split(candidate)
        if not words or shutil.which(words[0]) is None:
            continue
        for native in ("-march=native", "-mcpu=native"):  # the latter on some ARM compilers
            if _compiles((*words, native)):
                return (*words, native)
    return None


def _compiles(command: Sequence[str]) -> bool:
    """Whether the command can make a shared library that includes our header."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.c"
        source.write_text('#include "numbers.h"\nfloat probe(float x) { return exp_f(x); }\n')
        done = subprocess.run(_command(command, source, Path(folder) / "probe.so"), capture_output=True)
        return done.returncode == 0


def _command(words: Sequence[str], source: Path, target: Path) -> list[str]:
    return [*words, *_FLAGS, f"-I{_INCLUDE}", "-o", str(target), str(source)]


@cache
def _fingerprint(command: tuple[str, ...]) -> str:
    """What decides the code a compiler makes, apart from the source: its version, the flags, the processor."""
    version = subprocess.run([*command, "--version"], capture_output=True, text=True).stdout
    processor = platform.processor() + platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        wanted = ("model name", "flags", "Features", "CPU part")
        lines = info.read_text().split("\n\n", 1)[0].splitlines()
        processor += "".join(line for line in lines if line.startswith(wanted))
    headers = "".join(path.read_text() for path in sorted(_INCLUDE.glob("*.h")))
    return "\x1f".join([version, *command, *_FLAGS, processor, headers])


def load(source: Path, functions: Mapping[str, Sequence[Any]]) -> ctypes.CDLL | None:
    """The functions of a C file, ready to be called; compiled where this machine has not done so before.

    Args:
        source: the C file.
        functions: name and ctypes argument types of each function; all return nothing.

    Returns:
        The library, or None where no compiler is found or the file does not compile (with one warning that says why).
    """
    command = compiler()
    if command is None:
        return None
    try:
        library = ctypes.CDLL(str(_compiled(source, command)))
    except (OSError, subprocess.SubprocessError) as error:
        warnings.warn(f"{source.name} could not be compiled, its torch form is used instead: {error}", stacklevel=2)
        return None
    for name, arguments in functions.items():
        function = getattr(library, name)
        function.argtypes, function.restype = list(arguments), None
    return library


def _compiled(source: Path, command: tuple[str, ...]) -> Path:
    """The shared library of a source file, from the cache or made now."""
    key = hashlib.sha256("\x1f".join([_fingerprint(command), *_texts(source)]).encode()).hexdigest()[:24]
    folder = default_cache_dir() / "native"
    target = folder / f"{source.parent.name}-{source.stem}-{key}.so"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    # Two processes may compile at once: each writes a file of its own, and the last rename wins with the same content.
    partial = folder / f".{target.stem}.{os.getpid()}.so"
    done = subprocess.run(_command(command, source, partial), capture_output=True, text=True, timeout=_SECONDS)
    if done.returncode != 0:
        partial.unlink(missing_ok=True)
        raise OSError(done.stderr.strip()[:2000] or f"{command[0]} ended with {done.returncode}")
    os.replace(partial, target)
    return target


def _texts(source: Path) -> list[str]:
    """The text of a C file and of the headers it includes by a path of its own, those they include, and so on."""
    seen: dict[Path, str] = {}
    waiting = [source.resolve()]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen[path] = path.read_text(encoding="utf-8")
        named = (path.parent / name for name in _QUOTED.findall(seen[path]))
        waiting += [header.resolve() for header in named if header.exists()]
    return list(seen.values())
