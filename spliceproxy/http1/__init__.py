"""Sans-IO HTTP/1.1: heads, framing and header rules. It imports nothing of the rest of the project
but the names of errors, and does no input or output."""
