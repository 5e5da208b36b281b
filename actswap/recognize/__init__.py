"""From operations to sites: which calls are activations, where they stand, what they are for."""
