"""Getting at what a model does: the tape of one real run, and the fx graph of one module."""
