"""The engines without C."""
