"""Multisets in little memory, made for very many that hold one to four things.

A bag has one of four forms: nothing (None), the thing itself, a short list in which things may
occur again, or a dictionary from things to their numbers.  Fifty thousand tasks give more than
half a million bags: a dictionary for each would take 230 bytes, a list takes half of that.
"""

from collections.abc import Collection, Hashable
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T", bound=Hashable)
#: A bag of things, which are neither None nor lists nor dictionaries.
Bag: TypeAlias = T | list[T] | dict[T, int] | None

#: Longer lists become dictionaries, so that no change costs more than a few comparisons.
LIST_LIMIT = 12


def added(bag: Any, thing: T) -> tuple[Any, bool]:
    """The bag with a thing more, and whether there was none like it.  The old bag is used up."""
    if bag is None:
        return thing, True
    form = type(bag)
    if form is list:
        new = thing not in bag
        bag.append(thing)
        return (bag if len(bag) <= LIST_LIMIT else _counted(bag)), new
    if form is dict:
        count = bag.get(thing, 0)
        bag[thing] = count + 1
        return bag, not count
    return [bag, thing], bag != thing


def put(bag: Any, thing: T) -> Any:
    """The bag with a thing more, whether there was one like it or not; faster than `added`."""
    if bag is None:
        return thing
    if type(bag) is list:
        bag.append(thing)
        return bag if len(bag) <= LIST_LIMIT else _counted(bag)
    return added(bag, thing)[0]


def removed(bag: Any, thing: T) -> tuple[Any, bool]:
    """The bag with a thing less, and whether none like it is left.  The old bag is used up.

    Raises KeyError when the thing is not in it.
    """
    form = type(bag)
    if form is list:
        if thing not in bag:
            raise KeyError(thing)
        bag.remove(thing)
        return (bag if len(bag) > 1 else bag[0]), thing not in bag
    if form is dict:
        count = bag[thing]
        if count > 1:
            bag[thing] = count - 1
            return bag, False
        del bag[thing]
        return _smaller(bag), True
    if bag != thing:
        raise KeyError(thing)
    return None, True


def things(bag: Any) -> Collection[Any]:
    """The different things in a bag, in no order."""
    if bag is None:
        return ()
    form = type(bag)
    return set(bag) if form is list else bag.keys() if form is dict else (bag,)


def only(bag: Any) -> Any:
    """The thing in a bag that holds just one, added once; None for other bags."""
    return bag if type(bag) not in (list, dict) else None


def _smaller(counts: dict[T, int]) -> Any:
    """A dictionary in a smaller form, if it is far enough from the limit."""
    if len(counts) > LIST_LIMIT // 2 or sum(counts.values()) > LIST_LIMIT:
        return counts
    few = [one for one, number in counts.items() for _ in range(number)]
    return few if len(few) > 1 else few[0] if few else None


def _counted(few: list[T]) -> dict[T, int]:
    counts: dict[T, int] = {}
    for one in few:
        counts[one] = counts.get(one, 0) + 1
    return counts
