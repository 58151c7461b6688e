"""Sockets under time limits."""
