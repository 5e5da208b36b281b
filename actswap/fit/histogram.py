"""Streaming histograms of pre-activations: any number of batches, bounded memory."""
