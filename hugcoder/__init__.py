"""Holds the library behind HugCoder's entry points; nothing in this folder prints."""

from hugcoder.installed import check_installed

check_installed()
