"""Maglev's look-up table: which backend a hash belongs to, the same on every host.

Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section
3.4.  Each backend has a permutation of the table; they take turns to claim their next free place.
"""

from array import array
from collections.abc import Sequence
from hashlib import blake2b

#: Sizes of tables: primes, each about twice the one before.
SIZES = (251, 509, 1021, 2039, 4093, 8191, 16381, 65537)
#: Places per backend that keep shares within about one per cent of each other.
PLACES_PER_BACKEND = 100
MAX_BACKENDS = 65_535


def table_size(backends: int) -> int:
    """The smallest size with enough places for each backend, or the largest there is."""
    return next((size for size in SIZES if size >= PLACES_PER_BACKEND * backends), SIZES[-1])


def build(names: Sequence[str], weights: Sequence[float]) -> "array[int]":
    """The table: of each hash modulo its length the number of its backend within `names`.

    names: different ones, in an order that is the same on every host. weights: above 0; who has
    half the weight of the heaviest claims a place every second turn. Costs below 1 ms for
    10 backends and 40 ms for a thousand. Empty without backends.
    """
    if not names:
        return array("H")
    size = table_size(len(names))
    seeds = [_seed(name) for name in names]
    steps = [(seed >> 32) % (size - 1) + 1 for seed in seeds]
    places = [(seed & 0xFFFFFFFF) % size for seed in seeds]
    heaviest = max(weights)
    shares = [weight / heaviest for weight in weights]
    credit = [0.0] * len(names)
    table: list[int] = [-1] * size
    free = size
    while True:
        for number, share in enumerate(shares):
            if share < 1.0:
                credit[number] += share
                if credit[number] < 1.0:
                    continue
                credit[number] -= 1.0
            place, step = places[number], steps[number]
            while table[place] >= 0:
                place += step
                if place >= size:
                    place -= size
            table[place] = number
            places[number] = place
            free -= 1
            if not free:
                return array("H", table)


def _seed(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")
