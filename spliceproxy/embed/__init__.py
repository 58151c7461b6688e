"""The proxy in a program or a test."""
