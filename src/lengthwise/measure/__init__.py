"""Measurements: how far a model reads, and why not further. Everything is streamed with the state carried."""

from lengthwise.measure.bins import log_bins
from lengthwise.measure.bootstrap import Resamples
from lengthwise.measure.evaluate import LengthEvaluation, evaluate_length
from lengthwise.measure.perplexity import LossTable, Perplexity, perplexity
from lengthwise.measure.verdict import DefinitionVerdict, RestartVerdict, definition_verdict, restart_verdict

__all__ = [
    "DefinitionVerdict",
    "LengthEvaluation",
    "LossTable",
    "Perplexity",
    "Resamples",
    "RestartVerdict",
    "definition_verdict",
    "evaluate_length",
    "log_bins",
    "perplexity",
    "restart_verdict",
]
