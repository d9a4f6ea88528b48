"""The only place that chooses a database."""
