"""The library behind HugCoder's entry points: no argparse, no print, no sys.argv below this
folder.
"""

from hugcoder.installed import check_installed

check_installed()
