-- name: has_revision
SELECT to_regclass('embed_pipeline.schema_version') IS NOT NULL

-- name: has_tables
SELECT to_regclass('embed_pipeline.indexes') IS NOT NULL

-- name: revision
SELECT version_num FROM embed_pipeline.schema_version

-- name: works_from
SELECT revision FROM embed_pipeline.works_from

-- name: make_revision
-- As Alembic makes it.
CREATE TABLE embed_pipeline.schema_version (
    version_num character varying(32) NOT NULL,
    CONSTRAINT schema_version_pkc PRIMARY KEY (version_num)
)

-- name: set_revision
INSERT INTO embed_pipeline.schema_version (version_num) VALUES (%(revision)s)

-- name: missing_parts
SELECT to_regnamespace('embed_pipeline') IS NULL, NOT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'vector'),
       to_regnamespace('public') IS NULL

-- name: create_schema
CREATE SCHEMA embed_pipeline

-- name: create_extension
-- Where everybody's names are looked up, as it would be without a search_path of our own.
CREATE EXTENSION vector SCHEMA public
