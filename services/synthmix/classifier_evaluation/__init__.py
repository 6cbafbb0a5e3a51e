"""Classifier evaluation: mixtures of real and synthetic images, a classifier for each, metrics and statistics.

front_end             the gRPC service; imports no torch
planning              what a request means: defaults, checks, canonical form, trials
evaluation_operation  one operation: a task for each trial that is not there yet, then the results
mixtures              what a classifier trains on; the kinds themselves are in image_data
trial_requests        what a trial is addressed by, and how long it is
trials, recipe        one trial: data in, training, predictions out
image_fidelity        how near image sets come to real images, by image_features; reconstructions is a part of it
feature_networks      which network that goes by, checked without torch; network_features, what it makes of images
timm_networks         networks of timm, for classifiers and for features
score_planning        what a request for a score of an image set means; score_operation, its operation
image_set_score       how well an image set shows its classes, without the test part
results               what the evaluation says, from the predictions that trials stored
metrics               one entry each
paired_comparison     paired differences, intervals, the verdict
"""
