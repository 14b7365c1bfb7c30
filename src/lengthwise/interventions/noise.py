"""Initial states that are zero or Gaussian noise (arXiv 2507.02782, sections 4.2 and 4.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from lengthwise.data.readers import Batch
from lengthwise.interventions.base import InterventionBase, finite_rows, required, zero_rows
from lengthwise.state import State


class Zero(InterventionBase):
    """Every sequence starts from the zero state: ordinary training, and the control of every comparison."""

    name: ClassVar[str] = "zero"

    def initial_state(self, step: int, batch: Batch) -> State | None:
        """None, the zero state."""
        return None

    def observe(self, final_state: State) -> None:
        """Nothing is kept."""

    def stats(self) -> dict[str, int | float]:
        """Nothing to tell."""
        return {}


class RandomNoise(InterventionBase):
    """Every element of every recurrent state ~ N(0, sigma^2), fresh for each sequence (section 4.2).

    sigma is absolute, or `sigma_relative` times the std of all final-state elements of the first batch, which then
    starts from zero. The short-range part starts from zero always.
    """

    name: ClassVar[str] = "random-noise"

    def __init__(
        self,
        zero_state: Callable[[int], State],
        *,
        seed: int,
        sigma: float | None = None,
        sigma_relative: float | None = None,
        zero_prob: float = 0.0,
        slots: int = 1,
        rank: int = 0,
    ) -> None:
        super().__init__(zero_state, seed=seed, zero_prob=zero_prob, slots=slots, rank=rank)
        self._sigma = sigma
        self._sigma_relative = sigma_relative

    def initial_state(self, step: int, batch: Batch) -> State | None:
        """Noise of std sigma; None while sigma is still to be measured."""
        if self._sigma is None:
            return None
        sigma = self._sigma
        state = _started(self._zero_state(batch.tokens.shape[0]))
        gen = self.generator("noise", step, _device(state))
        state = state.map("recurrent", lambda t: torch.randn(t.shape, generator=gen, device=t.device).mul_(sigma))
        return zero_rows(state, self.coins(step, state.batch_size))

    def observe(self, final_state: State) -> None:
        """Measure sigma once when it was given as a multiple of the state's std."""
        if self._sigma is not None or self._sigma_relative is None:
            return
        finite = finite_rows(final_state)
        self._nonfinite_rows += int((~finite).sum())
        sums = [_moment_sums(t[finite]).sum(1) for _, t in final_state.named_tensors("recurrent")]
        moments = torch.stack(sums).sum(0)
        _all_reduce(moments)
        count, total, squares = moments.tolist()
        if not count:
            return  # no finite state on any rank: measure the next batch
        variance = max(squares / count - (total / count) ** 2, 0.0)
        self._sigma = self._sigma_relative * variance**0.5

    def stats(self) -> dict[str, int | float]:
        """sigma, once known, and the counters."""
        known: dict[str, int | float] = {} if self._sigma is None else {"sigma": self._sigma}
        return {**known, **super().stats()}

    def state_dict(self) -> dict[str, Tensor]:
        """sigma, once known, and the counters."""
        known = {} if self._sigma is None else {"sigma": torch.tensor(self._sigma, dtype=torch.float64)}
        return {**known, **super().state_dict()}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        super().load_state_dict(tensors)
        if "sigma" in tensors:
            self._sigma = float(tensors["sigma"])


