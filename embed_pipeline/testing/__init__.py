"""For an application's own tests: a kind of store, `memory`, which importing this room adds."""

from embed_pipeline.spec import KINDS

KINDS["memory"] = "embed_pipeline.testing.kind"
