"""Tables and reports of finished runs."""
