"""What a model is asked over long contexts: samples made on the user's machine, and their scorers."""

from lengthwise.tasks.base import Sample, Score, Task, sample_id

__all__ = ["Sample", "Score", "Task", "sample_id"]
