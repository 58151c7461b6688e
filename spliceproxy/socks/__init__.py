"""SOCKS 4, 4a and 5 as functions of bytes, without I/O."""
