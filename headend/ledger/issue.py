"""A manifest from what a look through its day has found. Pure."""

from datetime import datetime

from msgspec.structs import replace

from headend.feed.envelope import iso_utc
from headend.ledger.account import MeterAccount, MissingRun
from headend.ledger.closing import DayLook
from headend.ledger.digest import RecordsHash
from headend.ledger.entries import MeterEntry, Run
from headend.ledger.manifest import Manifest, PartEntry, Previous, signed_bytes
from headend.ledger.signing import SigningKey
from headend.ledger.states import State, states_of
from headend.store.rows import from_epoch_ms

__all__ = ["entries_of", "manifest_of"]


def entries_of(look: DayLook) -> list[MeterEntry]:
    """Of the meters of which anything was owed or read, by asset number."""
    return [
        _entry(account, look.records.get(meter) or RecordsHash())
        for meter, account in sorted(look.accounts.items())
        if account.events or account.expected
    ]


def _entry(account: MeterAccount, records: RecordsHash) -> MeterEntry:
    return MeterEntry(
        meter=account.meter,
        count=records.count,
        first=records.first,
        last=records.last,
        sha256=records.sha256,
        states=states_of(account.states),
        missing=[_run(run) for run in account.runs],
        missing_left_off=account.left_off,
    )


def _run(run: MissingRun) -> Run:
    return Run(
        obis=run.obis,
        state=run.state.value,
        reason=run.reason,
        first=iso_utc(from_epoch_ms(run.first)),
        last=iso_utc(from_epoch_ms(run.last)),
        count=run.count,
    )


def manifest_of(
    look: DayLook,
    *,
    source: str,
    revision: int,
    closed_at: datetime,
    parts: list[PartEntry],
    previous: Previous | None,
    key: SigningKey | None,
) -> Manifest:
    """look: complete. Signed when there is a key."""
    assert look.stretch is not None, "the stretch of the feed was not looked at"
    states = look.states
    manifest = Manifest(
        source=source,
        day=look.window.day.isoformat(),
        revision=revision,
        timezone=look.window.zone.key,
        start=iso_utc(look.window.start),
        end=iso_utc(look.window.end),
        closed_at=iso_utc(closed_at),
        through=look.through,
        is_final=State.OPEN not in states,
        meters=sum(part.meters for part in parts),
        count=look.whole.count,
        first=look.whole.first,
        last=look.whole.last,
        sha256=look.whole.sha256,
        states=states_of(states),
        parts=parts,
        feed=look.stretch,
        previous=previous,
        signed_by=None if key is None else key.public.id,
    )
    signature = None if key is None else key.sign(signed_bytes(manifest.to_data()))
    return replace(manifest, signature=signature)
