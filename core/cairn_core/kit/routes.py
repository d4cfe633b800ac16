"""Which handler answers a path: longest prefix by path component, as the original does it.

Rules of Mesos 3rdparty/libprocess/src/process.cpp: when nobody owns `/a/b/c`, then `/a/b` and `/a`
are tried, and a trailing `/` is ignored. Doubled slashes count as one, for the sake of Marathon's
clients (`/v2/apps//group/app`). Every path may have twins (`/state` and `/master/state`) and a
`.json` form. No I/O; `http_server` asks this table.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar
from urllib.parse import unquote

H = TypeVar("H")

#: Deeper paths are matched by their first components only; the rest goes to the handler.
MAX_COMPONENTS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a route wants beside its handler.

    exact: answer only this path, not deeper ones.
    jsonp: `?jsonp=name` wraps the answer, as Mesos' web pages ask.
    max_body_bytes: bodies above this get 413.
    timeout_s: seconds for reading the body and for the handler, each; None waits for ever.
    stream_body: the body is not read; the handler takes `request.chunks`.
    """

    exact: bool = False
    jsonp: bool = False
    max_body_bytes: int = 16 * 1024 * 1024
    timeout_s: float | None = 60.0
    stream_body: bool = False


@dataclass(frozen=True, slots=True)
class Match(Generic[H]):
    """A handler was found; `rest` is the path behind the route, without leading slash."""

    handler: H
    options: Options
    params: dict[str, str]
    rest: str


@dataclass(frozen=True, slots=True)
class WrongMethod:
    """The path exists, the method does not; `allow` is for the Allow header."""

    allow: str


@dataclass(frozen=True, slots=True)
class NoRoute:
    """Nobody owns the path or any prefix of it."""


Found: TypeAlias = Match[H] | WrongMethod | NoRoute


@dataclass(slots=True)
class _Node(Generic[H]):
    children: dict[str, "_Node[H]"] = field(default_factory=dict)
    #: Child for any component, and the name that the handler sees it under.
    any_child: "tuple[str, _Node[H]] | None" = None
    methods: dict[str, tuple[H, Options]] = field(default_factory=dict)


class Router(Generic[H]):
    """Routes of one server.

    twins: path prefixes under which every route exists once more (`"/master"`, `"/slave(1)"`).
    Adding is for start-up; a route that exists already is a ValueError, not a replacement.
    """

    def __init__(self, twins: Sequence[str] = ()) -> None:
        self._root: _Node[H] = _Node()
        self._prefixes = ("", *(twin.rstrip("/") for twin in twins))

    def add(
        self,
        path: str,
        handler: H,
        methods: Iterable[str] = ("GET",),
        *,
        json_twin: bool = False,
        options: Options | None = None,
    ) -> None:
        """Let `handler` answer `path` and, unless exact, everything below it.

        path: begins with `/`; a component `{name}` matches any one component. Literal
        components win over `{name}` when both match equally deep.
        json_twin: also answer at `path + ".json"`.
        """
        if not path.startswith("/"):
            raise ValueError(f"route does not start with /: {path!r}")
        chosen = options or Options()
        endings = ("", ".json") if json_twin else ("",)
        for prefix in self._prefixes:
            for ending in endings:
                self._add(prefix + path.rstrip("/") + ending, handler, methods, chosen)

    def _add(self, path: str, handler: H, methods: Iterable[str], options: Options) -> None:
        node = self._root
        for part in split(path):
            if part.startswith("{") and part.endswith("}"):
                if node.any_child is None:
                    node.any_child = (part[1:-1], _Node())
                elif node.any_child[0] != part[1:-1]:
                    raise ValueError(f"route {path}: {part} was called {{{node.any_child[0]}}}")
                node = node.any_child[1]
            else:
                node = node.children.setdefault(part, _Node())
        for method in methods:
            if method in node.methods:
                raise ValueError(f"route exists already: {method} {path or '/'}")
            node.methods[method] = (handler, options)

    def find(self, method: str, path: str) -> Found[H]:
        """Who answers `method path`. HEAD is answered by GET.

        path: percent-encoded, without query. An encoded `/` does not separate components.
        """
        parts = split(path)
        best = max(
            self._walk(self._root, parts, 0, {}),
            key=lambda candidate: candidate[0],  # the first of equals: literals come first
            default=None,
        )
        if best is None:
            return NoRoute()
        depth, node, params = best
        entry = node.methods.get(method) or (node.methods.get("GET") if method == "HEAD" else None)
        if entry is None:
            return WrongMethod(", ".join(sorted(node.methods)))
        handler, options = entry
        return Match(handler, options, params, "/".join(parts[depth:]))

    def _walk(
        self, node: _Node[H], parts: list[str], depth: int, params: dict[str, str]
    ) -> Iterator[tuple[int, _Node[H], dict[str, str]]]:
        """Every node with handlers on the way of `parts`, literal branches first."""
        if depth < len(parts) and depth < MAX_COMPONENTS:
            child = node.children.get(parts[depth])
            if child is not None:
                yield from self._walk(child, parts, depth + 1, params)
            if node.any_child is not None:
                name, below = node.any_child
                yield from self._walk(below, parts, depth + 1, params | {name: parts[depth]})
        if any(depth == len(parts) or not options.exact for _, options in node.methods.values()):
            yield depth, node, params

    def paths(self) -> list[str]:
        """Every route as `METHOD /path`, sorted: for `/debug` and for tests."""

        def below(node: _Node[H], path: str) -> Iterator[str]:
            for method in node.methods:
                yield f"{method} {path or '/'}"
            for part, child in node.children.items():
                yield from below(child, f"{path}/{part}")
            if node.any_child is not None:
                yield from below(node.any_child[1], f"{path}/{{{node.any_child[0]}}}")

        return sorted(below(self._root, ""))


def split(path: str) -> list[str]:
    """Decoded components of a path; empty ones are dropped."""
    if "%" not in path:
        return [part for part in path.split("/") if part]
    return [unquote(part) for part in path.split("/") if part]
