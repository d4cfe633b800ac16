"""Whether a backend may have connections: closed after failures in turn, then tried with one.

`dcos/minuteman src/minuteman_lb.erl` opens to everybody after the backoff.
# Differs: ours lets one connection probe; everybody comes after it was answered.
"""

#: A backoff is longer by up to this share, so that hosts do not all probe at once.
JITTER = 0.25


class Gate:
    """Open, closed, or closed with a probe under way.

    consecutive: failures since the last success. until: when a closed one is probed.
    free: when, with all backends of a VIP closed, this one may be probed before that.
    """

    __slots__ = ("closed", "consecutive", "free", "probing", "until")

    def __init__(self) -> None:
        self.closed = False
        self.probing = False
        self.consecutive = 0
        self.until = 0.0
        self.free = 0.0

    def success(self) -> bool:
        """It answered.  True: it was closed and is open now."""
        reopened = self.closed
        self.closed = self.probing = False
        self.consecutive = 0
        return reopened

    def failure(self, limit: int, backoff_s: float, now: float) -> bool:
        """It did not answer.  True: it was open and is closed now.

        limit: failures in turn that close it, from 1. backoff_s: with jitter.
        """
        self.consecutive += 1
        if self.consecutive < limit and not self.closed:
            return False
        closes = not self.closed
        self.closed = True
        self.probing = False
        self.until = now + backoff_s
        return closes

    def due(self, now: float) -> bool:
        """Whether the next connection may be the probe."""
        return self.closed and now >= self.until

    def spare(self, now: float) -> bool:
        """Whether it may be probed early because all others are closed too."""
        return self.closed and not self.probing and now >= self.free

    def probe(self, backoff_s: float, probe_s: float, now: float) -> None:
        """A connection goes to it while it is closed.

        Should nobody hear what became of that, another one may go after the backoff.
        """
        self.probing = True
        self.until = now + backoff_s
        self.free = now + probe_s

    def release(self, now: float) -> bool:
        """The probe says nothing: the next connection is one.  True: there was a probe."""
        if not self.probing:
            return False
        self.probing = False
        self.until = now
        return True
