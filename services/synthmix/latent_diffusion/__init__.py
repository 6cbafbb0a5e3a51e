"""Base models: latent diffusion models in the diffusers folder layout, resolved, loaded, and the built-in one.

Adapter training and image synthesis both stand on it. `base_model` imports no torch; `loading` does, and `denoising`,
which samples.
"""
