"""The SQLite file and the one thread that uses it."""
