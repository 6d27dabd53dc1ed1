"""From quality, memory and measured figures to a model and how its weights are loaded. Pure but for `machine`."""
