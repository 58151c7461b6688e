"""Sans-IO HTTP/1.1: heads, framing, header rules and error pages. It imports nothing of
the rest of the project and does no input or output."""
