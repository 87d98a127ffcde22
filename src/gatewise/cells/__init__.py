"""The mathematics: what a cell is, its gradient, and the catalogue of built-in cells."""
