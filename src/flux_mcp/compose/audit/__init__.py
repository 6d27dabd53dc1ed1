"""Does a prompt mention what it must not? Negation-aware; contradictions; positive rewordings."""

from flux_mcp.compose.audit.findings import Audit, Code, Finding, Forbidden, Severity, Verdict
from flux_mcp.compose.audit.judge import audit, audit_text, check_forbidden

__all__ = [
    "Audit",
    "Code",
    "Finding",
    "Forbidden",
    "Severity",
    "Verdict",
    "audit",
    "audit_text",
    "check_forbidden",
]
