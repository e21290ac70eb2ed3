"""The definitions of this deployment: one folder for each index, each with its defs.yaml."""
