"""Between two spaces: maps from a new model's queries into an old model's vectors, and what can be known of a migration before its bill."""
