"""The configuration of base models with cell positions, as their config.json holds it. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from solver.model.folder import CELL_DECODER

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


@dataclass(frozen=True, kw_only=True)
class CellDecoderConfig:
    """Sizes and token ids. The names are those of Qwen3 configurations in Hugging Face format, and three more:

    `rotary_axes`: the numbers of pairs for grid, row and column. `marker_ids`: the ids of `<input>` and `<output>`.
    `separator_id`: the id of `<newline>`. `rope_theta` is the base of the rotary frequencies; config.json has it in
    `rope_parameters`. Raises ValueError if the rotary axes do not add up to half of a head.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rotary_axes: tuple[int, int, int]
    marker_ids: tuple[int, int]
    separator_id: int
    rope_theta: float = ROTARY_BASE
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    attention_dropout: float = 0.0
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None

    model_type: ClassVar[str] = CELL_DECODER
    hidden_act: ClassVar[str] = "silu"

    def __post_init__(self) -> None:
        if 2 * sum(self.rotary_axes) != self.head_dim:
            raise ValueError(f"rotary_axes {list(self.rotary_axes)} do not add up to half of the head size {self.head_dim}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The configuration in the content of a config.json. Raises ValueError if an entry is missing or not supported."""
        if values.get("hidden_act", cls.hidden_act) != cls.hidden_act:
            raise ValueError(f"hidden_act = {values['hidden_act']} is not supported in a {CELL_DECODER}, only {cls.hidden_act}")
        if values.get("attention_bias"):
            raise ValueError(f"attention_bias is not supported in a {CELL_DECODER}")
        if values.get("use_sliding_window") or set(values.get("layer_types") or ()) - {"full_attention"}:
            raise ValueError(f"only full attention is supported in a {CELL_DECODER}")
        given = {field.name: values[field.name] for field in fields(cls) if values.get(field.name) is not None}
        for name in ("rotary_axes", "marker_ids"):
            if name in given:
                given[name] = tuple(given[name])
        rope = values.get("rope_parameters")
        if isinstance(rope, Mapping) and "rope_theta" in rope:
            given["rope_theta"] = float(rope["rope_theta"])
        try:
            return cls(**given)
        except TypeError as error:  # names the entries that are missing
            raise ValueError(str(error).partition("() ")[2] or str(error)) from None

    def to_dict(self) -> dict[str, Any]:
        """The entries of config.json, as transformers writes them for a Qwen3 configuration."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        theta = values.pop("rope_theta")
        return {
            **_FIXED,
            **values,
            "model_type": self.model_type,
            "rotary_axes": list(self.rotary_axes),
            "marker_ids": list(self.marker_ids),
            "rope_parameters": {"rope_type": "default", "rope_theta": theta},
            "layer_types": ["full_attention"] * self.num_hidden_layers,
        }

    def to_diff_dict(self) -> dict[str, Any]:
        """The same: no entry is left out because it has a usual value."""
        return self.to_dict()

    def get_text_config(self) -> Self:
        """The part that describes the language model: all of it."""
        return self


# entries of config.json that have one value in all models of this kind
_FIXED: Mapping[str, Any] = {
    "attention_bias": False,
    "hidden_act": CellDecoderConfig.hidden_act,
    "max_window_layers": 28,
    "sliding_window": None,
    "use_cache": False,
    "use_sliding_window": False,
}
