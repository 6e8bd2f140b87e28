"""What is under test: a method's class and its settings, given by name, by registry row or as the class itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from zodist.methods import METHODS, Method, MethodEntry

# Settings by their common names, so that a method that has them fits matrices of 4 by 12 and batches of 3, and shows
# within a few steps what its refreshes do.
SMALL = {"rank": 2, "refresh": 3, "examples": 3}


@dataclass(frozen=True, slots=True)
class Subject:
    """A method under test.  given: settings on top of the defaults."""

    name: str
    kind: type[Method]
    given: Mapping[str, Any]

    @property
    def keys(self) -> frozenset[str]:
        """The names of its settings."""
        return frozenset(self.kind.settings_type.model_fields)

    def choices(self, key: str) -> tuple[Any, ...]:
        """The values besides its default that a setting may have, if it has a fixed few and is not given."""
        field = self.kind.settings_type.model_fields.get(key)
        if field is None or key in self.given or get_origin(field.annotation) is not Literal:
            return ()
        return tuple(value for value in get_args(field.annotation) if value != field.default)

    def variants(self, *keys: str) -> list[dict[str, Any]]:
        """The defaults, and each other choice of some settings, one at a time."""
        return [{}, *({key: choice} for key in keys for choice in self.choices(key))]

    def settings(self, **wanted: Any) -> dict[str, Any]:
        """Keys to build it with: small ones, then the wanted ones that it has and allows, then the given ones."""
        own = dict(self.given)
        for key, value in (SMALL | wanted).items():
            if key in self.keys and key not in self.given:
                try:
                    self.kind.settings_type.model_validate(own | {key: value})
                except ValidationError:
                    continue  # out of this method's range: its default will do
                own[key] = value
        return own

    def build(self, **wanted: Any) -> Method:
        """A new method; wanted: settings that it takes up if it has and allows them."""
        chosen = self.kind.settings_type.model_validate(self.settings(**wanted))
        return self.kind(chosen)  # type: ignore[call-arg]


def subject(method: str | MethodEntry | type[Method], settings: Mapping[str, Any] | None = None) -> Subject:
    """The method to test.  Raises AssertionError with the known names where there is no such method."""
    given = dict(settings or {})
    if isinstance(method, str):
        if method not in METHODS:
            raise AssertionError(
                f"there is no method {method!r} among {', '.join(METHODS)}; is the package that adds it installed?"
            )
        return Subject(method, METHODS[method].kind, given)
    if isinstance(method, MethodEntry):
        return Subject(method.path, method.kind, given)
    return Subject(method.__name__, method, given)
