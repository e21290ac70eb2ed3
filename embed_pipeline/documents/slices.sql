-- name: begin
-- A batch is looked up through the key's index. Left alone, the planner would rather hash the whole of a middle-sized table.
SELECT set_config('statement_timeout', '0', true), set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)

-- name: begin_17
-- A process that freezes before the server has all of its statements is in none, and so idle in no transaction either.
SELECT set_config('statement_timeout', '0', true), set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),
       set_config('transaction_timeout', %(milliseconds)s, true)

-- name: lock_timeout
SELECT set_config('lock_timeout', %(milliseconds)s, true)

-- name: bound
-- The key that ends a slice of so many documents; none where fewer are left.
SELECT {key_array} FROM {documents} AS d WHERE {in_range} ORDER BY {key_columns} OFFSET %(size)s - 1 LIMIT 1
