"""How fast gatewise is here, beside its peers, measured in one run: what ``gatewise bench`` does."""
