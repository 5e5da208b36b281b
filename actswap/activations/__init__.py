"""The activations."""
