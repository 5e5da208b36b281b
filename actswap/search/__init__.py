"""Search for activation functions: the space and the method of Ramachandran et al. 2017, on Optuna."""
