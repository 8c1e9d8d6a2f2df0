"""Handles a launch: its processes, DDP, FSDP2 and ZeRO, and what they share and shard."""
