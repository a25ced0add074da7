"""Losses side by side: the same data, encoders and budgets, paired seeds, and what follows."""
