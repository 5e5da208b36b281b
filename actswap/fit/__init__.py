"""Numerics on NumPy arrays: what a trainable activation should start from to be close to another function.

Arrays go in, frozen results come out; nothing here imports torch, and the same inputs give the same bits.
"""
