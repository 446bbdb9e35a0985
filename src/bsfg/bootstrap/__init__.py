"""Puts a gateway together from its configuration: the only package that knows all the others.

Commands import what they need of it by its module, so that those that start no gateway start quickly.
"""
