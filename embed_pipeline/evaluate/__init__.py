"""Whether an embedding version may serve: held-out sets, metrics, statistics of their difference, verdict, report."""
