"""Everything that a lab can refuse or fail at.

CairnError
  LabError          one line for the person at the terminal: what, on what, what to do
    HostFailed      a host did not come up
"""

from cairn_core.errors import CairnError


class LabError(CairnError):
    """The lab could not do what was asked; the text says what to do about it."""


class HostFailed(LabError):
    """`host` (or another part of the lab) did not come up because of `cause`."""

    def __init__(self, host: str, cause: str) -> None:
        super().__init__(f"{host} did not start: {cause}; clean up with 'cairn lab down'")
        self.host = host
        self.cause = cause
