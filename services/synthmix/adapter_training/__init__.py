"""Adapter training: low-rank weights trained on a train split against a frozen base model.

front_end          the gRPC service; imports no torch
planning           what a request means: defaults, checks, canonical form
adapter_operation  one operation: what the autoencoder leaves of train images, and a training, each a task on a worker
autoencoder_check  the first of them
recipe             the training loop
checkpoints        its state in object storage
"""
