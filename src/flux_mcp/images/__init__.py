"""Images coming in: references resolved, checked and made into plain RGB or mask files."""
