"""Names and numbers of DNS messages (RFC 1035, RFC 2782, RFC 3596, RFC 6891), and how to read them.

Whoever reads a query reads bytes of strangers: nothing here raises on them, and no walk is longer
than the message.
"""

A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, SRV, OPT = 1, 2, 5, 6, 12, 15, 16, 28, 33, 41
IXFR, AXFR, ANY = 251, 252, 255
IN = 1
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, NOTAUTH = 0, 1, 2, 3, 4, 5, 9
BADVERS = 16
HEADER_BYTES = 12
MAX_NAME_BYTES = 255
MAX_LABEL_BYTES = 63
#: Largest UDP answer to a query without EDNS, and to one with it (never fragmented); over TCP.
PLAIN_BYTES, EDNS_BYTES, TCP_BYTES = 512, 1232, 65535
#: Bits of a header's second word.
QR, OPCODE, AA, TC, RD, RA, AD, CD = (
    0x8000, 0x7800, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010,
)  # fmt: skip

TYPE_NAMES = {
    A: "A", NS: "NS", CNAME: "CNAME", SOA: "SOA", PTR: "PTR", MX: "MX", TXT: "TXT",
    AAAA: "AAAA", SRV: "SRV", OPT: "OPT", IXFR: "IXFR", AXFR: "AXFR", ANY: "ANY",
}  # fmt: skip
RCODE_NAMES = {
    NOERROR: "NOERROR", FORMERR: "FORMERR", SERVFAIL: "SERVFAIL", NXDOMAIN: "NXDOMAIN",
    NOTIMP: "NOTIMP", REFUSED: "REFUSED", NOTAUTH: "NOTAUTH", BADVERS: "BADVERS",
}  # fmt: skip

#: Records of a query that are looked through for its OPT; a query with more is malformed.
MAX_QUERY_RECORDS = 32
#: Labels by their length, with it: the byte before a label.
LENGTHS = {size: bytes([size]) for size in range(1, MAX_LABEL_BYTES + 1)}


class BadName(ValueError):
    """A name that cannot be written as DNS labels."""


def wire_name(name: str) -> bytes:
    """A name in wire form, lower-cased; the last dot is optional.  Raises BadName.

    >>> wire_name("Leader.mesos")
    b'\\x06leader\\x05mesos\\x00'
    """
    try:
        labels = name.encode("ascii").lower().removesuffix(b".").split(b".")
        wire = b"".join([LENGTHS[len(label)] + label for label in labels]) + b"\0"
    except UnicodeEncodeError:
        raise BadName(f"name is not ascii: {name[:80]!r}") from None
    except KeyError:
        raise BadName(f"name has a label of 0 or more than 63 bytes: {name[:80]!r}") from None
    if len(wire) > MAX_NAME_BYTES:
        raise BadName(f"name has more than 255 bytes: {name[:80]!r}")
    return wire


def text_name(wire: bytes) -> str:
    """The text of an uncompressed name in wire form, without the last dot.

    Bytes outside of printable ASCII, dots and backslashes are escaped as in RFC 1035, 5.1.
    """
    labels, at = [], 0
    while at < len(wire) and (size := wire[at]):
        labels.append("".join(_escaped(byte) for byte in wire[at + 1 : at + 1 + size]))
        at += 1 + size
    return ".".join(labels)


def _escaped(byte: int) -> str:
    if 32 < byte < 127:
        return "\\" + chr(byte) if byte in b'.\\"();@$' else chr(byte)
    return f"\\{byte:03d}"


def question_end(query: bytes) -> int | None:
    """Where the first question of a message ends; None when it is malformed.

    A first question cannot be compressed, for there is no name before it.
    """
    at, size = HEADER_BYTES, len(query)
    while at < size:
        length = query[at]
        at += 1
        if length == 0:
            return at + 4 if at + 4 <= size else None
        if length > MAX_LABEL_BYTES or at - HEADER_BYTES + length >= MAX_NAME_BYTES:
            return None
        at += length
    return None


def read_opt(query: bytes, at: int) -> bytes | None:
    """The fixed 11 bytes of the OPT record of a query; empty without one, None when malformed.

    at: where the first question ends.  Options are left out.  Two OPTs are malformed (RFC 6891,
    6.1.1).  Bytes behind the last record are ignored.
    """
    records = sum(query[i] << 8 | query[i + 1] for i in (6, 8, 10))
    if records > MAX_QUERY_RECORDS:
        return None
    found = b""
    for _ in range(records):
        start, end = at, name_end(query, at)
        if end is None or end + 10 > len(query):
            return None
        at = end + 10 + (query[end + 8] << 8 | query[end + 9])
        if at > len(query):
            return None
        if query[end] << 8 | query[end + 1] == OPT:
            if found or query[start]:
                return None
            found = query[start : end + 10]
    return found


def name_end(message: bytes, at: int) -> int | None:
    """Where a name ends that may be compressed; None beyond the end of the message."""
    size = len(message)
    while at < size:
        length = message[at]
        if length >= 0xC0:
            return at + 2
        if length > MAX_LABEL_BYTES:
            return None
        at += 1 + length
        if length == 0:
            return at
    return None
