"""Ways in: one client, from accept to its end."""
