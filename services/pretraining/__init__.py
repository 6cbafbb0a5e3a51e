"""Pretraining of the built-in base model: `python -m pretraining`."""
