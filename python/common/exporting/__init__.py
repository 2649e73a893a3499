"""What a finished run becomes elsewhere: merged weights, and files that servers read.

plan        what an export will be, checked before any weight is loaded
merged      LoRA written into the weights of its base, saved, read back and compared
turns       what a chat template writes between two turns, learned from its own output
ollama      Modelfiles: the template in Go's language, stops, parameters
serving     the lines that start servers and converters
making      the export folder: all of it, or nothing
"""
