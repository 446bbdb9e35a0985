"""Durable storage under a zone; each adapter passes the contract suite of its port."""
