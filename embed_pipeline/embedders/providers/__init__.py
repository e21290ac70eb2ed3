"""The models that can be declared by name: one module for each."""
