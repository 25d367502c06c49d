"""The audit log: every request, decision, frame and result, chained by hashes, durable before its effect, signed at checkpoints."""

from headend.audit.checkpoint import Checkpoint
from headend.audit.keeper import AuditKeeper
from headend.audit.log import AuditLog
from headend.audit.record import AuditError, AuditRecord, SecretInRecord, UnknownKind

__all__ = ["AuditError", "AuditKeeper", "AuditLog", "AuditRecord", "Checkpoint", "SecretInRecord", "UnknownKind"]
