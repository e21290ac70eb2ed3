"""What a person is shown: the state of an index, a plan before it, and the next command."""
