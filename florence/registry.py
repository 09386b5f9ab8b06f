"""Name → class. Plug-ins are found by walking their package's folder; none is listed anywhere."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Generic, TypeVar

from florence.errors import UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """The classes of one kind of plug-in, by name.

    ``package`` is imported module by module at the first look-up; each module registers what it defines with
    ``@registry.register("name")``. Adding a plug-in is adding a file.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._entries: dict[str, T] = {}
        self._discovered = False

    def register(self, name: str):
        """Register the decorated class under ``name``. Raises ValueError where the name is taken."""

        def keep(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return keep

    def discover(self) -> None:
        """Import every module of the package, once."""
        if self._discovered:
            return
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            if not module.name.startswith("_"):
                importlib.import_module(f"{self.package}.{module.name}")
        self._discovered = True

    def get(self, name: str) -> T:
        """The class called ``name``. Raises UnknownNameError, listing what is known."""
        self.discover()
        try:
            return self._entries[name]
        except KeyError:
            raise UnknownNameError(self.kind, name, self._entries) from None

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        self.discover()
        return tuple(sorted(self._entries))
