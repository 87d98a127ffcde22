"""Prints the lowest version of each requirement in pyproject.toml, as constraints for pip.

Those that only a benchmark needs are left out.
"""

import re
import tomllib
from pathlib import Path

LEFT_OUT = ("bench",)
project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
tested = [each for name, extra in extras.items() if name not in LEFT_OUT for each in extra]
for requirement in [*project["dependencies"], *tested]:
    if match := re.match(r"([\w.-]+)(?:\[[^]]*\])?>=([\w.]+)", requirement):
        print(f"{match[1]}=={match[2]}")
