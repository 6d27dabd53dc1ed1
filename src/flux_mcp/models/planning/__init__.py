"""From quality, memory and measured figures to a model and how it is loaded."""
