"""Mixers, one a file, and the norms they share."""
