"""Name → class. Plug-ins are found in their package's folder; no list names them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Generic, TypeVar

from florence.errors import UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """The classes of one type of plug-in, by name.

    The modules of ``package`` are imported at the first look-up; each registers its classes with
    ``@registry.register("name")``. To add a plug-in, add a file.
    """

    def __init__(self, plugin_type: str, package: str) -> None:
        self.plugin_type, self.package = plugin_type, package
        self._entries: dict[str, T] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[T], T]:
        """Register the decorated class under ``name``. Raises ValueError if the name is taken."""

        def keep(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.plugin_type} {name!r} is registered twice")
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
        """Return the class registered as ``name``. Raises UnknownNameError, which lists the known names."""
        self.discover()
        try:
            return self._entries[name]
        except KeyError:
            raise UnknownNameError(self.plugin_type, name, self._entries) from None

    def names(self) -> tuple[str, ...]:
        """Return all names, sorted."""
        self.discover()
        return tuple(sorted(self._entries))
