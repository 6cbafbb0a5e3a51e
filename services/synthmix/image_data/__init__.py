"""Images in object storage: decoding, tables of images, the parts of a split, and what workers train on.

A shared library: numpy, Pillow and pyarrow, neither torch nor Ray. Nothing is imported here, so that the
client can use synthmix.image_data.sources without any of them.
"""
