"""On PYTHONPATH of the processes that tests start: small networks, downloads from the tests' own server, packages that are missing,
other systems.

Python imports this at its start, so it waits for the modules it changes instead of importing them.
"""

import importlib.abc
import importlib.util
import os
import sys

WATCHED = {"common.model.build", "common.data.load", "common.base.locks", "common.training.curves"}
sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # tests/fakes/, behind all others


class AfterImport(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name not in WATCHED:
            return None
        WATCHED.discard(name)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            changed(module)

        spec.loader.exec_module = exec_module
        return spec


def changed(module) -> None:
    if module.__name__ == "common.model.build" and os.environ.get("TINY_MODELS"):
        from tiny_models import tiny_architectures

        module.ARCHITECTURES.update(tiny_architectures())
    if module.__name__ == "common.training.curves" and os.environ.get("TINY_FIGURES"):
        from tiny_models import no_curves

        module.curves = no_curves
    if module.__name__ == "common.base.locks":
        module.WINDOWS = os.environ.get("TEST_SYSTEM") == "windows"
    elif module.__name__ != "common.training.curves" and os.environ.get("TEST_DOWNLOADS"):
        from archives import patch_from_environment

        patch_from_environment()


sys.meta_path.insert(0, AfterImport())
for package in os.environ.get("TEST_MISSING", "").split():  # as if it were not installed
    sys.modules[package] = None
if system := os.environ.get("TEST_SYSTEM"):
    import systems

    getattr(systems, system)()
