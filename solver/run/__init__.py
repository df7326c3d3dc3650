"""A run: supervisor, worker, ledger, executors."""
