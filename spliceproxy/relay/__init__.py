"""How bytes are moved: the engines, and what runs one on an event loop."""
