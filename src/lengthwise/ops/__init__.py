"""Recurrences, one folder each: a naive sequential oracle, a fast form, and the mathematics beside them."""
