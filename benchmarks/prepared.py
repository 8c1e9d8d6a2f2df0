"""A model with its rows and settings, as train.py makes them; for the programs beside this one."""

from transformers import PreTrainedModel, set_seed

from hugcoder.data.rows import PackedRows
from hugcoder.model.size import measure_model
from hugcoder.pretraining.arguments import DataArguments, ModelArguments, PretrainArguments
from hugcoder.pretraining.loading import build_model, fix_length, load_codec, load_rows
from hugcoder.pretraining.trainer import PretrainTrainer
from hugcoder.run.material import Material


def prepared(
    config_file: str, token_store: str, row_length: int, **settings
) -> tuple[PreTrainedModel, PretrainArguments, PackedRows]:
    """Model, settings and rows of a run without scores. Args: settings: of PretrainArguments."""
    training = PretrainArguments(eval_strategy="no", dataloader_num_workers=0, **settings)
    training.join()
    model = ModelArguments(config_file=config_file)
    data = DataArguments(token_store=token_store, max_seq_length=row_length, held_out_rows=0)
    codec = load_codec(model, data)
    rows = load_rows(data, training, codec)
    fix_length(rows, training)
    set_seed(training.seed)
    return build_model(model, codec, row_length, training), training, rows


def trainer_of(
    model: PreTrainedModel, training: PretrainArguments, rows: PackedRows
) -> PretrainTrainer:
    size = measure_model(model, rows.settings.row_length)
    return PretrainTrainer(model, training, rows, {}, None, size, Material({}, rows.codec.folder))
