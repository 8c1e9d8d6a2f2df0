"""Makes any run last: checkpoints, resuming, the guard, signals, and its records."""
