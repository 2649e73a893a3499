"""A better prompt for a model, found by DSPy's MIPROv2 on training rows only.

setup       from a command's options to a task: model, rows to show, rows to score on
program     what DSPy sees: one step, our messages, our arms as its language model
search      the run itself, and the JSON program it leaves

DSPy is imported here alone, and only when a search runs; its programs are read without it (generation.programs).
"""
