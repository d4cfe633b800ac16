"""What is wrong with resources that somebody gave us."""

from cairn_core.errors import RemoteError, shorten


class ResourceError(RemoteError):
    """Resources that are malformed, or not there.

    field: the field of the wire form (`scalar.value`), or `resources`.
    value: the offending value, as text, cut to a line.
    """

    def __init__(self, field: str, value: object, reason: str) -> None:
        self.field = field
        self.value = shorten(str(value))
        self.reason = reason
        super().__init__(f"{field} {self.value!r} {reason}")
