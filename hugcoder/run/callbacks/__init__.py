"""Trainer callbacks of any run, one concern a file."""
