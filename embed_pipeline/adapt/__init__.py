"""Between two spaces: one version's list put in order by another, maps from the new space into the old, and what a migration is worth."""
