"""Gers, Schmidhuber & Cummins 2000, "Learning to Forget: Continual Prediction with LSTM", Neural
Computation 12(10), section 4: the continual embedded Reber grammar, its networks and table 2."""
