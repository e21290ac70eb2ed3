-- name: count_in_range
SELECT count(*) FROM {documents} AS d WHERE {in_range}
