"""Linear attention with one decay for each key channel: what GLA and RWKV-6 have in common. Private; see the README."""

from lengthwise.ops._vector_decay.operation import vector_decay

__all__ = ["vector_decay"]
