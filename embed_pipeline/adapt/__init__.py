"""Answers while two versions are there: what puts one version's list in order by another."""
