"""Pretrains on packed rows with fill-in-the-middle: arguments, trainer, losses, scores."""
