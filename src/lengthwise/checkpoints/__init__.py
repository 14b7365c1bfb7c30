"""Checkpoints on disk: bytes <-> model, in every published format of the families."""

from lengthwise.checkpoints.checkpoint import Checkpoint
from lengthwise.checkpoints.load import Description, describe, load_checkpoint, recognise
from lengthwise.checkpoints.save import replace_checkpoint, save_checkpoint
from lengthwise.checkpoints.shipped import list_shipped, shipped_folder

__all__ = [
    "Checkpoint",
    "Description",
    "describe",
    "list_shipped",
    "load_checkpoint",
    "recognise",
    "replace_checkpoint",
    "save_checkpoint",
    "shipped_folder",
]
