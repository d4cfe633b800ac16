"""Which requests may pass a relay into the lab."""

import pytest
from multidict import CIMultiDict

from cairn_lab.relays import refusal


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", {"Host": "127.0.0.1:5050"}),
        ("POST", {"Host": "localhost:5050"}),
        ("POST", {"host": "LOCALHOST:5050"}),
        ("POST", {"Host": "127.0.0.1:5050", "Origin": "http://127.0.0.1:5050"}),
        ("POST", {"Host": "127.0.0.1:5050", "Sec-Fetch-Site": "same-origin"}),
        ("GET", {"Host": "127.0.0.1:5050", "Sec-Fetch-Site": "none"}),
        (
            "GET",
            {
                "Host": "127.0.0.1:5050",
                "Sec-Fetch-Site": "cross-site",
                "Sec-Fetch-Mode": "navigate",
            },
        ),
    ],
    ids=[
        "curl", "by name", "any case", "own page", "own page, fetch metadata", "typed address",
        "link followed",
    ],
)  # fmt: skip
def test_people_and_own_pages_pass(method: str, headers: dict[str, str]) -> None:
    assert refusal(method, CIMultiDict(headers), 5050) is None


@pytest.mark.parametrize(
    ("method", "headers", "reason"),
    [
        ("GET", {}, "host '' is not"),
        ("GET", {"Host": "rebound.example.org:5050"}, "is not a name of this door"),
        ("GET", {"Host": "127.0.0.1"}, "is not a name of this door"),
        ("GET", {"Host": "127.0.0.1:8080"}, "is not a name of this door"),
        ("POST", {"Host": "127.0.0.1:5050", "Origin": "http://example.org"}, "is another site"),
        ("POST", {"Host": "127.0.0.1:5050", "Origin": "null"}, "is another site"),
        ("POST", {"Host": "127.0.0.1:5050", "Origin": "http://127.0.0.1:8080"}, "another site"),
        ("POST", {"Host": "127.0.0.1:5050", "Sec-Fetch-Site": "cross-site"}, "from a cross-site"),
        ("GET", {"Host": "127.0.0.1:5050", "Sec-Fetch-Site": "same-site"}, "from a same-site"),
        (
            "POST",
            {
                "Host": "127.0.0.1:5050",
                "Sec-Fetch-Site": "cross-site",
                "Sec-Fetch-Mode": "navigate",
            },
            "from a cross-site",
        ),
    ],
    ids=[
        "no host", "rebound name", "no port", "port of another door", "another origin",
        "origin of a file", "another door's page", "another site's script", "same site",
        "another site's form",
    ],
)  # fmt: skip
def test_pages_of_other_sites_are_refused(
    method: str, headers: dict[str, str], reason: str
) -> None:
    assert reason in str(refusal(method, CIMultiDict(headers), 5050))
