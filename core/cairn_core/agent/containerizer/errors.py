"""Errors of the containerizer.

LocalError
└── ContainerizerError        carries the container's id
    ├── LaunchFailed          becomes REASON_CONTAINER_LAUNCH_FAILED
    └── UnknownContainer
"""

from cairn_core.errors import LocalError


class ContainerizerError(LocalError):
    """Something about one container."""

    def __init__(self, container_id: str, message: str) -> None:
        super().__init__(f"container {container_id}: {message}")
        self.container_id = container_id
        self.message = message


class LaunchFailed(ContainerizerError):
    """The container did not start; it has been destroyed."""


class UnknownContainer(ContainerizerError):
    """No container of this id is known."""

    def __init__(self, container_id: str) -> None:
        super().__init__(container_id, "unknown")
