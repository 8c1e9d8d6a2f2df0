"""A file with a hole: `read_settings` does not say yet what it returns."""

import json

DEFAULTS = {"name": "", "size": 0}


def read_settings(path):
    """The settings in a JSON file, with the defaults for what it leaves out."""
    settings = dict(DEFAULTS)
    with open(path) as file:
        settings.update(json.load(file))
    return


def write_settings(path, settings):
    """Write settings to a JSON file."""
    with open(path, "w") as file:
        json.dump(settings, file)
