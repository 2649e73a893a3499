"""How long a training takes and how much memory and disk, before it begins; and whether that came true.

probe      a two-layer slice of the model's very shape, to be trained for a moment on this machine
measuring  what the slice's process does: train, and measure time and memory
planning   the plan: from the slice and the lengths of the data to the whole
options    what to change where it does not fit, and what each change does
records    plans kept and found again; a finished training held against its plan
wording    the plan on the screen
"""
