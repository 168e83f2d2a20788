"""Record: a class of named values, declared as a dataclass is, but nothing is compiled. Pure."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn, Self, dataclass_transform


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Record:
    """A class whose annotations are its fields, given by keyword; frozen, equal by what they say.

    For dataclasses and NamedTuples Python compiles methods at each start of a program, which was
    much of the time that importing azpg took.
    """

    _fields: ClassVar[dict[str, Any]] = {}
    """each with its default, in the order of their hash"""

    def __init_subclass__(cls) -> None:
        cls._fields = {name: vars(cls).get(name) for name in cls.__annotations__}

    def __init__(self, **fields: object) -> None:
        if unknown := fields.keys() - self._fields.keys():
            raise TypeError(f"{type(self).__name__} has no {', '.join(sorted(unknown))}")
        self.__dict__.update(self._fields, **fields)

    def replace(self, **changes: object) -> Self:
        """Return a copy with some fields changed."""
        return type(self)(**{**self.__dict__, **changes})

    def __eq__(self, other: object) -> bool:
        return self.__dict__ == other.__dict__ if type(self) is type(other) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self.__dict__.values()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}({fields})"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen: use replace({name}=...)")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen: {name} stays")
