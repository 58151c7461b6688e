"""Ways out: names, dialling, idle connections."""
