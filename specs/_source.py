"""The text of a property and errors that point into it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from provenn.errors import PropertyError, UnsupportedPropertyError

_SHOWN = 120  # characters of a line that an error prints: competition lines reach 100 MB


@dataclass(frozen=True, eq=False)
class Source:
    """A property's path and bytes as they stand in the file (comments included)."""

    path: Path
    data: bytes

    def unsupported(self, offset: int, message: str) -> UnsupportedPropertyError:
        """As `error`, where nothing is malformed."""
        return UnsupportedPropertyError(str(self.error(offset, message)))

    def error(self, offset: int, message: str) -> PropertyError:
        """A PropertyError `file:line:column: message`, then the line with a mark under byte `offset`."""
        offset = max(0, min(offset, len(self.data)))
        line = self.data.count(b"\n", 0, offset) + 1
        begin = self.data.rfind(b"\n", 0, offset) + 1
        end = self.data.find(b"\n", offset)
        end = len(self.data) if end < 0 else end
        column = offset - begin
        first = max(0, column - _SHOWN // 2)
        shown = self.data[begin + first : min(end, begin + first + _SHOWN)].decode("utf-8", "replace")
        shown = shown.rstrip("\r").replace("\t", " ")
        return PropertyError(
            f"{self.path}:{line}:{column + 1}: {message}\n    {shown}\n    {' ' * (column - first)}^"
        )
