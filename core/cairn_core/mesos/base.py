"""Base of all wire messages, and the identifiers.

The JSON rules of the original (its protobuf-to-JSON mapping) are expressed once, here:
an unset optional field is `None` and is not printed; a repeated field is a tuple and is not
printed when empty; a field with an explicit default is declared with `emitted` and is always
printed. Unknown fields are ignored on input.
"""

from typing import TypeVar

from msgspec import Struct, field

T = TypeVar("T")


class Message(Struct, frozen=True, omit_defaults=True):
    """A wire message. Field names are the protobuf field names of `mesos.v1`."""


def emitted(default: T) -> T:
    """Declare a field whose default is printed in JSON.

    msgspec leaves a default out when it is the very object given as default; a factory hides
    that object, so the value is always printed.
    """
    return field(default_factory=lambda: default)


class _Id(Struct, frozen=True, omit_defaults=True, gc=False):
    """An identifier message: `{"value": "..."}`."""

    value: str

    def __str__(self) -> str:
        return self.value


class FrameworkID(_Id, frozen=True, gc=False):
    """`<master id>-NNNN`."""


class AgentID(_Id, frozen=True, gc=False):
    """`<master id>-S<n>`."""


class OfferID(_Id, frozen=True, gc=False):
    """`<master id>-O<n>`."""


class TaskID(_Id, frozen=True, gc=False):
    """Chosen by the framework, unique among its live tasks."""


class ExecutorID(_Id, frozen=True, gc=False):
    """Chosen by the framework; for a command task, the task's id."""


class OperationID(_Id, frozen=True, gc=False):
    """Chosen by the framework when it wants operation feedback."""


class ResourceProviderID(_Id, frozen=True, gc=False):
    """Identifies a provider of resources outside the agent's own."""


class ContainerID(Message, frozen=True):
    """A UUID; a nested container names its parent."""

    value: str
    parent: "ContainerID | None" = None


class Label(Message, frozen=True):
    """Free-form key and value."""

    key: str
    value: str | None = None


class Labels(Message, frozen=True):
    """A list of labels; keys may repeat."""

    labels: tuple[Label, ...] = ()


class Parameter(Message, frozen=True):
    """Key and value, both required."""

    key: str
    value: str


class Parameters(Message, frozen=True):
    """A list of parameters."""

    parameter: tuple[Parameter, ...] = ()


class TimeInfo(Message, frozen=True):
    """A point in time, nanoseconds since the epoch."""

    nanoseconds: int


class DurationInfo(Message, frozen=True):
    """A length of time in nanoseconds."""

    nanoseconds: int


class Address(Message, frozen=True):
    """Where a process listens."""

    port: int
    hostname: str | None = None
    ip: str | None = None


class URL(Message, frozen=True):
    """A URL in parts, as offers carry it."""

    scheme: str
    address: Address
    path: str | None = None
    query: tuple[Parameter, ...] = ()
    fragment: str | None = None
