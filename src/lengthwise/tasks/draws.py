"""Random draws that stay what they are: the same numbers on every machine and with every version of the libraries.

Only raw 64-bit words of a bit generator are used, whose streams numpy promises to keep, and everything else is made of
them here. Distributions of numpy and of the standard library may change between versions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lengthwise.seeds import derive_seed


class Draws:
    """A stream of draws that is a function of its arguments alone.

    Args:
        seed: of the run.
        purpose: what is drawn, so that two purposes have nothing in common.
        indices: numbers that tell this stream from its neighbours, such as that of a sample.
    """

    def __init__(self, seed: int, purpose: str, *indices: int) -> None:
        self._bits = np.random.PCG64(derive_seed(seed, purpose, *indices))

    def words(self, count: int) -> NDArray[np.uint64]:
        """Raw words, [count]."""
        raw: NDArray[np.uint64] = self._bits.random_raw(count)
        return raw

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """Numbers in [0, 1), [count]."""
        return as_uniforms(self.words(count))

    def integers(self, below: int, count: int) -> NDArray[np.int64]:
        """Whole numbers 0..below-1, [count]."""
        return as_integers(self.words(count), below)

    def uniform(self) -> float:
        """One number in [0, 1)."""
        return float(self.uniforms(1)[0])

    def integer(self, below: int) -> int:
        """One whole number 0..below-1."""
        return int(self.uniform() * below)

    def permutation(self, count: int) -> NDArray[np.int64]:
        """The numbers 0..count-1 in random order."""
        return np.argsort(self.words(count), kind="stable")

    def letters(self, count: int, length: int, alphabet: str) -> list[str]:
        """Strings of `length` letters, each from `alphabet`."""
        picks = self.integers(len(alphabet), count * length).tolist()
        text = "".join([alphabet[pick] for pick in picks])
        return [text[start : start + length] for start in range(0, count * length, length)]


def as_uniforms(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Numbers in [0, 1), one a raw word."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def as_integers(words: NDArray[np.uint64], below: int) -> NDArray[np.int64]:
    """Whole numbers 0..below-1, one a raw word."""
    return (as_uniforms(words) * below).astype(np.int64)


def as_uuids(words: NDArray[np.uint64]) -> list[str]:
    """Version-4 UUIDs, one a row of two raw words."""
    made = []
    pairs: list[list[int]] = words.tolist()
    for high, low in pairs:
        text = f"{high:016x}{low:016x}"
        variant = "89ab"[(low >> 60) & 3]
        made.append(f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{variant}{text[17:20]}-{text[20:]}")
    return made
