"""The thirteen tasks of RULER (arXiv 2404.06654) and needles at chosen depths."""
