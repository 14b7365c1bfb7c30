"""Passkey retrieval; see docs/tasks/passkey.md."""

from lengthwise.tasks.passkey.task import DEPTHS, VARIANTS, PasskeyConfig, PasskeyTask, passkey_tasks
from lengthwise.tasks.passkey.wording import PasskeyWording, read_wording

__all__ = [
    "DEPTHS",
    "VARIANTS",
    "PasskeyConfig",
    "PasskeyTask",
    "PasskeyWording",
    "passkey_tasks",
    "read_wording",
]
