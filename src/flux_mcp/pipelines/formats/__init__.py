"""How weights are held: in full, in 16, 8 or 4 bits, from folders, single files and GGUF files."""
