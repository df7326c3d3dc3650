"""Makes transformers know models with cell positions. Importing this module registers the type with its Auto classes.

This package needs it only where transformers works on such a model itself: to pack the weights in 4 bits, for example. Programs
that use transformers import it before they load the folder of such a model:

    import solver.model.transformers_registration
    model = AutoModelForCausalLM.from_pretrained(folder)
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedModel, Qwen3Config
from transformers.modeling_outputs import CausalLMOutputWithPast

from solver.model.cell_config import CellDecoderConfig
from solver.model.cell_decoder import CellDecoder, CellRotary, DecoderLayer, KeyValueCache, kept_logits
from solver.model.folder import CELL_DECODER


class TransformersCellConfig(Qwen3Config):
    """The entries of `CellDecoderConfig`, which are those of Qwen3 and three more."""

    model_type = CELL_DECODER


class TransformersCellDecoder(PreTrainedModel, GenerationMixin):
    """Token ids -> logits of the next token: the modules of `model.cell_decoder` as a model of transformers."""

    config_class = TransformersCellConfig
    base_model_prefix = "decoder"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = [DecoderLayer.__name__]  # noqa: RUF012  # as transformers declares it
    _tied_weights_keys = {"lm_head.weight": "decoder.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: TransformersCellConfig) -> None:
        super().__init__(config)
        self.decoder = CellDecoder(CellDecoderConfig.from_dict(config.to_dict()))
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CellRotary):
            module.reset()

    def get_decoder(self) -> CellDecoder:
        """The model without its head."""
        return self.decoder

    def get_input_embeddings(self) -> nn.Embedding:
        """The embedding."""
        return self.decoder.embed_tokens

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        cache: KeyValueCache | None = None,
        logits_to_keep: int | Tensor = 0,
        labels: Tensor | None = None,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (rows, kept, vocabulary), see `CellDecoderForCausalLM`, and for `labels` (rows, tokens) the mean loss.

        What else transformers passes on is of no use here.
        """
        logits = kept_logits(self, input_ids, position_ids, cache, logits_to_keep)
        loss = None if labels is None else self.loss_function(logits, labels, vocab_size=self.config.vocab_size)
        return CausalLMOutputWithPast(loss=loss, logits=logits)

    def prepare_inputs_for_generation(self, input_ids: Tensor, **_: Any) -> dict[str, Any]:
        """For `generate`, which reads the whole sequence again for every token."""
        return {"input_ids": input_ids}


AutoConfig.register(CELL_DECODER, TransformersCellConfig)
AutoModelForCausalLM.register(TransformersCellConfig, TransformersCellDecoder)
