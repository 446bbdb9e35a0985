"""The running gateway: supervisor, link driver, local API, telemetry."""
