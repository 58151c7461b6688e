"""Where settings come from: flags, the environment and a TOML file, by one table."""
