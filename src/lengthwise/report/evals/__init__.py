"""The report of evaluations: runs of kind "eval" to tables, charts, words and a browser over single samples."""
