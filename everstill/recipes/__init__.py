"""Recipes: streams that the demo can run on, one module each. `find` imports the one that is asked for, and what it needs."""

import importlib
import importlib.util

from everstill.recipes.recipe import Recipe
from protos.errors import ConfigurationError, UnavailableError

#: In the order in which they are shown; the first is the default.
NAMES = ("filetypes", "clinc150", "nsl_kdd", "digits")
#: Packages by recipe that the core does without: looked for before a recipe's module is imported.
PACKAGES = {"clinc150": ("tokenizers",), "digits": ("sklearn", "skl2onnx"), "filetypes": ("magika",)}


def find(name: str) -> Recipe:
    """Return a recipe.

    Raises:
        ConfigurationError: there is none of that name. UnavailableError: a package that it needs is not installed.
    """
    if name not in NAMES:
        raise ConfigurationError(f"there is no recipe {name!r}", fix=f"Name one of {', '.join(NAMES)}")
    missing = [package for package in PACKAGES.get(name, ()) if importlib.util.find_spec(package) is None]
    if missing:
        raise UnavailableError(
            f"the recipe {name} needs {', '.join(missing)}", fix="Install everstill[serving,loop,demo]"
        )
    recipe: Recipe = importlib.import_module(f"everstill.recipes.{name}").RECIPE
    return recipe
