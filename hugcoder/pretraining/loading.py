"""Loads tokenizer, rows and model as the arguments say."""

import dataclasses
import logging
from pathlib import Path

from transformers import PreTrainedModel

from hugcoder.data import corpus, token_store
from hugcoder.data.codec import Codec
from hugcoder.data.epochs import RowSettings
from hugcoder.data.holes import PAIRS
from hugcoder.data.mixture import clear_mixture
from hugcoder.data.rows import PackedRows
from hugcoder.data.token_store import TokenStore
from hugcoder.data.tokenizer_files import hub_tokenizer
from hugcoder.engines.launched import launched_with
from hugcoder.model.build import continued_model, new_model
from hugcoder.model.config import check_config, spm_variant_of
from hugcoder.model.pretrained import check_files
from hugcoder.pretraining.arguments import DataArguments, ModelArguments, PretrainArguments
from hugcoder.pretraining.held_out_holes import KINDS, HoleRows, draw_holes
from hugcoder.refusal import Refusal

logger = logging.getLogger(__name__)

EPOCHS = "epochs.json"  # in the run folder, see Epochs.remember


def load_codec(model: ModelArguments, data: DataArguments) -> Codec:
    """Load the tokenizer of the token store.

    Raises: Refusal when --tokenizer, or the model to continue, has another tokenizer.
    """
    store = Path(data.token_store)
    expected = token_store.manifest_of(store)["tokenizer_sha256"]
    folder = Path(model.tokenizer or model.model_name_or_path or store / "tokenizer")
    if not folder.is_dir():
        folder = hub_tokenizer(str(folder))
    variant = data.spm_variant
    if model.model_name_or_path and not variant:
        variant = spm_variant_of(model.model_name_or_path)
    codec = Codec(folder, variant)
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
    """Load the rows of one epoch; `fix_length` extends them to the whole run."""
    store = TokenStore(data.token_store, corpus.TRAIN)
    settings = row_settings(data, training)
    mixture = clear_mixture(store, settings.mixture)
    return PackedRows(store, codec, dataclasses.replace(settings, mixture=mixture))


def fix_length(rows: PackedRows, training: PretrainArguments) -> None:
    """Set the run's length and schedule, and the number of rows to match.

    Writes the lengths of the epochs into the run folder.
    """
    training.fix_length(rows.epochs.rows_in(0))
    rows.epochs.remember(Path(training.output_dir) / EPOCHS, may_write=training.should_save)
    rows.num_rows = training.max_steps * training.rows_per_step


def load_scored(
    data: DataArguments, training: PretrainArguments, codec: Codec
) -> tuple[dict[str, PackedRows], HoleRows | None]:
    """Load what is scored during training: held-out rows, and holes in held-out files."""
    return load_held_out(data, training, codec), load_holes(data, training, codec)


def load_held_out(
    data: DataArguments, training: PretrainArguments, codec: Codec
) -> dict[str, PackedRows]:
    """Load held-out rows twice: all left-to-right, and all fill-in-the-middle.

    Returns none when nothing is to be scored.
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


def load_holes(data: DataArguments, training: PretrainArguments, codec: Codec) -> HoleRows | None:
    """Load holes in held-out files; None when none are to be scored, or the files give none."""
    if not data.held_out_holes or not data.held_out_rows or training.eval_strategy == "no":
        return None
    store = TokenStore(data.token_store, corpus.HELD_OUT)
    holes = draw_holes(store, codec, data.max_seq_length, data.held_out_holes)
    missing = {*KINDS, *PAIRS} - {unit.kind for unit in holes.units}
    if missing and training.should_log:
        logger.warning(
            "the held-out files give no hole of the kind %s: it is not scored during training; "
            "hold out more, or give --held_out_holes 0",
            ", ".join(sorted(missing)),
        )
    return holes if len(holes) else None


def check_model(model: ModelArguments) -> None:
    """Check the model before any data are read. Raises: Refusal when none can be made."""
    if model.config_file:
        check_config(model.config_file)
    else:
        check_files(model.model_name_or_path)


def build_model(
    model: ModelArguments, codec: Codec, max_seq_length: int, training: PretrainArguments
) -> PreTrainedModel:
    """Build the model to train. Raises: Refusal, see `new_model` and `continued_model`."""
    kernel = model.attn_implementation
    if model.model_name_or_path:
        return continued_model(model.model_name_or_path, codec, max_seq_length, kernel)
    return new_model(
        model.config_file,
        codec,
        max_seq_length,
        kernel,
        model.residual_init,
        model.copy_heads,
        training.seed,
        on_meta=bool(training.fsdp) or launched_with("FSDP"),
    )
