"""Whether a backend may have connections: closed after failures in turn, then tried with one.

`dcos/minuteman src/minuteman_lb.erl` opens to everybody after the backoff.
# Differs: ours lets one connection probe; everybody comes after it was answered.  Whoever refused
# last is probed sooner: its host lives, its program is perhaps starting, and as a refusal goes to
# another backend it costs a client nothing to try.
"""

#: A backoff is longer by up to this share, so that hosts do not all probe at once.
JITTER = 0.25
#: Backoff of one that refuses: at first; it grows to as long as it has refused already, seconds.
REFUSED_S = 1.0
#: How soon it may be tried again where there are too few others, seconds.
REFUSED_SPARE_S = 0.25


class Gate:
    """Open, closed, or closed with a probe under way.

    consecutive: failures since the last success. until: when a closed one is probed.
    free: when, with too many backends of a VIP closed, this one may be probed before that.
    refusing: it refused last, and did not just keep silent. since: when it began to.
    """

    __slots__ = ("closed", "consecutive", "free", "probing", "refusing", "since", "until")

    def __init__(self) -> None:
        self.closed = False
        self.probing = False
        self.refusing = False
        self.consecutive = 0
        self.until = 0.0
        self.free = 0.0
        self.since = 0.0

    def success(self) -> bool:
        """It answered.  True: it was closed and is open now."""
        reopened = self.closed
        self.closed = self.probing = self.refusing = False
        self.consecutive = 0
        return reopened

    def failure(self, limit: int, backoff_s: float, now: float, refused: bool = False) -> bool:
        """It did not answer.  True: it was open and is closed now.

        limit: failures in turn that close it, from 1. backoff_s: with jitter. refused: and no
        client had to hear of it.
        """
        self.consecutive += 1
        if self.consecutive < limit and not self.closed:
            return False
        closes = not self.closed
        if closes or not self.refusing:
            self.since = now
        self.closed, self.refusing = True, refused
        self.probing = False
        self.until = now + self._pause(backoff_s, now)
        return closes

    def _pause(self, backoff_s: float, now: float) -> float:
        """How long nobody comes to it."""
        return min(backoff_s, max(REFUSED_S, now - self.since)) if self.refusing else backoff_s

    def due(self, now: float) -> bool:
        """Whether the next connection may be the probe."""
        return self.closed and now >= self.until

    def spare(self, now: float) -> bool:
        """Whether it may be probed early because too many others are closed too."""
        return self.closed and not self.probing and now >= self.free

    def probe(self, backoff_s: float, probe_s: float, now: float) -> None:
        """A connection goes to it while it is closed.

        Should nobody hear what became of that, another one may go after the backoff.
        """
        self.probing = True
        self.until = now + self._pause(backoff_s, now)
        self.free = now + (min(probe_s, REFUSED_SPARE_S) if self.refusing else probe_s)

    def release(self, now: float) -> bool:
        """The probe says nothing: the next connection is one.  True: there was a probe."""
        if not self.probing:
            return False
        self.probing = False
        self.until = now
        return True
