"""Resources: what agents have, offers hold and tasks use.

`Resources` is the value everybody works with; `quantities` holds plain amounts per name, as
quota and shares count them. Modules: `kinds` (what may be added up), `spans` (ranges),
`algebra` (the value), `wire` (validation and wire forms), `text` (flags, endpoints, messages,
attributes). Start reading at `algebra`.
"""

from cairn_core.resources import quantities
from cairn_core.resources.algebra import Resources
from cairn_core.resources.errors import ResourceError
from cairn_core.resources.kinds import Kind, Reservation
from cairn_core.resources.text import (
    attributes_endpoint,
    read_attributes,
    show_attributes,
)

EMPTY = Resources()

__all__ = [
    "EMPTY",
    "Kind",
    "Reservation",
    "ResourceError",
    "Resources",
    "attributes_endpoint",
    "quantities",
    "read_attributes",
    "show_attributes",
]
