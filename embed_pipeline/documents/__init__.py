"""The ledger of documents: the user's table, its changes, its key ranges, and files that become documents."""
