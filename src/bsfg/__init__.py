"""BSFG: the gateway at a zone's edge, and the operator's tool for it."""

__version__ = "0.1.0"
