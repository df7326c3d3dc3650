"""Base models: loading by path, the embedded default and its card."""