class FittedNoise(InterventionBase):
    """Gaussian noise with the mean and variance of the final states, per layer and head (section 4.3, eq. 5 and 6).

        mean <- (1 - beta) * mean(final states) + beta * mean        variance likewise

    Mean and variance are taken over head width, state size and batch. beta weighs the OLD value. The first batch starts
    from zero and its statistics replace the (absent) old ones instead of being blended. Under torch.distributed the
    moments are all-reduced, so all ranks draw from the same distribution. A state tensor without a head axis
    ([B, channels, N]) counts as one head. With several slots the moments of an optimizer step are pooled first.
    """

    name: ClassVar[str] = "fitted-noise"

    def __init__(
        self,
        zero_state: Callable[[int], State],
        *,
        seed: int,
        beta: float = 0.1,
        zero_start_statistics: bool = False,
        zero_prob: float = 0.0,
        slots: int = 1,
        rank: int = 0,
    ) -> None:
        super().__init__(zero_state, seed=seed, zero_prob=zero_prob, slots=slots, rank=rank)
        self._beta = beta
        self._zero_start_statistics = zero_start_statistics
        self._mean: dict[str, Tensor] = {}  # tensor name -> Float64[H]
        self._variance: dict[str, Tensor] = {}
        self._slot = 0
        self._started_at_zero: Tensor | None = None  # Bool[B] of the batch in flight; None: all of them
        self._pending: dict[str, Tensor] = {}  # tensor name -> Float64[3, H]: sums of count, x, x^2 over the slots

    def initial_state(self, step: int, batch: Batch) -> State | None:
        """Noise drawn from the fitted distributions; None (zero) before the first statistics."""
        self._slot = step % self._slots
        if not self._mean:
            self._started_at_zero = None
            return None
        state = _started(self._zero_state(batch.tokens.shape[0]))
        gen = self.generator("noise", step, _device(state))
        kinds = {name for name, _ in state.named_tensors("recurrent")}

        def draw(name: str, tensor: Tensor) -> Tensor:
            if name not in kinds:
                return tensor
            mean, std = self._mean[name].float(), self._variance[name].sqrt().float()
            noise = torch.randn(tensor.shape, generator=gen, device=tensor.device)
            return noise.mul_(_per_head(std, tensor)).add_(_per_head(mean, tensor))

        coins = self.coins(step, state.batch_size)
        self._started_at_zero = coins
        return zero_rows(state.map_named(None, draw), coins)

    def observe(self, final_state: State) -> None:
        """Pool the batch's moments; after the last slot of a step, update the moving averages."""
        use = finite_rows(final_state)
        self._nonfinite_rows += int((~use).sum())
        if self._zero_start_statistics and self._started_at_zero is not None:
            use = use & self._started_at_zero.to(use.device)
        everything = bool(use.all())
        for name, tensor in final_state.named_tensors("recurrent"):
            sums = _moment_sums(tensor if everything else tensor[use])
            self._pending[name] = self._pending[name] + sums if name in self._pending else sums
        if self._slot == self._slots - 1:
            self._update()

    def _update(self) -> None:
        names = list(self._pending)
        sizes = [self._pending[name].shape[1] for name in names]
        sums = torch.cat([self._pending[name] for name in names], dim=1)
        self._pending = {}
        _all_reduce(sums)
        for name, part in zip(names, sums.split(sizes, dim=1), strict=True):
            count, total, squares = part
            if not bool((count > 0).all()):
                continue  # no sequence of this step may be counted: the old statistics stay
            mean = total / count
            variance = (squares / count - mean.square()).clamp_min(0.0)
            if name in self._mean:
                mean = (1 - self._beta) * mean + self._beta * self._mean[name]
                variance = (1 - self._beta) * variance + self._beta * self._variance[name]
            self._mean[name], self._variance[name] = mean, variance

    def stats(self) -> dict[str, int | float]:
        """Smallest and largest fitted std over layers and heads, and the counters."""
        if not self._variance:
            return super().stats()
        std = torch.cat(list(self._variance.values())).sqrt()
        return {"std_min": float(std.min()), "std_max": float(std.max()), **super().stats()}

    def state_dict(self) -> dict[str, Tensor]:
        """Means and variances per state tensor, and the counters."""
        means = {f"mean.{name}": value for name, value in self._mean.items()}
        variances = {f"variance.{name}": value for name, value in self._variance.items()}
        return {**means, **variances, **super().state_dict()}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        super().load_state_dict(tensors)
        device = _device(self._zero_state(1))
        self._mean, self._variance = {}, {}
        for key, value in tensors.items():
            if key.startswith("mean."):
                name = key.removeprefix("mean.")
                self._mean[name] = value.to(device)
                self._variance[name] = required(tensors, f"variance.{name}", self.name).to(device)


def _started(state: State) -> State:
    """The state with positions of one: at position 0 some recurrences forget what they are given (Griffin)."""
    return state.map("position", torch.ones_like)


def _moment_sums(tensor: Tensor) -> Tensor:
    """Float64[3, H]: count, sum and sum of squares per head of a state tensor [B, H, ...] or [B, channels, N].

    Reduced in float32 within a row and head, in float64 over rows: thirty times faster than a reduction of everything
    in float64. The variance it gives is good to 1e-7 * (1 + mean^2 / variance), far more than noise needs.
    """
    rows = tensor.float()
    rows = rows.flatten(2) if tensor.ndim > 3 else rows.flatten(1).unsqueeze(1)  # [B, H, elements]
    total = rows.sum(2).double().sum(0)
    squares = torch.linalg.vector_norm(rows, dim=2).double().square().sum(0)
    return torch.stack([torch.full_like(total, rows.shape[0] * rows.shape[2]), total, squares])


def _per_head(values: Tensor, like: Tensor) -> Tensor:
    """Values per head, shaped to broadcast against a state tensor; one value for a tensor without a head axis."""
    return values.view(1, -1, *([1] * (like.ndim - 2))) if like.ndim > 3 else values.view([1] * like.ndim)


def _all_reduce(sums: Tensor) -> None:
    """Add up over all ranks, in place; nothing to do in a run of one process."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(sums)


def _device(state: State) -> torch.device:
    return state.named_tensors()[0][1].device
