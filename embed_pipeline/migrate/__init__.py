"""The migration itself: register, backfill, dual-write, ANN index, verify, cutover, rollback, retire."""
