"""Calling a kernel from several threads, each with a share of the work.

The threads are those of the OpenMP library that torch itself uses, found by its name in the running process. After an
operation of torch they stay awake for a while, each on its core, waiting for the next one; other threads would have to
wait for them to give up. Where no such library is found, threads of Python do the work.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch

_Body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_Start = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)


class Team(ctypes.Structure):
    """`team` of `threads.h`, for kernels that share their work themselves."""

    _fields_ = (("start", ctypes.c_void_p), ("threads", ctypes.c_int64))


def team() -> Team:
    """As many threads as torch uses."""
    return Team(_address(_starter()), torch.get_num_threads())


def parallel(task: Callable[[int, int], None], count: int) -> None:
    """Call ``task(begin, end)`` for parts of ``range(count)``, one a thread, as many as torch uses.

    The parts are consecutive and differ by one in size at most. What a task computes must not depend on where the parts
    are cut; then the number of threads changes no result.
    """
    threads = max(1, min(torch.get_num_threads(), count))
    edges = [count * index // threads for index in range(threads + 1)]
    if threads == 1:
        task(0, count)
        return
    waiting = list(range(threads))
    failures: list[BaseException] = []

    def body(_: int | None) -> None:
        while True:  # a library may start fewer threads than asked, or more
            try:
                index = waiting.pop()
            except IndexError:
                return
            try:
                task(edges[index], edges[index + 1])
            except BaseException as failure:
                failures.append(failure)

    function = _Body(body)
    # All threads or one: a library that is asked for fewer than before ends the others.
    _starter()(_address(function), None, torch.get_num_threads(), 0)
    if failures:
        raise failures[0]


def _address(function: Any) -> int | None:
    """Where a function lies.

    `ctypes.cast` tells it too, but leaves a cycle of references behind, and with it all that a task holds until the
    garbage collector comes by.
    """
    return ctypes.c_void_p.from_buffer(function).value


@cache
def _starter() -> Any:
    """``start(body, data, count, flags)`` of `threads.h`."""
    try:
        start = ctypes.CDLL(None).GOMP_parallel  # of GNU's OpenMP; LLVM's and Intel's offer it too
    except (AttributeError, OSError, TypeError):
        return _Start(_start_threads)
    start.argtypes, start.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return start


@cache
def _pool(size: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(size, thread_name_prefix="lengthwise-native")


def _start_threads(body: int, data: int | None, count: int, flags: int) -> None:
    """The same with threads of Python."""
    call = _Body(body)
    waiting = [_pool(count - 1).submit(call, data) for _ in range(count - 1)]
    call(data)
    for future in waiting:
        future.result()
