"""What was made, and how: rows, files, metadata."""
