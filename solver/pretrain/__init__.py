"""Pre-training: corpora, and the loop that makes, continues or fine-tunes a base model."""
