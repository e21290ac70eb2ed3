"""The command line: the verbs of the library for a shell and for deployment pipelines. Imports no Dagster."""
