"""Classifier evaluation: mixtures of real and synthetic images, a classifier for each, metrics and statistics.

front_end             the gRPC service; imports no torch
planning              what a request means: defaults, checks, canonical form, cells
evaluation_operation  one operation: a task for each cell that isn't there yet, then the statistics
mixtures              what a classifier trains on
classifier_settings   how it is trained
cell_requests         what a cell is addressed by
cells, recipe         one cell: data in, training, metrics out
statistics            paired differences, intervals, the verdict
"""
