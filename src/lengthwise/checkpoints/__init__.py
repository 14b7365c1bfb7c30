"""Checkpoints on disk: bytes <-> model."""

from lengthwise.checkpoints.folder import Checkpoint, load_checkpoint, save_checkpoint
from lengthwise.checkpoints.shipped import list_shipped, shipped_folder

__all__ = ["Checkpoint", "list_shipped", "load_checkpoint", "save_checkpoint", "shipped_folder"]
