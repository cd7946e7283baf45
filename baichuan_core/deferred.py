"""Registers the model family when transformers is first needed, so that importing the package does not load torch.

Registration needs the model's classes, and therefore torch and transformers. It runs right after the first import of
transformers, or of a module of this package that uses it. At that point the imported module is complete, so there are
no circular imports.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

PACKAGE_NAME = __name__.partition(".")[0]
REGISTRATION_MODULE = f"{PACKAGE_NAME}.registration"
# Modules of this package that need neither torch nor transformers.
LIGHT_MODULES = frozenset(
    {
        f"{PACKAGE_NAME}.{name}"
        for name in ("deferred", "errors", "host_memory", "out_of_memory", "progress", "quiet", "registration")
    }
)


class _RegisteringFinder(MetaPathFinder):
    """Import finder for the modules that trigger registration; in `sys.meta_path` only until one is imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module as Python does, but with a loader that registers the family."""
        if fullname != "transformers" and (not fullname.startswith(f"{PACKAGE_NAME}.") or fullname in LIGHT_MODULES):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _RegisteringLoader(self, spec.loader)
        return spec


class _RegisteringLoader(SourceFileLoader):
    def __init__(self, finder: _RegisteringFinder, loader: SourceFileLoader) -> None:
        super().__init__(loader.name, loader.path)
        self._finder = finder

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module, then register the family unless an enclosing import does so."""
        if self._finder not in sys.meta_path:
            super().exec_module(module)
            return
        sys.meta_path.remove(self._finder)
        try:
            super().exec_module(module)
        except BaseException:
            sys.meta_path.insert(0, self._finder)  # the import failed, so a later one must register the family
            raise
        import_module(REGISTRATION_MODULE)


def register_when_needed() -> None:
    """Register the family now if transformers has been imported, otherwise once it is imported."""
    if "transformers" in sys.modules:
        import_module(REGISTRATION_MODULE)
    else:
        sys.meta_path.insert(0, _RegisteringFinder())
