-- What each version's model answered to a few fixed texts before it embedded any document: a provider that changes a model behind its
-- name is found by asking again. The texts stand beside their vectors, so that a later package with other texts compares like with like.
CREATE TABLE embed_pipeline.model_samples (
    index_name    text NOT NULL,
    version       text NOT NULL,
    texts         text[] NOT NULL,
    vectors       bytea NOT NULL,       -- float32, little-endian, one row of the version's dimensions for each text
    late          boolean NOT NULL,     -- documents had vectors already: of those it proves nothing
    taken_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    agreed_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    checked_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    lowest_cosine double precision,
    changed_at    timestamptz,          -- since when the model is known to be another one; NULL while it is the same
    PRIMARY KEY (index_name, version),
    FOREIGN KEY (index_name, version) REFERENCES embed_pipeline.index_versions
);
