"""BABILong: bAbI questions whose facts are scattered through books; see docs/tasks/babilong.md."""

from lengthwise.tasks.babilong.books import Books, read_books
from lengthwise.tasks.babilong.config import NOMINAL_LENGTHS, BabilongConfig, nominal_length
from lengthwise.tasks.babilong.task import BabilongTask, babilong_tasks, published_questions

__all__ = [
    "NOMINAL_LENGTHS",
    "BabilongConfig",
    "BabilongTask",
    "Books",
    "babilong_tasks",
    "nominal_length",
    "published_questions",
    "read_books",
]
