"""How an index is run and seen in Dagster. Holds no logic: every asset and op calls one verb of the library.

component   the YAML declaration of an index becomes definitions; `build_definitions` does the same from Python
assets      the graph of one index: documents, embeddings, ANN index, evaluation, serving, dual-write
checks      what blocks a version from serving, as checks of its evaluation
jobs        backfill, gate, cutover, rollback, retire, dual-write, pause and resume
sensors     requests a dual-write when changes wait, and a full comparison while something is doubted
schedules   fills the next partitions in an off-peak window
names       the keys and names of all of these
work        opens the index for an asset or op, and turns refusals into failures of one sentence
metadata    turns reports into what a person sees
storage     Dagster's own tables in the embedded PostgreSQL
dev         `make dev`
"""
