"""Embedders: texts in, one vector each out. `registry` opens the declared one, `checked` guards its answers."""
