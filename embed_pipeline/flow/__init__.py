"""How a batch of documents becomes vectors: read, cut into requests, embedded in flight, written."""
