"""Sizes: of numbers, and as people read them."""

FLOAT_BYTES = 4
"""Bytes of a number in float32, in which states, activations and losses are held unless another type is asked for."""


def human_bytes(count: int) -> str:
    """A number of bytes in the unit that leaves one to three digits before the point."""
    size = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if round(size, 1) < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
