-- name: by_key
-- A batch is looked up through the key's index. Left alone, the planner would rather hash the whole of a middle-sized table.
SELECT set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)

-- name: lock_timeout
SELECT set_config('lock_timeout', %(milliseconds)s, true)

-- name: bound
-- The key that ends a slice of so many documents; none where fewer are left.
SELECT {key_array} FROM {documents} AS d WHERE {in_range} ORDER BY {key_columns} OFFSET %(size)s - 1 LIMIT 1
