"""A guess at a licence from its text or a package's metadata, as an SPDX name.

A table of telling phrases, no legal advice: what it does not know is "unknown", never permissive.
"""

import re

UNKNOWN = "unknown"
NUM_CHARACTERS = 4_000  # the name of a licence stands in its head
FILE_NAME = re.compile(r"(un)?licen[cs]e|copying|copyright", re.IGNORECASE)
PHRASES: tuple[tuple[str, str], ...] = (  # the first that matches; narrow ones stand before broad
    (r"affero general public license.{0,80}version 3", "AGPL-3.0"),
    (r"(lesser|library) general public license.{0,80}version 3", "LGPL-3.0"),
    (r"(lesser|library) general public license.{0,80}version 2", "LGPL-2.1"),
    (r"lesser general public license|\blgpl", "LGPL"),
    (r"general public license.{0,80}version 3|\bgplv?-?3", "GPL-3.0"),
    (r"general public license.{0,80}version 2|\bgplv?-?2", "GPL-2.0"),
    (r"general public license|\bgpl\b", "GPL"),
    (r"mozilla public license|\bmpl\b", "MPL-2.0"),
    (r"apache license|apache software license|\bapache[ -]2|^apache$", "Apache-2.0"),
    (r"python software foundation|^psf", "PSF-2.0"),
    (r"bsd 2-clause|bsd-2-clause", "BSD-2-Clause"),
    (r"neither the name|bsd 3-clause|bsd-3-clause|new bsd", "BSD-3-Clause"),
    (r"redistribution and use in source and binary forms", "BSD-2-Clause"),
    (r"^bsd|\bbsd license", "BSD"),
    (r"permission to use, copy, modify, and/?(or)? distribute this software|\bisc\b", "ISC"),
    (r"permission is hereby granted, free of charge|\bmit\b", "MIT"),
    (r"free and unencumbered software|\bunlicense\b", "Unlicense"),
    (r"cc0|public domain", "CC0-1.0"),
)


def guess(text: str) -> str:
    """SPDX name of the licence that `text` (a licence file or a name) is, or "unknown"."""
    head = " ".join(text[:NUM_CHARACTERS].lower().split())
    return next((name for phrase, name in PHRASES if re.search(phrase, head)), UNKNOWN)


def is_license_file(name: str) -> bool:
    """Whether a file of that name (without folders) holds a licence."""
    return bool(FILE_NAME.match(name))
