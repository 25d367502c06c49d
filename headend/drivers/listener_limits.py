"""Who may call, and how often: the allow list and the token buckets of a listening port. Pure; `now` is monotonic seconds."""

from ipaddress import IPv6Address, ip_address

from msgspec import Struct

from headend.drivers.listener_settings import Network

__all__ = ["NOT_ALLOWED", "TOO_OFTEN", "ConnectLimits"]

BURST_S = 2.0  # what a bucket holds: so many seconds' worth
PEERS_MAX = 4096  # addresses remembered; forgetting one gives it a full bucket, which the overall limit still bounds


NOT_ALLOWED = "refused_by_allow_list"
TOO_OFTEN = "refused_by_rate"


class _Bucket(Struct):
    tokens: float
    at: float


class ConnectLimits:
    """allow: empty for anybody. per_s, peer_per_s: connects a second, over all and from one address."""

    def __init__(self, allow: tuple[Network, ...], *, per_s: float, peer_per_s: float) -> None:
        self._allow = allow
        self._per_s = per_s
        self._peer_per_s = peer_per_s
        self._all = _Bucket(max(1.0, per_s * BURST_S), float("-inf"))
        self._peers: dict[str, _Bucket] = {}

    def judge(self, address: str, now: float) -> str:
        """Empty when the caller may come; else the name of the counter that it costs. address: as the socket tells it."""
        if not self.is_allowed(address):
            return NOT_ALLOWED
        # The caller's own bucket first: one that storms must not use up what all share.
        if not _take(self._bucket_of(address, now), self._peer_per_s, now):
            return TOO_OFTEN
        return "" if _take(self._all, self._per_s, now) else TOO_OFTEN

    def is_allowed(self, address: str) -> bool:
        if not self._allow:
            return True
        try:
            known = ip_address(address.partition("%")[0])
        except ValueError:
            return False
        mapped = known.ipv4_mapped if isinstance(known, IPv6Address) else None  # from a socket that takes both
        return any((mapped or known) in network for network in self._allow)

    def _bucket_of(self, address: str, now: float) -> _Bucket:
        bucket = self._peers.pop(address, None) or _Bucket(max(1.0, self._peer_per_s * BURST_S), now)
        self._peers[address] = bucket  # the last again: the first is the one not heard of for longest
        if len(self._peers) > PEERS_MAX:
            del self._peers[next(iter(self._peers))]
        return bucket


def _take(bucket: _Bucket, per_s: float, now: float) -> bool:
    if now > bucket.at:
        elapsed_s = now - bucket.at
        bucket.tokens = min(max(1.0, per_s * BURST_S), bucket.tokens + elapsed_s * per_s)
        bucket.at = now
    if bucket.tokens < 1.0:
        return False
    bucket.tokens -= 1.0
    return True
