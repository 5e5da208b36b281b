"""actswap: replace the activations of a pretrained network by trainable ones that start where it is."""
