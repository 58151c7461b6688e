"""Between client and origin."""
