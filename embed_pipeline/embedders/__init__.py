"""Embedders: texts in, one vector each out. `registry` opens the one that a version declares, `checked` guards its answers."""
