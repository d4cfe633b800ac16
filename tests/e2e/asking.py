"""A stub resolver that asks for one name all the time, like glibc with `timeout:1` and one retry.

    python asking.py NAME

It says `asking` after the first question. When its input ends it says, as one line of JSON, how
often it got which answer (addresses, or a response code, or `lost`).
"""

import collections
import json
import select
import socket
import sys
import time
from pathlib import Path

import dns.message
import dns.rcode
import dns.rdatatype

TIMEOUT_S = 1.0
#: The first try and one retry, which goes to the next server.
TRIES = 2
#: Between two questions, seconds.
PAUSE_S = 0.02


def servers() -> list[str]:
    lines = Path("/etc/resolv.conf").read_text().splitlines()
    return [line.split()[1] for line in lines if line.startswith("nameserver ")]


def ask(name: str) -> str:
    """What a program would learn."""
    known = servers()
    for index in range(TRIES):
        query = dns.message.make_query(name, dns.rdatatype.A, use_edns=False)
        address = known[index % len(known)]
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            try:
                sock.connect((address, 53))
                sock.send(query.to_wire())
                sock.settimeout(TIMEOUT_S)
                reply = dns.message.from_wire(sock.recv(4096))
            except OSError:
                continue
            if not query.is_response(reply):
                return "not the answer"
            if reply.rcode() != dns.rcode.NOERROR:
                return dns.rcode.to_text(reply.rcode())
            found = [data.address for answer in reply.answer for data in answer]
            return " ".join(sorted(found)) or "nothing"
    return "lost"


def main(name: str) -> None:
    counts: collections.Counter[str] = collections.Counter()
    slowest_s = 0.0
    ended = False
    while not ended:
        began = time.monotonic()
        counts[ask(name)] += 1
        slowest_s = max(slowest_s, time.monotonic() - began)
        if counts.total() == 1:
            print("asking", flush=True)
        ended = bool(select.select([sys.stdin], [], [], PAUSE_S)[0])
    print(json.dumps({"answers": counts, "slowest_s": round(slowest_s, 3)}))


if __name__ == "__main__":
    main(sys.argv[1])
