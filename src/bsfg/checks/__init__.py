"""The runbook as checks."""
