"""Names and numbers of DNS messages (RFC 1035, RFC 2782, RFC 3596, RFC 6891)."""

A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, SRV, OPT = 1, 2, 5, 6, 12, 15, 16, 28, 33, 41
IXFR, AXFR, ANY = 251, 252, 255
IN = 1
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, NOTAUTH = 0, 1, 2, 3, 4, 5, 9
BADVERS = 16
HEADER_BYTES = 12
MAX_NAME_BYTES = 255
MAX_LABEL_BYTES = 63

TYPE_NAMES = {
    A: "A", NS: "NS", CNAME: "CNAME", SOA: "SOA", PTR: "PTR", MX: "MX", TXT: "TXT",
    AAAA: "AAAA", SRV: "SRV", OPT: "OPT", IXFR: "IXFR", AXFR: "AXFR", ANY: "ANY",
}  # fmt: skip


class BadName(ValueError):
    """A name that cannot be written as DNS labels."""


def wire_name(name: str) -> bytes:
    """A name in wire form, lower-cased; the last dot is optional.  Raises BadName.

    >>> wire_name("Leader.mesos")
    b'\\x06leader\\x05mesos\\x00'
    """
    parts = name.removesuffix(".").split(".")
    try:
        labels = [part.encode("ascii").lower() for part in parts]
    except UnicodeEncodeError:
        raise BadName(f"name is not ascii: {name[:80]!r}") from None
    if not all(0 < len(label) <= MAX_LABEL_BYTES for label in labels):
        raise BadName(f"name has a label of 0 or more than 63 bytes: {name[:80]!r}")
    wire = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
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
