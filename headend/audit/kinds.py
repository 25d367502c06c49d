"""Kinds of records: the table in docs/audit.md is made from here. A kind keeps its meaning for ever; new ones are added at will.

python -c "from headend.audit.kinds import kinds_table; print(kinds_table(), end='')"
"""

__all__ = ["ACKNOWLEDGED_BREAK", "BROKEN", "EXPORTED", "KINDS", "KNOWN", "kinds_table"]

BROKEN = "chain-broken"
ACKNOWLEDGED_BREAK = "break-acknowledged"
EXPORTED = "evidence-exported"

KINDS: dict[str, dict[str, str]] = {
    "Commands": {
        "requested": "somebody asks for a command",
        "duplicate": "the same idempotency key again; the first answer holds",
        "checked": "policy allows it; which version",
        "refused": "policy, governor, a person or the meter says no; which rule, which version, what would be needed",
        "approved": "a second person agrees; hash of the exact list",
        "approval-asked": "somebody asks for a second person; hash of the exact list",
        "approval-void": "the list was changed after it was approved",
        "scheduled": "waits for its time",
        "due": "its time has come",
        "sending": "durable before the first byte leaves; the frame, secrets masked, and the number that was read back",
        "sent": "its bytes have left; when, the frame, and its reply",
        "acknowledged": "the meter's normal reply",
        "verified": "read back, and as ordered; witnesses",
        "unconfirmed": "bytes have left, and nobody knows what they did",
        "contradicted": "read back, and contrary to the order",
        "failed": "nothing has left, or the reply proves that nothing was done",
        "cancelled": "taken back before a byte left",
        "superseded": "a newer close takes the place of an unsent open",
        "expired": "not sent in time",
        "recovered": "found in flight at a start; is read back first",
    },
    "Limits and policy": {
        "quarantined": "over a limit; waits for two people",
        "released": "two people let it go on",
        "deleted": "two people throw it away",
        "alarm": "somebody is to look at something",
        "policy-loaded": "a policy is in force; version and digest",
        "limits-changed": "limits of the governor, before and after",
        "stop-switch": "all opens are stopped, or allowed again",
        "fact": "a protection, a weather hold or another fact was set or removed",
    },
    "Customers": {
        "payment": "a payment was committed; fence",
        "obligation-begun": "a reconnect is owed; its clock",
        "obligation-tried": "a close was tried for it",
        "obligation-escalated": "1, 4, 12 or 20 hours have passed",
        "obligation-met": "supply is on, verified",
        "obligation-overdue": "24 hours have passed; stays open as an incident",
        "waiting-for-customer": "supply is permitted; the customer is to press the button",
    },
    "The wire": {
        "read-back": "power was seen at a customer who was permitted to close",
    },
    "Access and service": {
        "token-created": "name and roles; never the token",
        "token-revoked": "its name",
        "access-refused": "a request that its token does not allow",
        "service-started": "digest of the configuration; whether [control] is on",
        "clock-stepped": "the wall clock was set by more than a little",
    },
    "The log itself": {
        EXPORTED: "a meter's records were given to somebody",
        BROKEN: "the log is not as it was left; begins a new segment and raises the alarm",
        ACKNOWLEDGED_BREAK: "an operator has looked at the break; the alarm ends",
    },
}


def kinds_table() -> str:
    """Markdown."""
    lines = ["| Kind | What it records |", "|---|---|"]
    for group, kinds in KINDS.items():
        lines.append(f"| **{group}** | |")
        lines += [f"| `{kind}` | {meaning} |" for kind, meaning in kinds.items()]
    return "\n".join(lines) + "\n"


KNOWN = frozenset(kind for kinds in KINDS.values() for kind in kinds)
