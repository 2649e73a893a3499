"""Proof that a run survives and repeats: two runs side by side, the kill soak, and training again from a manifest."""
