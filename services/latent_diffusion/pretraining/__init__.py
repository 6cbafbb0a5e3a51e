"""Pretraining of the embedded base model: `python -m latent_diffusion.pretraining`."""
