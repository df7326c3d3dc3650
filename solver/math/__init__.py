"""The domain of GSM8K: problems, answers, the calculator, and a model that writes solutions."""
