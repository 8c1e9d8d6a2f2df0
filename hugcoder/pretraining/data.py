"""From arguments to datasets: the tokenizer, the rows of the run and the held-out rows."""

import dataclasses
from pathlib import Path

from hugcoder.data import corpus, token_store
from hugcoder.data.codec import Codec
from hugcoder.data.epochs import RowSettings
from hugcoder.data.mixture import clear_mixture
from hugcoder.data.rows import PackedRows
from hugcoder.data.token_store import TokenStore
from hugcoder.data.tokenizer_files import hub_tokenizer
from hugcoder.pretraining.arguments import DataArguments, ModelArguments, PretrainArguments
from hugcoder.refusal import Refusal

EPOCHS = "epochs.json"  # in the run folder, see PackedRows.remember_epochs


def load_codec(model: ModelArguments, data: DataArguments) -> Codec:
    """The tokenizer the token store was made with.

    Raises: Refusal when another tokenizer is asked for, by --tokenizer or by the model to continue.
    """
    store = Path(data.token_store)
    expected = token_store.manifest_of(store)["tokenizer_sha256"]
    folder = Path(model.tokenizer or model.model_name_or_path or store / "tokenizer")
    if not folder.is_dir():
        folder = hub_tokenizer(str(folder))
    codec = Codec(folder)
    if codec.fingerprint != expected:
        raise Refusal(
            f"{store} was made with another tokenizer ({expected[:12]}) than {folder} "
            f"({codec.fingerprint[:12]}); tokenize the corpus again with --tokenizer {folder}."
        )
    codec.fim_ids  # noqa: B018  refuses a tokenizer without fill-in-the-middle tokens
    return codec


def row_settings(data: DataArguments, training: PretrainArguments) -> RowSettings:
    return RowSettings(data.max_seq_length, training.seed, data.fim_settings, data.mixture_weights)


def load_rows(data: DataArguments, training: PretrainArguments, codec: Codec) -> PackedRows:
    """The rows of the whole run; also settles how long it is when epochs were asked for, and by
    which names the mixture goes.
    """
    store = TokenStore(data.token_store, corpus.TRAIN)
    data.mixture_weights = clear_mixture(store, data.mixture_weights)
    rows = PackedRows(store, codec, row_settings(data, training))
    training.settle_length(rows.epochs.rows_in(0))
    rows.epochs.remember(Path(training.output_dir) / EPOCHS, may_write=training.should_save)
    rows.num_rows = training.max_steps * training.rows_per_step
    return rows


def load_held_out(
    data: DataArguments, training: PretrainArguments, codec: Codec
) -> dict[str, PackedRows]:
    """Held-out rows: all left-to-right and, drawn apart, all fill-in-the-middle; none where nothing
    is to be scored.
    """
    if not data.held_out_rows or training.eval_strategy == "no":
        return {}
    store = TokenStore(data.token_store, corpus.HELD_OUT)
    settings = dataclasses.replace(row_settings(data, training), mixture={})
    held_out = {}
    for name, rate in (("left_to_right", 0.0), ("fim", 1.0)):
        fim_settings = dataclasses.replace(data.fim_settings, fim_rate=rate)
        rows = PackedRows(store, codec, dataclasses.replace(settings, fim=fim_settings))
        rows.num_rows = min(data.held_out_rows, rows.num_rows)
        held_out[name] = rows
    return held_out
