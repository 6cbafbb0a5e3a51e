"""Images in object storage: decoding, tables of images, the parts of a split, and what workers train on.

A shared library: numpy, Pillow and pyarrow, neither torch nor Ray. Nothing is imported here, so that the
client can use image_data.file_kinds, image_data.source_listing and what they use without any of them.
"""
