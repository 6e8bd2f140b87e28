"""Which methods there are: zodist's own, and those that installed packages add through the entry point zodist.methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from zodist.methods.method import Method, Settings


@dataclass(frozen=True, slots=True)
class MethodEntry:
    """A row of the registry.  path: "module:Class"."""

    path: str
    origin: str = field(default="zodist", compare=False)

    @property
    def kind(self) -> type[Method]:
        """The method's class, imported now."""
        module, _, name = self.path.partition(":")
        return getattr(import_module(module), name)

    @property
    def settings(self) -> type[Settings]:
        """The method's settings model."""
        return self.kind.settings_type

    def build(self, settings: Any) -> Method:
        """A method with these settings."""
        return self.kind(settings)  # type: ignore[call-arg]


_OWN = {
    "curvzo": MethodEntry("zodist.methods.curvzo:CurvZO"),
    "fzoo": MethodEntry("zodist.methods.fzoo:FZOO"),
    "grzo": MethodEntry("zodist.methods.grzo:GRZO"),
    "hizoo": MethodEntry("zodist.methods.hizoo:HiZOO"),
    "kerzoo": MethodEntry("zodist.methods.kerzoo:KerZOO"),
    "ldsd": MethodEntry("zodist.methods.ldsd:LDSD"),
    "loren": MethodEntry("zodist.methods.loren:Loren"),
    "loren_released": MethodEntry("zodist.methods.loren_released:LorenReleased"),
    "lozo": MethodEntry("zodist.methods.lozo:LOZO"),
    "meazo": MethodEntry("zodist.methods.meazo:MEAZO"),
    "mezo": MethodEntry("zodist.methods.mezo:MeZO"),
    "pgap": MethodEntry("zodist.methods.pgap:Pgap"),
    "prior": MethodEntry("zodist.methods.prior:Prior"),
    "sparse_mezo": MethodEntry("zodist.methods.sparse_mezo:SparseMeZO"),
    "subzero": MethodEntry("zodist.methods.subzero:SubZero"),
    "tezo": MethodEntry("zodist.methods.tezo:TeZO"),
    "zo_muon": MethodEntry("zodist.methods.zo_muon:ZOMuon"),
    "zodist": MethodEntry("zodist.methods.zodist:Zodist"),
}


@cache
def registry() -> Mapping[str, MethodEntry]:
    """All methods by name: zodist's, and those that installed packages add through the entry point zodist.methods."""
    found = dict(_OWN)
    for point in entry_points(group="zodist.methods"):
        found.setdefault(point.name, MethodEntry(point.value, point.dist.name if point.dist else "?"))
    return found


class _Registry(Mapping[str, MethodEntry]):
    def __getitem__(self, name: str) -> MethodEntry:
        return registry()[name]

    def __iter__(self):
        return iter(registry())

    def __len__(self) -> int:
        return len(registry())


METHODS: Mapping[str, MethodEntry] = _Registry()
