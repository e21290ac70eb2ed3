-- A person may speak to the throttle from SQL.
SELECT 1;
