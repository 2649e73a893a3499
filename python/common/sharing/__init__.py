"""What leaves this machine: the model card, the files that may go along, and the hub they go to.

card       README.md in the hub's format, from the manifest, the figures and the comparison
contents   which files are published, and proof that nothing private is in them
hub        the upload, and what its errors mean
"""
