"""Is the tuned model worth adopting? Arms are asked, answers scored, differences tested, a verdict given.

setup       from a command's options to what is compared
held_out    the test items, and what the arms may have seen
comparing   asking every arm the same, and scoring what it says
notes       what to mind about what was asked and answered
verdict     the decision rule
thresholds  what the tuned model must reach
apparatus   checks of the measuring itself
history     how the verdict moved since the last comparison
"""
