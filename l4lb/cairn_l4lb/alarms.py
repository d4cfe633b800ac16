"""What goes wrong around us and is nobody's change: full tables, lost packets, lost events.

Facts come from the host now and then; an alarm is on while its fact holds, or a counter has grown
within the last minute.  Each is logged when it comes, and again after a while.
"""

from collections.abc import Mapping
from dataclasses import dataclass

#: A counter that grew is an alarm for so long after, seconds.
HOLD_S = 60.0
#: An alarm that stays is logged so often, seconds.
AGAIN_S = 300.0
#: Part of the conntrack table that may be in use.
NEARLY_FULL = 0.9

#: Counters that should not grow, and what it means when they do.
GROWING = {
    "conntrack_insert_failed": "connections find no free port or entry: too many from one source "
    "to one backend, widen net.ipv4.ip_local_port_range or add backends",
    "conntrack_drop": "the connection table dropped packets: raise net.netfilter.nf_conntrack_max",
    "queue_dropped": "a packet queue was full: raise queue_length, or promote VIPs earlier",
    "queue_user_dropped": "the steering process read too slowly: the kernel chose instead",
    "lost_packets": "the steering process lost packets of the queue: clients send them again",
    "lost_events": "conntrack events were lost: answers may count as failures",
}


@dataclass(frozen=True, slots=True)
class Alarm:
    """name: short and stable. text: for people. since: seconds on the clock of `now`."""

    name: str
    text: str
    since: float


class Alarms:
    """Keeps what is wrong; all `now` are seconds on one monotonic clock."""

    def __init__(self) -> None:
        self.on: dict[str, Alarm] = {}
        self._until: dict[str, float] = {}
        self._last: dict[str, int] = {}
        self._logged: dict[str, float] = {}

    def look(self, counters: Mapping[str, int], used: int, most: int, now: float) -> list[Alarm]:
        """Take new readings; returns what is to be logged.

        counters: names of `GROWING` and others, which are ignored; one that went back began anew.
        used, most: entries of the connection table; most 0: unknown.
        """
        for name, text in GROWING.items():
            value = counters.get(name)
            if value is None:
                continue
            # what was counted before we came is not ours to tell
            if value > self._last.get(name, value):
                self._set(name, text, now, now + HOLD_S)
            self._last[name] = value
        if most and used >= NEARLY_FULL * most:
            text = (
                f"the connection table has {used} of {most} entries: raise "
                "net.netfilter.nf_conntrack_max"
            )
            self._set("conntrack_nearly_full", text, now, now)
        elif "conntrack_nearly_full" in self._until:
            self._until["conntrack_nearly_full"] = now - 1
        for name in [name for name, until in self._until.items() if until < now]:
            del self.on[name], self._until[name]
        told = []
        for name, alarm in self.on.items():
            if now - self._logged.get(name, float("-inf")) >= AGAIN_S:
                self._logged[name] = now
                told.append(alarm)
        return told

    def _set(self, name: str, text: str, now: float, until: float) -> None:
        since = self.on[name].since if name in self.on else now
        self.on[name] = Alarm(name, text, since)
        self._until[name] = until
