"""What can be drawn with: registry rows, the choice among them, the weights on disk. No torch."""
