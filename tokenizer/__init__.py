"""Training, checking and measuring byte-level BPE tokenizers for code; run as `python -m
tokenizer`.
"""
