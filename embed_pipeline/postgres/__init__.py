"""PostgreSQL: the embedded server (`embedded`), connections (`connection`) and the loader of SQL files (`queries`)."""
