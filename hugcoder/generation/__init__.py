"""Generates text from a model and a prompt."""
