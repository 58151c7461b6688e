"""Records of what is over, and where they go."""
