"""A pytest plugin that puts the native core of the folder $CORE_FOLDER in the installed one's place."""

import importlib.util
import os
import sys
from pathlib import Path

NAME = "gatewise._native._core"

file = next(Path(os.environ["CORE_FOLDER"]).resolve().glob("_core.*so"))
spec = importlib.util.spec_from_file_location(NAME, file)
sys.modules[NAME] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[NAME])


def pytest_report_header():
    return f"native core: {file}"
