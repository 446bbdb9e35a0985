"""The wire between zones: TLS, identity, pages, client and peer listener."""
