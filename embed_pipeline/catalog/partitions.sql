-- name: insert
INSERT INTO embed_pipeline.partitions (index_name, version, partition_key, lower_key, upper_key, is_empty)
VALUES (%(index)s, %(version)s, %(partition)s, %(lower)s, %(upper)s, %(is_empty)s)

-- name: list
SELECT partition_key, lower_key, upper_key, is_empty, epoch, completed_at, documents FROM embed_pipeline.partitions
WHERE index_name = %(index)s AND version = %(version)s ORDER BY partition_key

-- name: open
-- Under a new epoch: whoever held the one before comes too late with what it has in its hands.
UPDATE embed_pipeline.partitions SET epoch = epoch + 1, closed = false
WHERE index_name = %(index)s AND version = %(version)s AND partition_key = %(partition)s AND completed_at IS NULL
RETURNING epoch

-- name: close
-- Waits for inserts that are under way; nothing is inserted from here on.
UPDATE embed_pipeline.partitions SET epoch = epoch + 1, closed = true
WHERE index_name = %(index)s AND version = %(version)s AND partition_key = %(partition)s
RETURNING epoch

-- name: hold
-- Shared by all inserts into the partition, until they commit.
SELECT true FROM embed_pipeline.partitions
WHERE index_name = %(index)s AND version = %(version)s AND partition_key = %(partition)s AND epoch = %(epoch)s AND NOT closed
FOR SHARE

-- name: complete
-- Compare and set: the mark belongs to the comparison that took this epoch.
UPDATE embed_pipeline.partitions SET completed_at = clock_timestamp(), documents = %(documents)s
WHERE index_name = %(index)s AND version = %(version)s AND partition_key = %(partition)s AND epoch = %(epoch)s AND closed
