"""What language models as recommenders are made of: loading, prompts, scoring, tuning."""
