"""What a model is asked over long contexts: samples made on the user's machine, and their scorers."""

from lengthwise.tasks.base import Sample, Score, Task, sample_id
from lengthwise.tasks.library import TaskOptions
from lengthwise.tasks.registry import FAMILIES, GROUPS, expand, make_tasks
from lengthwise.tasks.store import SampleSet, prepare

__all__ = [
    "FAMILIES",
    "GROUPS",
    "Sample",
    "SampleSet",
    "Score",
    "Task",
    "TaskOptions",
    "expand",
    "make_tasks",
    "prepare",
    "sample_id",
]
