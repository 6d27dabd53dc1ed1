"""Files of weights to loaded parts: in full, in 16, 8 or 4 bits, from folders, single files and GGUF files."""
