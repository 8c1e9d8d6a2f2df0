"""Makes initial weights with which a model copies from its context from the first step on.

A transformer learns to copy late and all at once, when a head that looks at the previous token and
a head that looks for the current token's earlier followers have found each other (induction heads,
Olsson et al. 2022, arXiv 2209.11895). In a run of minutes the moment decides the result. So both
heads are made: the first heads of layer 0 look at the previous token and write it into a subspace
of the residual stream; the first heads of layer 1 compare the current token with that subspace and
add the token they find to the prediction. Giving attention a useful pattern to begin with is
mimetic initialization (Trockman and Kolter 2023, arXiv 2305.09828).

The architecture stays as it is, and training may change every weight. Looking at the previous token
needs queries and keys with a constant part. It comes from a coordinate that all embeddings share;
with tied embeddings it adds the same to all logits, which changes no prediction.

Shapes: V vocabulary, H hidden size, D head size.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PretrainedConfig

import fim
from hugcoder.refusal import Refusal

SHARPNESS = 8.0  # logit of attention at a perfect match: exp(8) outweighs hundreds of others
ECHO = 0.7  # norm of what a head writes, of a token embedding's
FAST_PAIRS = 4  # rotary pairs that tell the previous token from its neighbours
SLOW_ANGLE = 1.5  # radians over the whole context; slower pairs compare contents, not positions
NOISE = 0.3  # of the drawn queries and keys that stays beside the made ones
EMBEDDING = "model.embed_tokens.weight"
ATTENTION = "model.layers.{}.self_attn.{}_proj.weight"


@dataclass(frozen=True)
class CopyHeads:
    """Writes `num_heads` pairs of heads into the drawn weights of a Llama-like model.

    A function of config and seed alone, one tensor at a time, so shards can be filled one by one.
    """

    config: PretrainedConfig
    num_heads: int
    seed: int

    @torch.no_grad()
    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Change a tensor that takes part; leave any other as it is."""
        if name == EMBEDDING:
            tensor[:, 0] = self._token_norm
        for layer in (0, 1):
            for part in "qkvo":
                if name == ATTENTION.format(layer, part):
                    for head in range(self.num_heads):
                        self._write_head(tensor, layer, part, head)

    def _write_head(self, tensor: torch.Tensor, layer: int, part: str, head: int) -> None:
        size, group = self._head_size, self._heads_per_group
        place = head * group if part in "qo" else head
        own = slice(place * size, (place + 1) * size)
        if part == "o":
            tensor[:, own] = self._output(layer, head)
        elif part == "v":
            # of the same size as the drawn rows
            tensor[own] = self._reader(layer, head) * self._token_norm
        else:
            made = self._by_position(part) if layer == 0 else self._by_content(part, head)
            tensor[own] = NOISE * tensor[own] + made

    # ---- where a head looks ----------------------------------------------------------------------

    def _by_position(self, part: str) -> torch.Tensor:
        """Queries or keys [D, H] whose product is largest one token back."""
        vector = torch.zeros(self._head_size)
        for pair in range(min(FAST_PAIRS, self._head_size // 2)):
            angle = self._frequencies[pair].item() if part == "k" else 0.0
            vector[pair] = math.cos(angle)
            vector[pair + self._head_size // 2] = math.sin(angle)
        made = torch.zeros(self._head_size, self.config.hidden_size)
        # the shared coordinate is sqrt(H / 2) behind the norm, see `_token_norm`
        made[:, 0] = vector * self._length / vector.norm() / math.sqrt(self.config.hidden_size / 2)
        return made

    def _by_content(self, part: str, head: int) -> torch.Tensor:
        """Queries [D, H] of the current token, or keys of what layer 0 wrote of the one before."""
        size = self._head_size
        slow = (self._frequencies * self._context < SLOW_ANGLE).nonzero().flatten().tolist()
        slow = slow if len(slow) >= size // 8 else list(range(size // 2 - size // 8, size // 2))
        places = [*slow, *(pair + size // 2 for pair in slow)]
        compared = self._orthonormal(f"compared {head}", len(places), size)
        read = self._reader(0, head) if part == "q" else self._writer(head).T
        made = torch.zeros(size, self.config.hidden_size)
        made[places] = compared @ read * self._length / math.sqrt(len(places) / 2)
        return made

    # ---- what it takes from there ----------------------------------------------------------------

    def _reader(self, layer: int, head: int) -> torch.Tensor:
        """What a head takes of the token it looks at: orthonormal rows [D, H]."""
        return self._orthonormal(f"reader {layer} {head}", self._head_size, self.config.hidden_size)

    def _writer(self, head: int) -> torch.Tensor:
        """Where layer 0 writes it: orthonormal columns [H, D]."""
        name = f"writer {head}"
        return self._orthonormal(name, self._head_size, self.config.hidden_size).T

    def _output(self, layer: int, head: int) -> torch.Tensor:
        """The columns [H, D] of the output; layer 1 writes a token as its embedding spells it."""
        written = self._writer(head) if layer == 0 else self._reader(1, head).T
        return written * ECHO / math.sqrt(self._head_size / 2)

    def _orthonormal(self, name: str, rows: int, columns: int) -> torch.Tensor:
        """Random orthonormal rows [rows, columns] that leave out the shared coordinate."""
        rng = fim.keyed_rng("copying", self.seed, name)
        drawn = torch.from_numpy(rng.standard_normal((columns, rows), dtype=np.float32))
        if columns == self.config.hidden_size:
            drawn[0] = 0
        return torch.linalg.qr(drawn).Q.T

    # ---- sizes -----------------------------------------------------------------------------------

    @property
    def _token_norm(self) -> float:
        """The norm of a drawn embedding. The shared coordinate is as large, so that each has half
        of what the norm before a layer lets through."""
        return self.config.initializer_range * math.sqrt(self.config.hidden_size)

    @property
    def _length(self) -> float:
        """The norm of queries and keys whose product is SHARPNESS; with normalized ones (Qwen3) it
        only has to outweigh the noise."""
        return math.sqrt(SHARPNESS * math.sqrt(self._head_size))

    @property
    def _head_size(self) -> int:
        size = getattr(self.config, "head_dim", None)
        return size or self.config.hidden_size // self.config.num_attention_heads

    @property
    def _heads_per_group(self) -> int:
        return self.config.num_attention_heads // self.config.num_key_value_heads

    @property
    def _context(self) -> int:
        return self.config.max_position_embeddings

    @property
    def _frequencies(self) -> torch.Tensor:
        """Radians a token of each rotary pair [D / 2], fastest first."""
        theta = self.config.rope_parameters["rope_theta"]
        pairs = torch.arange(self._head_size // 2)
        return theta ** (-2.0 * pairs / self._head_size)


def check_copy_heads(names: set[str], config: PretrainedConfig, num_heads: int) -> None:
    """Check that a model can have the heads. Args: names: of its parameters.

    Raises: Refusal when it has too few heads or layers, or another structure than Llama's.
    """
    needed = {EMBEDDING} | {ATTENTION.format(layer, p) for layer in (0, 1) for p in "qkvo"}
    theta = (getattr(config, "rope_parameters", None) or {}).get("rope_theta")
    if not needed <= names or theta is None or getattr(config, "partial_rotary_factor", 1.0) != 1:
        raise Refusal(
            f"copy_heads {num_heads} is not known for model type {config.model_type}: it needs two "
            "layers with q_proj, k_proj, v_proj, o_proj and rotary positions, as Llama, Mistral "
            "and Qwen have; give --copy_heads 0."
        )
    if num_heads > config.num_key_value_heads:
        raise Refusal(
            f"copy_heads {num_heads} is more than the model's {config.num_key_value_heads} "
            f"key-value heads; give --copy_heads {config.num_key_value_heads} or less."
        )
