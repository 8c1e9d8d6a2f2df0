"""Trainer callbacks, one concern a file."""
