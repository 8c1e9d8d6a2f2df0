"""Measures how large a model is, and what a token costs."""

from dataclasses import asdict, dataclass

from transformers import PreTrainedModel

from hugcoder.engines.sharded_parameters import whole_shape
from hugcoder.hardware import flops_per_token


@dataclass(frozen=True)
class ModelSize:
    """Holds a model's parameters, and its FLOPs of forward and backward for one token."""

    parameters: int
    embedding_parameters: int
    flops_per_token: float

    def facts(self) -> dict[str, float]:
        """Return the counts as run.json has them."""
        return asdict(self)

    def __str__(self) -> str:
        inside = self.parameters - self.embedding_parameters
        return (
            f"{self.parameters:,} parameters ({inside:,} outside embeddings), "
            f"{self.flops_per_token / 1e6:,.1f} MFLOPs a token"
        )


def measure_model(model: PreTrainedModel, row_length: int) -> ModelSize:
    """Count parameters (tied ones once) and FLOPs of the whole model, even when it is sharded."""
    config = model.config
    parameters = sum(whole_shape(parameter).numel() for parameter in model.parameters())
    embedding = whole_shape(model.get_input_embeddings().weight).numel()
    multiplying = parameters if config.tie_word_embeddings else parameters - embedding
    head_size = (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    width = config.num_attention_heads * head_size
    flops = flops_per_token(multiplying, config.num_hidden_layers, width, row_length)
    return ModelSize(parameters, embedding, flops)
