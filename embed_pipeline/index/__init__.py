"""An open index: its handle, its spaces, and how searches resolve the version that serves."""
