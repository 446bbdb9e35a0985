"""Puts a gateway, and its worker processes, together from a configuration: the only package that knows all others.

``run`` is the gateway, ``worker`` a worker process; nothing is imported here, so that each loads only what it needs.
"""
