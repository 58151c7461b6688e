"""TLS as functions of bytes, without I/O."""
