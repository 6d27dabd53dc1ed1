"""From files of weights to loaded parts: folders, single files and GGUF files, in any format."""
