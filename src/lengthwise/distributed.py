"""The processes of a distributed run: data parallel, gradients averaged, nothing else shared."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class World:
    """This process among those of the run; rank 0 of 1 without torchrun."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes what all ranks share."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier()

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the ranks, in place; one message for all of them.

        Every rank has the same number of rows, so the mean of means is the mean over the whole batch.
        """
        if self.size == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.size
        offset = 0
        for tensor in tensors:
            tensor.copy_(flat[offset : offset + tensor.numel()].view_as(tensor))
            offset += tensor.numel()

    def any(self, flag: bool) -> bool:
        """Whether `flag` is True on any rank; all ranks get the same answer."""
        if self.size == 1:
            return flag
        total = torch.tensor([int(flag)])
        if dist.get_backend() == "nccl":
            total = total.cuda()
        dist.all_reduce(total)
        return bool(total.item())


@contextmanager
def world_from_environment(device: torch.device, *, patience: timedelta | None = None) -> Iterator[World]:
    """The world that `torchrun` announces in the environment; joins it, and leaves it if joined here.

    Args:
        device: of this process.
        patience: how long a process waits for the others; None for torch's own 10 to 30 minutes.
    """
    if dist.is_available() and dist.is_initialized():
        yield World(dist.get_rank(), dist.get_world_size())
        return
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=patience)
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
