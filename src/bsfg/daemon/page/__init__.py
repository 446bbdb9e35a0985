"""The operator page on ``local:``: rendered here, live by server-sent events, nothing fetched from elsewhere."""
