"""`python -m data_prep`: repositories to a curated corpus; `python -m data_prep tokenize`: to
tokens; `python -m data_prep verify`: whether what is there is whole.

    python -m data_prep configs/corpora/quickstart.yaml --output_dir data/quickstart
    python -m data_prep tokenize --corpus data/quickstart --tokenizer data/quickstart-tokenizer \
        --output_dir data/quickstart-tokens
    python -m data_prep verify data/quickstart

Imports nothing heavy: worker processes import this file again.
"""

import sys

from hugcoder.refusal import entry_point

DESCRIPTION = (
    "Curate repositories into a corpus, as in: python -m data_prep "
    "configs/corpora/my_repositories.yaml --output_dir data/mine. Two further programs: python -m "
    "data_prep tokenize --help (a corpus to a token store), and python -m data_prep verify FOLDER "
    "(compare a corpus, a store, a model or a tokenizer with the sizes and hashes in its manifest, "
    "as after copying it). Sources, rules and defaults: docs/corpus.md."
)


def main(argv: list[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["tokenize"]:
        from data_prep.tokenize_corpus import main as tokenize

        return tokenize(words[1:])

    if words[:1] == ["verify"]:
        from data_prep.verify import main as verify

        return verify(words[1:])

    import logging

    from data_prep.arguments import CorpusArguments
    from data_prep.pipeline import build_corpus
    from data_prep.report import table_text
    from hugcoder.recipe import parse

    arguments = parse([CorpusArguments], words, description=DESCRIPTION)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    manifest = build_corpus(arguments)
    print(table_text(manifest))
    print(f"\n{arguments.output_dir} is complete ({manifest['seconds']} s).")


if __name__ == "__main__":
    entry_point(main)()
