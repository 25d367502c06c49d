"""tools/verify_feed.py as a module."""

import importlib.util
from pathlib import Path
from types import ModuleType

__all__ = ["PATH", "verify_feed"]

PATH = Path(__file__).parents[3] / "tools" / "verify_feed.py"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("verify_feed", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


verify_feed = _load()
