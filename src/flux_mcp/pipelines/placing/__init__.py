"""Where weights are, on the card, in main memory or on disk; and how they get there."""
