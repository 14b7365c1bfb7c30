"""Find out how far a sequence model really reads, and make it read further."""

__version__ = "0.1.0.dev0"
