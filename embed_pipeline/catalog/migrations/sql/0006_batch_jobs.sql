-- Jobs at the providers' batch interfaces. The row stands before the job does: a process that dies between the two leaves a token, by which
-- the next one finds the job at the provider and does not pay for it again.
CREATE TABLE embed_pipeline.batch_jobs (
    token         text PRIMARY KEY,
    index_name    text NOT NULL,
    version       text NOT NULL,
    partition     text NOT NULL,
    doc_ids       text[] NOT NULL,
    is_last       boolean NOT NULL,     -- nothing of the partition was left to submit after it
    tokens        bigint NOT NULL,      -- as it was expected when the job was submitted
    job_id        text,                 -- the provider's; NULL while nobody knows whether it was submitted
    intended_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    submitted_at  timestamptz,
    collected_at  timestamptz,
    ended         text NOT NULL DEFAULT '',  -- how, in the provider's words
    FOREIGN KEY (index_name, version) REFERENCES embed_pipeline.index_versions
);
CREATE INDEX batch_jobs_of_partition ON embed_pipeline.batch_jobs (index_name, version, partition);
