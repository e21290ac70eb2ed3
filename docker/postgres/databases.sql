-- Run once, by the PostgreSQL image, when its volume is empty: one database and one role for Dagster, one for the indexes.
-- Passwords come from the environment of the container and are quoted by psql.
\getenv dagster_password DAGSTER_PASSWORD
\getenv embed_pipeline_password EMBED_PIPELINE_PASSWORD

CREATE ROLE dagster LOGIN PASSWORD :'dagster_password';
CREATE DATABASE dagster OWNER dagster;

CREATE ROLE embed_pipeline LOGIN PASSWORD :'embed_pipeline_password';
CREATE DATABASE embed_pipeline OWNER embed_pipeline;
-- What a throttle watches: standbys, sessions, vacuum.
GRANT pg_monitor TO embed_pipeline;

REVOKE ALL ON DATABASE dagster, embed_pipeline FROM PUBLIC;

\connect embed_pipeline
CREATE EXTENSION vector;
