"""Models: their configs, their weights, random or from files, and the folders that hold them."""
