"""Holds the Trainer callbacks of any run, one concern in each file."""
