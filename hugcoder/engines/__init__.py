"""What a launch is: its processes, DDP, FSDP2 and ZeRO, and what they share and shard."""
