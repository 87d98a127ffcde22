"""Reports: self-contained HTML pages with scores, pictures and facts about a model."""
