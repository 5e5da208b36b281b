"""Proofs: do two models compute the same, is every activation accounted for, what does it cost."""
