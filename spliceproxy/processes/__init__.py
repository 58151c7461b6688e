"""The processes: bind, fork, drain, stop."""
