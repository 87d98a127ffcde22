"""Prints the lowest version of each requirement in pyproject.toml, as constraints for pip."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"].values()
for requirement in [*project["dependencies"], *(each for extra in extras for each in extra)]:
    if match := re.match(r"([\w.-]+)(?:\[[^]]*\])?>=([\w.]+)", requirement):
        print(f"{match[1]}=={match[2]}")
