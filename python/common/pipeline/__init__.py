"""Several commands, one after the other, as one work that can be interrupted and gone on with.

stages    a stage, what it depends on, and what became of it
medical   the stages of the medical methods: questions, data, three trainings, one evaluation
"""
