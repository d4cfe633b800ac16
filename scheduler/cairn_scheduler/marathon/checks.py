"""Health checks, readiness checks and generic checks of an app definition.

Source: the released Marathon's REST types (`healthCheck`, `readinessCheck`, `check`). All times
in seconds.
"""

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, field

from cairn_core.mesos.base import emitted
from cairn_scheduler.marathon.container import Amount, AnyPort, LegacyName, NonEmpty, Part, PathText

HealthProtocol: TypeAlias = Literal[
    "HTTP", "HTTPS", "TCP", "COMMAND", "MESOS_HTTP", "MESOS_HTTPS", "MESOS_TCP"
]
StatusCode: TypeAlias = Annotated[int, Meta(ge=100, le=999)]


class CommandCheck(Part, frozen=True):
    """A shell command; exit code 0 is healthy."""

    value: str


class HealthCheck(Part, frozen=True):
    """How an instance is found healthy; `max_consecutive_failures` 0 means it is never killed."""

    protocol: HealthProtocol = emitted("HTTP")
    path: str | None = None
    port: AnyPort | None = None
    port_index: AnyPort | None = None
    command: CommandCheck | None = None
    grace_period_seconds: Amount = emitted(300)
    interval_seconds: Amount = emitted(60)
    timeout_seconds: Amount = emitted(20)
    max_consecutive_failures: Amount = emitted(3)
    delay_seconds: Amount = emitted(15)
    ignore_http1xx: bool | None = field(default=None, name="ignoreHttp1xx")
    ip_protocol: Literal["IPv4", "IPv6"] = emitted("IPv4")

    @property
    def by_mesos(self) -> bool:
        """Whether the executor runs it; else Marathon does."""
        return self.protocol == "COMMAND" or self.protocol.startswith("MESOS_")

    @property
    def is_http(self) -> bool:
        """Whether it asks for a page."""
        return "HTTP" in self.protocol


class ReadinessCheck(Part, frozen=True):
    """When a new instance counts in a deployment."""

    name: NonEmpty = emitted("readinessCheck")
    protocol: Literal["HTTP", "HTTPS"] = emitted("HTTP")
    path: PathText = emitted("/")
    port_name: LegacyName = emitted("http-api")
    interval_seconds: Amount = emitted(30)
    timeout_seconds: Annotated[int, Meta(ge=1, le=(1 << 31) - 1)] = emitted(10)
    http_status_codes_for_ready: tuple[StatusCode, ...] | None = None
    preserve_last_response: bool = emitted(False)


class HttpProbe(Part, frozen=True):
    """The HTTP part of a generic check."""

    port_index: AnyPort | None = None
    port: AnyPort | None = None
    path: PathText | None = None
    scheme: Literal["HTTP", "HTTPS"] = emitted("HTTP")


class TcpProbe(Part, frozen=True):
    """The TCP part of a generic check."""

    port_index: AnyPort | None = None
    port: AnyPort | None = None


class ShellCommand(Part, frozen=True):
    """A command by shell, or by argument vector."""

    shell: NonEmpty | None = None
    argv: tuple[str, ...] = ()


class ExecProbe(Part, frozen=True):
    """The command part of a generic check."""

    command: ShellCommand


class Check(Part, frozen=True):
    """A check whose result is reported and never acted upon."""

    http: HttpProbe | None = None
    tcp: TcpProbe | None = None
    exec: ExecProbe | None = None
    interval_seconds: Amount = emitted(60)
    timeout_seconds: Amount = emitted(20)
    delay_seconds: Amount = emitted(15)
