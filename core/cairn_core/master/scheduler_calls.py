"""Whether a scheduler call has the parts that its type needs.

Source: Apache Mesos `src/master/validation.cpp` (namespace scheduler::call).
"""

from cairn_core.mesos.scheduler_api import Call

#: The part that must be there, by type.
_PARTS = {
    "SUBSCRIBE": "subscribe",
    "ACCEPT": "accept",
    "DECLINE": "decline",
    "ACCEPT_INVERSE_OFFERS": "accept_inverse_offers",
    "DECLINE_INVERSE_OFFERS": "decline_inverse_offers",
    "KILL": "kill",
    "SHUTDOWN": "shutdown",
    "ACKNOWLEDGE": "acknowledge",
    "ACKNOWLEDGE_OPERATION_STATUS": "acknowledge_operation_status",
    "RECONCILE": "reconcile",
    "RECONCILE_OPERATIONS": "reconcile_operations",
    "MESSAGE": "message",
    "REQUEST": "request",
    "UPDATE_FRAMEWORK": "update_framework",
}
_UUID_BYTES = 16


def fault_of_call(call: Call) -> str | None:
    """What is missing or contradictory; None when the call is well-formed."""
    if call.type is None:
        return "Expecting 'type' to be present"
    part = _PARTS.get(call.type)
    if part is not None and getattr(call, part) is None:
        return f"Expecting '{part}' to be present"
    if call.type == "SUBSCRIBE":
        return _fault_of_subscribe(call)
    if call.framework_id is None:
        return "Expecting 'framework_id' to be present"
    for body in (call.acknowledge, call.acknowledge_operation_status):
        if body is not None and len(body.uuid) != _UUID_BYTES:
            return f"Expecting 'uuid' to have {_UUID_BYTES} bytes, not {len(body.uuid)}"
    update = call.update_framework
    if call.type == "UPDATE_FRAMEWORK" and update is not None:
        if update.framework_info.id is None:
            return "Expecting 'framework_info.id' to be present"
        if update.framework_info.id != call.framework_id:
            return "'framework_id' differs from 'update_framework.framework_info.id'"
    return None


def _fault_of_subscribe(call: Call) -> str | None:
    assert call.subscribe is not None
    inner = call.subscribe.framework_info.id
    if inner is not None and not inner.value:
        inner = None
    if call.framework_id is None and inner is None:
        return None
    if call.framework_id != inner:
        return "'framework_id' differs from 'subscribe.framework_info.id'"
    return None
