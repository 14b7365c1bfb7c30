"""Calling a kernel from several threads, each with a share of the work."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch


@cache
def _pool(size: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(size, thread_name_prefix="lengthwise-native")


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
    waiting = [_pool(threads - 1).submit(task, edges[i], edges[i + 1]) for i in range(1, threads)]
    task(edges[0], edges[1])
    for future in waiting:
        future.result()
