"""Base models: loading and conversion, the architecture with cell positions, LoRA layers, memory plans, the models that ship."""
