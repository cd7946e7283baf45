"""Register the model family when transformers is first needed, so that importing the package loads no torch.

Registration needs the model's classes, and so torch and transformers. It runs right after the first of these has been
imported: transformers itself, or a module of this package that uses it. That module is complete by then, so no import
can be circular.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

PACKAGE = __name__.partition(".")[0]
REGISTRATION = f"{PACKAGE}.registration"
# Modules of this package that need neither torch nor transformers.
LIGHT = frozenset(
    {f"{PACKAGE}.{name}" for name in ("deferred", "errors", "out_of_memory", "progress", "quiet", "registration")}
)


class _RegisteringFinder(MetaPathFinder):
    """Find the modules after whose import the family is registered; takes itself off the path when one is imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module as Python does, but with a loader that registers."""
        if fullname != "transformers" and (not fullname.startswith(f"{PACKAGE}.") or fullname in LIGHT):
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
        """Run the module, then register if no other module has begun to."""
        if self._finder not in sys.meta_path:
            super().exec_module(module)
            return
        sys.meta_path.remove(self._finder)
        try:
            super().exec_module(module)
        except BaseException:
            sys.meta_path.insert(0, self._finder)  # a later import will register
            raise
        import_module(REGISTRATION)


def register_when_needed() -> None:
    """Register now if transformers has been imported, otherwise as soon as it is."""
    if "transformers" in sys.modules:
        import_module(REGISTRATION)
    else:
        sys.meta_path.insert(0, _RegisteringFinder())
