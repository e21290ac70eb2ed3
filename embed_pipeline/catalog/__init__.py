"""The control plane: versions and their states, the serving pointer, gate evidence, control rows, audit."""
