-- name: provenance
SELECT count(*), count(*) FILTER (WHERE (model_name, model_version, fingerprint)
                                        IS DISTINCT FROM (%(model_name)s, %(model_version)s, %(fingerprint)s))
FROM embed_pipeline.provenance WHERE index = %(index)s AND version = %(version)s
