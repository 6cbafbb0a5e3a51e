"""Import of an uploaded ZIP as a dataset: whose group each image is, and what must not be.

What an archive passes through: image_data.sources.archive (is it safe to read), image_data.sources.source_listing
(which file is which class, and what else is there), groups (which chip, plate or patient), importer (decode,
duplicates, write).
"""
