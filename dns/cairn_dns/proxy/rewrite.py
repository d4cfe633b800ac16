"""Names of one domain shown under another: the question on the way out, the answer on the way back.

Source: dcos-net `dcos_dns_handler_fsm` rewrites `dclb.`, `mesos.` and `global` names.
"""

from collections.abc import Sequence
from typing import NamedTuple

from cairn_dns.wire import MAX_NAME_BYTES, OPT

from .message import Message, Question, Resource, split_data


class Rename(NamedTuple):
    """Names that end in `shown` are asked for as ending in `real`; both lower case, wire form."""

    shown: bytes
    real: bytes


class TooLong(ValueError):
    """The other name would have more than 255 bytes, so it cannot exist."""


def out(question: Question, renames: Sequence[Rename]) -> Question:
    """The question under its real name.  Raises TooLong."""
    name = question.name
    for rename in renames:
        name = _swap(name, rename.shown, rename.real)
        if len(name) > MAX_NAME_BYTES:
            raise TooLong("name has more than 255 bytes under its real domain")
    return question._replace(name=name)


def back(
    message: Message, question: Question, renames: Sequence[Rename], max_ttl: int | None = None
) -> Message:
    """An answer as it looks under the names that were asked for.

    question: as the client asked it; its case wins for owners that are the name asked for.
    max_ttl: seconds; what is above is lowered.
    """
    asked, real = question.name, message.question.name.lower()
    turned = tuple(reversed(renames))

    def shown(name: bytes) -> bytes:
        if name.lower() == real:
            return asked
        for rename in turned:
            fresh = _swap(name, rename.real, rename.shown)
            # A name too long to be shown is left as it is: it is still a true answer.
            name = fresh if len(fresh) <= MAX_NAME_BYTES else name
        return name

    def record(old: Resource) -> Resource:
        if old.kind == OPT:
            return old
        before, names, behind = split_data(old.kind, old.data)
        data = before + b"".join(map(shown, names)) + behind if names else old.data
        ttl = old.ttl if max_ttl is None else min(old.ttl, max_ttl)
        return Resource(shown(old.name), old.kind, old.klass, ttl, data)

    answers, authority, additional = message.sections
    return Message(
        message.id,
        message.bits,
        question,
        ([*map(record, answers)], [*map(record, authority)], [*map(record, additional)]),
    )


def ends_in(name: bytes, suffix: bytes) -> bool:
    """Whether `name` is `suffix` or below it, at the border of a label; case does not matter."""
    at = len(name) - len(suffix)
    if at < 0 or name[at:].lower() != suffix:
        return False
    here = 0
    while here < at:
        here += 1 + name[here]
    return here == at


def _swap(name: bytes, old: bytes, new: bytes) -> bytes:
    return name[: len(name) - len(old)] + new if ends_in(name, old) else name
