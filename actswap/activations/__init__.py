"""Trainable activations: formula, module and starts of each, and the list of them."""
