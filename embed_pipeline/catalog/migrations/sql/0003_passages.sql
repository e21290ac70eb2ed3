-- Where a chunk stands in its document.
SELECT 1;
