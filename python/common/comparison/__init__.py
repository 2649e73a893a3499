"""Is the tuned model worth adopting? Arms are asked, answers scored, differences tested, a verdict given.

setup       from a command's options to what is compared
held_out    the test items, and what the arms may have seen
comparing   asking every arm the same, and scoring what it says
verdict     the decision rule
thresholds  what the tuned model must reach
apparatus   checks of the measuring itself
history     how the verdict moved since the last comparison
"""
