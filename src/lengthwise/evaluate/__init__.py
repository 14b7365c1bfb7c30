"""Prompt and score: tasks over lengths, for any engine, into a run folder that survives."""
