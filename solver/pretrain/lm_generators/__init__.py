"""Task generators written by a language model: it is shown some of ours, and what it writes runs in a sandbox and is filtered."""
