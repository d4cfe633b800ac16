"""Names of the v0 API, which the legacy JSON endpoints and the metrics still print.

v1 renamed Slave to Agent; states kept their names, reasons and sources did not.
"""


def v0_name(name: str) -> str:
    """The v0 spelling of a v1 reason or source.

    >>> v0_name("REASON_AGENT_REMOVED"), v0_name("SOURCE_AGENT"), v0_name("REASON_TASK_INVALID")
    ('REASON_SLAVE_REMOVED', 'SOURCE_SLAVE', 'REASON_TASK_INVALID')
    """
    return "_".join("SLAVE" if part == "AGENT" else part for part in name.split("_"))
