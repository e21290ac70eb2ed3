"""Points outside the ledger's database, written by compare-and-set on what was read of them."""
