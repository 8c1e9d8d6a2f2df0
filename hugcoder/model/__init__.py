"""Makes models: their configs, their weights, random or from files, and their folders."""
