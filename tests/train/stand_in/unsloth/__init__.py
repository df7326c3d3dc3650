"""Takes the place of unsloth in a process without a CUDA device: peft and reentrant checkpointing, behind the same calls."""

from __future__ import annotations

import os
import sys
from typing import Any

if "transformers" in sys.modules:
    raise ImportError("imported after transformers")
for switch in ("UNSLOTH_DISABLE_STATISTICS", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "UNSLOTH_COMPILE_LOCATION"):
    if not os.environ.get(switch):
        raise ImportError(f"{switch} is not set")

SHORTER = int(os.environ.get("STAND_IN_LIMIT", "0"))  # what the model is cut to, if not to what is asked for


class FastLanguageModel:
    @staticmethod
    def from_pretrained(model_name: str, max_seq_length: int, dtype: Any, tokenizer_name: str, **rest: Any) -> Any:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(tokenizer_name, local_files_only=True)
        assert tokenizer.pad_token_id != tokenizer.eos_token_id
        model = AutoModelForCausalLM.from_pretrained(model_name, dtype=dtype, local_files_only=rest["local_files_only"])
        for module in model.modules():
            module.max_seq_length = SHORTER or max_seq_length
        return model, tokenizer

    @staticmethod
    def get_peft_model(model: Any, use_gradient_checkpointing: Any, random_state: int, **arguments: Any) -> Any:
        import torch
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(random_state)
        wrapped: Any = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **arguments))
        if use_gradient_checkpointing == "unsloth":
            wrapped.gradient_checkpointing_enable({"use_reentrant": True})
            wrapped.enable_input_require_grads()
        return wrapped

    @staticmethod
    def for_training(model: Any, use_gradient_checkpointing: Any) -> Any:
        return model.train()
