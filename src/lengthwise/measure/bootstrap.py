"""Bootstrap intervals over documents.

Documents are the unit of resampling: the losses within one document depend on one another, so tokens are not. Where a
document gave several sequences they are kept together.

Two things are done beyond the percentile bootstrap:

- **Few documents.** Resampling n values spreads them by sqrt((n - 1) / n) too little, and normal tails are too thin for
  a spread that is itself estimated. Deviations from the point estimate are therefore stretched by
  ``sqrt(n / (n - 1)) * t[n - 1] / z``: 1.03 at 64 documents, 1.19 at 8, 1.84 at 3.
- **Many bins.** A statement "in some bin the ratio exceeds the tolerance" looks at the largest of many noisy numbers.
  `simultaneous_low` gives lower bounds that hold for all bins together, from the bootstrap distribution of the largest
  studentised deviation, which takes the dependence between bins into account.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from lengthwise.seeds import numpy_rng
from lengthwise.shapes import Float, Int

LEVEL = 0.95


def student_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t distribution with a whole number of degrees of freedom.

    Inverts the closed form of the distribution function (Abramowitz and Stegun 26.7.3 and 26.7.4) by bisection.

    Args:
        probability: 0.5 < probability < 1.
        degrees: degrees of freedom, at least 1.
    """

    def within(theta: float) -> float:
        """P(|t| <= tan(theta) * sqrt(degrees))."""
        cosine_squared = math.cos(theta) ** 2
        odd = degrees % 2 == 1
        term = math.cos(theta) if odd else 1.0
        total = 0.0
        for k in range(degrees // 2):
            total += term
            term *= cosine_squared * ((2 * k + 2) / (2 * k + 3) if odd else (2 * k + 1) / (2 * k + 2))
        total *= math.sin(theta)
        return 2 / math.pi * (theta + total) if odd else total

    low, high = 0.0, math.pi / 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < 2 * probability - 1 else (low, middle)
    return math.tan(low) * math.sqrt(degrees)


def small_sample_factor(num_documents: int, level: float = LEVEL) -> float:
    """How much the deviations of a bootstrap over so few documents are stretched; see the module's text."""
    tail = (1 + level) / 2
    student = student_quantile(tail, num_documents - 1) / NormalDist().inv_cdf(tail)
    return student * math.sqrt(num_documents / (num_documents - 1))


def sum_by_document(
    table: Float[np.ndarray, "n bins"] | Int[np.ndarray, "n bins"], documents: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "documents bins"]:
    """Add up the rows that come from the same document, in the order of the document ids."""
    ids, row = np.unique(documents, return_inverse=True)
    total = np.zeros((len(ids), table.shape[1]), dtype=np.float64)
    np.add.at(total, row, table)
    return total


@dataclass(frozen=True)
class Resamples:
    """Resampled document counts, drawn once and used for every figure of a run, so that figures vary jointly.

    Args:
        weights: [resamples, documents], how often each document was drawn; None with fewer than two documents, for
            which no interval exists.
        num_documents: number of documents.
        level: two-sided confidence level.
    """

    weights: Float[np.ndarray, "resamples documents"] | None
    num_documents: int
    level: float = LEVEL

    @staticmethod
    def draw(num_documents: int, *, resamples: int = 2000, seed: int = 0, level: float = LEVEL) -> Resamples:
        """Draw the counts; with fewer than two documents there is nothing to resample."""
        if num_documents < 2:
            return Resamples(None, num_documents, level)
        rng = numpy_rng(seed, "bootstrap over documents", num_documents)
        counts = rng.multinomial(num_documents, np.full(num_documents, 1 / num_documents), size=resamples)
        return Resamples(counts.astype(np.float64), num_documents, level)

    def means(
        self, sums: Float[np.ndarray, "documents bins"], tokens: Float[np.ndarray, "documents bins"]
    ) -> Float[np.ndarray, "resamples bins"]:
        """Mean per token of every bin in every resample."""
        assert self.weights is not None
        return (self.weights @ sums) / (self.weights @ tokens)

    def interval(
        self, point: Float[np.ndarray, " bins"], resampled: Float[np.ndarray, "resamples bins"]
    ) -> tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " bins"]]:
        """Two-sided percentile interval of each bin by itself, stretched for few documents."""
        tail = (1 - self.level) / 2
        low, high = np.quantile(resampled, [tail, 1 - tail], axis=0)
        factor = small_sample_factor(self.num_documents, self.level)
        return point - factor * (point - low), point + factor * (high - point)

    def simultaneous_low(
        self, point: Float[np.ndarray, " bins"], resampled: Float[np.ndarray, "resamples bins"]
    ) -> Float[np.ndarray, " bins"]:
        """Lower bounds that are below the true values of all bins at once with probability (1 + level) / 2.

        The critical value is the upper quantile, over resamples, of the largest deviation in units of its bin's
        bootstrap standard error (the "max-t" construction). With one bin it is the ordinary one-sided bound.
        """
        deviation = resampled - point
        error = resampled.std(axis=0, ddof=1)
        scaled = np.divide(deviation, error, out=np.zeros_like(deviation), where=error > 0)
        critical = float(np.quantile(scaled.max(axis=1), (1 + self.level) / 2))
        return point - small_sample_factor(self.num_documents, self.level) * critical * error
