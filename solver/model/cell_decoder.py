"""The architecture of this package's base models: Qwen3's layers, with rotary embeddings by the cell that a token is in.

Its config.json says `model_type: cell_decoder`, and its weights have other names than Qwen3's (`decoder.layers...`). So a program
that only knows Qwen3 refuses the folder instead of rotating by the index in the sequence. Importing this module registers the
type with the Auto classes of transformers.

The rotary embedding: a head has pairs of dimensions (i, i + half). The first pairs turn by the grid, the next by the row, the
last by the column. The k-th of the n pairs of an axis turns by the angle position * base^(-k / n). Nothing depends on the length
of the sequence. Source: rotary embeddings (Su et al. 2021), section 3.2, applied once for each axis.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, Qwen3Config
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3PreTrainedModel, Qwen3RMSNorm

from solver.model.folder import CELL_DECODER
from solver.model.positions import from_start, positions_of

ROTARY_BASE = 100.0
_EIGHTHS = (2, 3, 3)  # of the pairs of a head, for grid, row and column


def rotary_axes(head_size: int) -> tuple[int, int, int]:
    """How many pairs of dimensions of a head turn by grid, row and column. Raises ValueError if the size cannot be split."""
    if head_size <= 0 or head_size % 16:
        raise ValueError(
            f"heads of size {head_size} cannot be split among grid, row and column: the size must be a multiple of 16"
        )
    eighth = head_size // 16
    grid, row, column = (share * eighth for share in _EIGHTHS)
    return grid, row, column


class CellDecoderConfig(Qwen3Config):
    """A Qwen3 configuration with three more entries.

    `rotary_axes`: the numbers of pairs for grid, row and column. `marker_ids`: the ids of `<input>` and `<output>`.
    `separator_id`: the id of `<newline>`. `rope_parameters.rope_theta` is the base of the frequencies.
    """

    model_type = CELL_DECODER


class CellRotary(nn.Module):
    """The cos and sin by which every pair of dimensions turns, from the position of a token."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self._axes, self._base = tuple(config.rotary_axes), float(config.rope_parameters["rope_theta"])
        # whole numbers, because frequencies would be rounded when the model is converted to 16 bits
        self.pairs = nn.Buffer(torch.empty(3, sum(self._axes), dtype=torch.long), persistent=False)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Fill the buffer, which is in no file: for each pair its axis, its index among the pairs of that axis, their number."""
        pairs = [(axis, place, count) for axis, count in enumerate(self._axes) for place in range(count)]
        self.pairs.copy_(torch.tensor(pairs, device="cpu").T)  # "cpu": the default device may be "meta" while a model is built

    @torch.no_grad()
    def forward(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin (rows, tokens, head size) in the dtype of `x`, for `positions` (rows, tokens, 3).

        The angles are elementwise products, which autocast leaves in fp32. It would round a matrix product to bf16.
        """
        axis, place, count = self.pairs
        frequency = torch.pow(self._base, -(place.double() / count)).float()
        angles = positions[..., axis].float() * frequency
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        return torch.cat([cos, cos], -1), torch.cat([sin, sin], -1)


class CellDecoderPreTrainedModel(Qwen3PreTrainedModel):
    """What transformers requires of every model."""

    config_class = CellDecoderConfig
    base_model_prefix = "decoder"

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CellRotary):
            module.reset()


class CellDecoder(CellDecoderPreTrainedModel):
    """Token ids -> final states."""

    def __init__(self, config: CellDecoderConfig) -> None:
        super().__init__(config)
        if 2 * sum(config.rotary_axes) != config.head_dim:
            raise ValueError(f"rotary_axes {config.rotary_axes} do not add up to half of the head size {config.head_dim}")
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList([Qwen3DecoderLayer(config, layer) for layer in range(config.num_hidden_layers)])
        self.norm = Qwen3RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = CellRotary(config)
        self.positions = positions_of(config)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Final states of `input_ids` (rows, tokens). Attention is causal without a mask, so padding must be on the right.

        `position_ids` (rows, tokens, 3) are needed if `past_key_values` holds earlier tokens. Otherwise they follow from the ids.
        """
        if position_ids is None:
            if past_key_values is not None:
                raise ValueError("tokens that continue a cache need their positions (position_ids)")
            position_ids = from_start(self.positions, input_ids)
        if self.config._attn_implementation == "eager":
            raise ValueError("eager attention is causal only with a mask, and this model passes none: use sdpa")
        x = self.embed_tokens(input_ids)
        rotation = self.rotary_emb(x, position_ids)
        kwargs.pop("attention_mask", None)
        for layer in self.layers:
            x = layer(
                x,
                attention_mask=None,
                position_embeddings=rotation,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **kwargs,
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(x), past_key_values=past_key_values)


class CellDecoderForCausalLM(CellDecoderPreTrainedModel, GenerationMixin):
    """Token ids -> logits of the next token."""

    _tied_weights_keys = {"lm_head.weight": "decoder.embed_tokens.weight"}  # noqa: RUF012  # as transformers declares it

    def __init__(self, config: CellDecoderConfig) -> None:
        super().__init__(config)
        self.decoder = CellDecoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_decoder(self) -> CellDecoder:
        """The model without its head."""
        return self.decoder

    def forward(
        self, input_ids: Tensor, position_ids: Tensor | None = None, logits_to_keep: int | Tensor = 0, **kwargs: Any
    ) -> CausalLMOutputWithPast:
        """Logits (rows, kept, vocabulary) of the last `logits_to_keep` tokens (0: all), or of the indices that it holds."""
        out = self.decoder(input_ids=input_ids, position_ids=position_ids, **kwargs)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return CausalLMOutputWithPast(logits=self.lm_head(out.last_hidden_state[:, kept]), past_key_values=out.past_key_values)

    def prepare_inputs_for_generation(self, input_ids: Tensor, **_: Any) -> dict[str, Any]:
        """For `generate` of transformers, which reads the whole sequence again for every token."""
        return {"input_ids": input_ids}


AutoConfig.register(CELL_DECODER, CellDecoderConfig)
AutoModelForCausalLM.register(CellDecoderConfig, CellDecoderForCausalLM)
