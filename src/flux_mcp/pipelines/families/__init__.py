"""One module for each family of models: how its pipelines are called."""
