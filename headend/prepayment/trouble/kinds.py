"""What an operator should look at of an account. Published: a word is never given another meaning."""

__all__ = [
    "CLOSED_WHILE_OFF",
    "DISCONNECTION_REFUSED",
    "HOLD",
    "HOLDS",
    "INCREASE",
    "NOT_BACK",
    "NOT_BOOKED",
    "OF_EPISODE",
    "REVERSED_AFTER_CLOSING",
    "REVISED_AFTER_CLOSING",
    "UNREACHABLE",
    "USE_WHILE_DISCONNECTED",
    "WARNED_IN_VAIN",
]

HOLD = "hold"  # set by a person: not to be disconnected
DISCONNECTION_REFUSED = "disconnection-refused"  # by the switch, for a reason that no time cures
WARNED_IN_VAIN = "warned-in-vain"  # as often as the plan allows
NOT_BACK = "not-back"  # paid, and in the dark for longer than the plan allows
UNREACHABLE = "unreachable"
NOT_BOOKED = "payment-not-booked"  # told to the switch, and not told again by its channel
CLOSED_WHILE_OFF = "closed-while-off"
REVERSED_AFTER_CLOSING = "reversed-after-closing"
REVISED_AFTER_CLOSING = "revised-after-closing"
INCREASE = "sudden-increase"
USE_WHILE_DISCONNECTED = "use-while-disconnected"

HOLDS = (HOLD, DISCONNECTION_REFUSED, WARNED_IN_VAIN)  # while one of them stands nothing is disconnected
OF_EPISODE = (DISCONNECTION_REFUSED, WARNED_IN_VAIN, NOT_BACK)  # end with it
