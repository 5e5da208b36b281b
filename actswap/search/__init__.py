"""Search for activation functions: the space and the method of Ramachandran et al. 2017, on Optuna."""

from actswap.errors import UsageError

try:
    import optuna as _optuna  # noqa: F401
except ImportError as error:
    raise UsageError("a search needs Optuna", why=str(error), fix="pip install 'actswap[search,tune]'") from error
