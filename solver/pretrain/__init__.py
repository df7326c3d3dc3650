"""Making and continuing the base model."""
