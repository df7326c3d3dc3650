"""The supervisor's process: the state machine of a run, its ledger, its submission, and who executes its work. Never torch."""
