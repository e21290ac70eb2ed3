"""What belongs to an index while it is worked on or searched."""
