"""The runbook's drills: what each must show, judged by pure functions on what was seen (sections 8 and 9)."""
