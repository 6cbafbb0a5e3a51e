"""Import of an uploaded ZIP as a dataset: what is in it, whose group each image is, and what must not be.

Modules, in the order in which an archive passes through them: archive (is it safe to read), listing (which
file is which class), groups (which chip, plate or patient), importer (decode, duplicates, write).
"""
