"""Recipe files: read, check, run."""

from actswap.recipe.recipe import RecipeError, parse, read_recipe, to_dict
from actswap.recipe.run import Prepared, RunReport, prepare, run_recipe
from actswap.recipe.tables import Recipe

__all__ = [
    "Prepared",
    "Recipe",
    "RecipeError",
    "RunReport",
    "parse",
    "prepare",
    "read_recipe",
    "run_recipe",
    "to_dict",
]
